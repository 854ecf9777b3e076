"""The layers: the library knows nothing of Prefect, tasks know nothing of flows, --help loads nothing heavy."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIBRARY = sorted(path for path in (ROOT / "avatar").rglob("*.py") if path.stem != "__main__")


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)


def test_the_library_works_where_prefect_is_not_installed():
    """Every module of `avatar` imports with Prefect, tasks and flows blocked."""
    names = [name_of(path) for path in LIBRARY]
    code = (
        "import sys, importlib\n"
        "for name in ('prefect', 'tasks', 'flows'): sys.modules[name] = None\n"
        f"for name in {names!r}: importlib.import_module(name)"
    )
    result = run_python(code)
    assert result.returncode == 0, result.stderr


def test_only_the_process_that_decodes_loads_decoders():
    """All but `avatar/media`, what is asked of that, and what runs begin with: imported with FFmpeg, Pillow and numpy blocked."""
    outside = [path for path in LIBRARY if path.parent.name != "media"]
    outside += [*(ROOT / "flows").glob("*.py"), *(ROOT / "tasks").glob("*.py")]
    names = ["avatar.media.decoder_calls", *(name_of(path) for path in sorted(outside))]
    code = (
        "import sys, importlib\n"
        "for name in ('av', 'numpy', 'PIL'): sys.modules[name] = None\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "from flows.fork_server import MODULES\n"
        "for name in MODULES: importlib.import_module(name)"
    )
    result = run_python(code)
    assert result.returncode == 0, result.stderr


def test_tasks_do_not_know_flows():
    """No task file imports a flow, at its head or later."""
    for path in sorted((ROOT / "tasks").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            named = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            named += [each.name for each in node.names] if isinstance(node, ast.Import) else []
            assert "flows" not in {name.split(".")[0] for name in named}, f"{path.name}:{node.lineno}"


def room_of(name: str) -> str:
    """The folder of `avatar` that a module lies in, or the module itself where it lies in none."""
    return ".".join(name.split(".")[:2])


def arrows() -> dict[str, set[str]]:
    """Room to the rooms it imports when it is imported."""
    found: dict[str, set[str]] = {}
    for path in LIBRARY:
        room = room_of(name_of(path))
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("avatar."):
                found.setdefault(room, set()).add(room_of(node.module))
        found.setdefault(room, set()).discard(room)
    found.pop("avatar", None)
    return found


def test_no_circle_between_rooms():
    """The rooms of the library can be put in an order in which each knows only those before it."""
    TopologicalSorter(arrows()).prepare()


@pytest.mark.parametrize("heavy", ["prefect", "pydantic", "httpx", "av", "numpy", "rich", "minio"])
def test_help_loads_nothing_heavy(heavy):
    """`avatar --help` answers at once, because it imports none of the libraries."""
    code = (
        f"import sys; sys.modules[{heavy!r}] = None\nfrom avatar.commands.main import main\n"
        "try: main(['--help'])\nexcept SystemExit as end: sys.exit(end.code)"
    )
    result = run_python(code)
    assert result.returncode == 0, result.stderr
    assert "generate" in result.stdout
