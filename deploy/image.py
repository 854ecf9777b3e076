"""Build the image and render a job in it: without root, its root file system read-only, on a store of this machine.

    python deploy/image.py [--debian] [--build-arg BASE=… and whatever else `podman build` takes]

With `--debian` the base is made by debootstrap, which needs root and no registry of images; it trusts whom this machine
trusts. PODMAN_FLAGS are for podman itself, RUN_FLAGS for `podman run`.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from avatar.local import embedded_store

ROOT = Path(__file__).resolve().parents[1]
PODMAN = ["podman", *os.environ.get("PODMAN_FLAGS", "").split()]
NAME, DEBIAN = "localhost/avatar-flows", "localhost/debian-python"
#: Open files, and processes, of a build and of a job.
ENOUGH = 16384
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
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
    flags = sys.argv[1:]
    if "--debian" in flags:
        flags.remove("--debian")
        make_debian()
        flags += ["--build-arg", f"BASE={DEBIAN}"]
    podman("build", "-f", "deploy/Containerfile", "-t", NAME, *own_limits(), *flags, ".")
    podman("images", NAME)
    with tempfile.TemporaryDirectory() as folder:
        store = embedded_store.start(Path(folder) / "store")
        try:
            podman("run", *run_flags(store), NAME, *JOB)
        finally:
            embedded_store.stop(store)
    return 0


def podman(*arguments: str) -> None:
    subprocess.run([*PODMAN, *arguments], cwd=ROOT, check=True)  # noqa: S603 - what is given here, and to this script


def make_debian() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, packed = Path(folder) / "root", Path(folder) / "root.tar"
        packages = "--include=python3,python3-venv,ca-certificates"
        subprocess.run(["debootstrap", "--variant=minbase", packages, "bookworm", root], check=True)  # noqa: S603, S607
        if CERTIFICATES.exists():
            shutil.copyfile(CERTIFICATES, root / CERTIFICATES.relative_to("/"))
        subprocess.run(["tar", "--create", "--directory", root, "--file", packed, "."], check=True)  # noqa: S603, S607
        podman("import", str(packed), DEBIAN)


def own_limits() -> list[str]:
    """Enough, and no more than this process has: podman's defaults may be more than a machine grants, and are refused then."""
    hard = {
        "nofile": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        "nproc": resource.getrlimit(resource.RLIMIT_NPROC)[1],
    }
    most = {
        name: ENOUGH if limit == resource.RLIM_INFINITY else min(limit, ENOUGH)
        for name, limit in hard.items()
    }
    return [flag for name, limit in most.items() for flag in ("--ulimit", f"{name}={limit}:{limit}")]


def run_flags(store: embedded_store.EmbeddedStore) -> list[str]:
    """The host's network, since the store listens on its loopback; the keys by name, so that no list of processes has them."""
    settings = embedded_store.settings_for(store, "avatar")
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
    return [*fixed, *own_limits(), *named, *plain, *os.environ.get("RUN_FLAGS", "").split()]


if __name__ == "__main__":
    sys.exit(main())
