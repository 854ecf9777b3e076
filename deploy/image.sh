#!/usr/bin/env bash
# Build the image and render a job in it, without root and with a read-only root file system. Needs podman.
#   deploy/image.sh [--build-arg BASE=… and whatever else `podman build` takes]
# RUN_FLAGS are for `podman run`, GLOBAL_FLAGS for podman itself.
set -euo pipefail
cd "$(dirname "$0")/.."
read -ra global <<< "${GLOBAL_FLAGS:-}"
read -ra run <<< "${RUN_FLAGS:-}"
podman "${global[@]}" build -f deploy/Containerfile -t localhost/avatar-flows "$@" .
podman "${global[@]}" images localhost/avatar-flows
podman "${global[@]}" run --rm --read-only --tmpfs /tmp -v "$PWD/examples:/examples:ro" "${run[@]}" localhost/avatar-flows \
  avatar generate /examples/portrait.png /examples/speech.mp3 --provider preview --json
