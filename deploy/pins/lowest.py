"""`make lowest`: jobs, forms and what is asked of the API, on the lowest Prefect that is supported.

All other packages are those of requirements.txt: it lies in a folder of its own, before them.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "out" / "lowest"
INSTALL = "-m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --upgrade".split()  # noqa: SIM905
TESTS = ("flows/test_generate", "flows/test_context", "local/test_prefect_client", "test_forms")


def main() -> int:
    pins = ROOT / "deploy" / "pins" / "lowest.txt"
    run(*INSTALL, "--target", str(FOLDER), "-r", str(pins))
    run("-c", "import prefect; print('Prefect', prefect.__version__, 'in', prefect.__file__)")
    return run("-m", "pytest", "-q", *(f"tests/{name}.py" for name in TESTS), check=False)


def run(*arguments: str, check: bool = True) -> int:
    environment = os.environ | {"PYTHONPATH": str(FOLDER)}
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, check=check)  # noqa: S603 - ours
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
