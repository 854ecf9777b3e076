"""Build the image and render a job in it: without root, its root file system read-only, on a store of this machine.

    python deploy/image.py [--build-arg BASE=… and whatever else `podman build` takes]

PODMAN_FLAGS are for podman itself, RUN_FLAGS for `podman run`.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from avatar.local import embedded

ROOT = Path(__file__).resolve().parents[1]
PODMAN = ["podman", *os.environ.get("PODMAN_FLAGS", "").split()]
NAME = "localhost/avatar-flows"
JOB = [
    "avatar",
    "generate",
    "/examples/portrait.png",
    "/examples/speech.mp3",
    "--provider",
    "preview",
    "--json",
]


def main() -> int:
    podman("build", "-f", "deploy/Containerfile", "-t", NAME, *sys.argv[1:], ".")
    podman("images", NAME)
    with tempfile.TemporaryDirectory() as folder:
        store = embedded.start(Path(folder) / "store")
        try:
            podman("run", *run_flags(store), NAME, *JOB)
        finally:
            embedded.stop(store)
    return 0


def podman(*arguments: str) -> None:
    subprocess.run([*PODMAN, *arguments], cwd=ROOT, check=True)  # noqa: S603 - what is given here, and to this script


def run_flags(store: embedded.EmbeddedStore) -> list[str]:
    """The host's network, since the store listens on its loopback; the keys by name, so that no list of processes has them."""
    settings = embedded.settings_for(store, "avatar")
    keys = {"ACCESS_KEY": settings.access_key, "SECRET_KEY": settings.secret_key}
    os.environ |= {f"AVATAR_STORE__{name}": key.get_secret_value() for name, key in keys.items() if key}
    named = [flag for name in keys for flag in ("-e", f"AVATAR_STORE__{name}")]
    plain = ["-e", f"AVATAR_STORE__ENDPOINT={settings.endpoint}", "-e", "AVATAR_STORE__SECURE=false"]
    fixed = [
        "--rm",
        "--read-only",
        "--tmpfs",
        "/tmp",  # noqa: S108 - in the container
        "--network",
        "host",
        "-v",
        f"{ROOT}/examples:/examples:ro",
    ]
    return [*fixed, *named, *plain, *os.environ.get("RUN_FLAGS", "").split()]


if __name__ == "__main__":
    sys.exit(main())
