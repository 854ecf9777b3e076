"""The layers: plain modules know nothing of Prefect, tasks know nothing of flows, --help loads nothing heavy."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PLACES = ("providers", "media", "storage", "renders", "jobs", "batches", "inbox", "retention")
MODULES = [path.relative_to(ROOT) for place in PLACES for path in (ROOT / "tasks" / place).glob("*.py")]
PLAIN = [
    *sorted(
        ".".join(path.with_suffix("").parts) for path in MODULES if path.stem not in {"__init__", "__main__"}
    ),
    *("tasks.forms", "tasks.models", "tasks.errors", "tasks.settings", "tasks.progress", "tasks.workspace"),
]
TASKS = sorted(f"tasks.{path.stem}" for path in (ROOT / "tasks").glob("*.py") if path.stem != "__init__")


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)


def test_plain_modules_work_where_prefect_is_not_installed():
    """Every plain module imports with Prefect blocked."""
    code = f"import sys, importlib; sys.modules['prefect'] = None\nfor name in {PLAIN!r}: importlib.import_module(name)"
    result = run_python(code)
    assert result.returncode == 0, result.stderr


def test_tasks_do_not_know_flows():
    """Every task file imports with the flows blocked."""
    code = f"import sys, importlib; sys.modules['flows'] = None\nfor name in {TASKS!r}: importlib.import_module(name)"
    result = run_python(code)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("heavy", ["prefect", "pydantic", "httpx", "av", "numpy", "rich", "minio"])
def test_help_loads_nothing_heavy(heavy):
    """`avatar --help` answers at once, because it imports none of the libraries."""
    code = (
        f"import sys; sys.modules[{heavy!r}] = None\nfrom flows.__main__ import main\n"
        "try: main(['--help'])\nexcept SystemExit as end: sys.exit(end.code)"
    )
    result = run_python(code)
    assert result.returncode == 0, result.stderr
    assert "generate" in result.stdout
