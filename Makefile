# The first of these that is Python 3.11 or later; `make PYTHON=/path/to/python` names another.
PYTHON ?= python3
CANDIDATES := $(PYTHON) python3.13 python3.12 python3.11
IS_NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
BIN := .venv/bin
SCHEDULES ?= 20000

.PHONY: help demo up test unit lint format types audit bench chaos simulate cluster lowest image clean

help:  ## show this
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' $(MAKEFILE_LIST)

demo: .venv/.ready  ## render the examples with the free preview, into out/demo.mp4
	$(BIN)/avatar generate examples/portrait.png examples/speech.mp3 --provider preview --out out/demo.mp4
	@echo "The video is $(CURDIR)/out/demo.mp4"

up: .venv/.ready  ## store, Prefect server and worker on this machine; Ctrl-C stops all
	$(BIN)/avatar up

test: .venv/.ready  ## every test
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

unit: .venv/.ready  ## the quick tests, which start no server of any kind
	$(BIN)/python -m pytest -m "not server and not browser and not backends and not parts"

lint: .venv/.ready  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/.ready  ## let ruff format and fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: .venv/.ready  ## mypy, strict
	$(BIN)/mypy

audit: .venv/.ready  ## known vulnerabilities in what is pinned, where the database can be reached
	$(BIN)/python deploy/pins/audit.py

bench: .venv/.ready  ## time, work and memory, measured beside the fal client
	$(BIN)/python -m benchmarks

chaos: .venv/.ready  ## kill it at random and count what was paid twice or lost
	$(BIN)/python -m tests.chaos

cluster: .venv/.ready  ## PostgreSQL, Redis, two API servers and three workers, with faults; needs them installed
	$(BIN)/python -m tests.cluster

lowest: .venv/.ready  ## tests of jobs on the lowest Prefect that is supported
	$(BIN)/python deploy/pins/lowest.py

image: .venv/.ready  ## build the image of deploy/Containerfile and render a job in it; needs podman
	$(BIN)/python deploy/image.py $(IMAGE_FLAGS)

simulate: .venv/.ready  ## the money rules under SCHEDULES simulated schedules of faults, deaths and sleeps
	$(BIN)/python -m tests.simulation --schedules $(SCHEDULES) --abreast 2

clean:  ## remove what was built, keep .venv and everything rendered
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find avatar flows tasks tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.ready: requirements.txt pyproject.toml
	@for python in $(CANDIDATES); do \
	  if $$python -c '$(IS_NEW_ENOUGH)' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "avatar-flows needs Python 3.11 or later; none of these is: $(CANDIDATES). Name one: make PYTHON=..." >&2; \
	  exit 1; \
	fi; \
	$$found -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
