"""A process that has imported everything once and forks an `avatar` for each line it reads.

Starting Python and Prefect takes seconds of CPU; a fork takes milliseconds, and is as much a process of its own:
it is killed with SIGKILL, and nothing of it is shared with the next.

    {"argv": [...], "env": {...}, "folder": "...", "skew": 0.0, "host": "", "mutate": ""}

is answered with the child's pid. The child leaves `stdout`, `stderr` and, unless killed, `exit` in its folder.
"""

import gc
import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

#: What a run imports late, where it is used; imported here once for all.
LATE = (
    "avatar.commands.main", "avatar.commands.generate", "avatar.commands.status", "flows.generate", "avatar.local",
    "flows.upkeep", "minio", "prefect.main", "prefect.server.schemas", "tasks.artifacts", "avatar.media.decoder_calls",
    "avatar.providers.fal", "avatar.providers.pixazo", "avatar.workspace",
)  # fmt: skip


def main() -> None:
    for name in LATE:
        __import__(name)
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are reaped by the system
    print("ready", flush=True)
    for line in iter(sys.stdin.readline, ""):
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            become(order)
        print(pid, flush=True)


def become(order: dict[str, Any]) -> NoReturn:
    """Turn this fork into `avatar ARGV`."""
    code = 70
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        redirect(Path(order["folder"]))
        os.environ.update(order["env"])
        random.seed()
        disguise(order)
        code = run(order["argv"])
        sys.stdout.flush()
        sys.stderr.flush()
        Path(order["folder"], "exit").write_text(str(code))
    finally:
        os._exit(code)


def redirect(folder: Path) -> None:
    for name, descriptor in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        opened = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    # The parent's streams may hold what it has not read yet.
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode) for number, mode in ((0, "r"), (1, "w"), (2, "w"))
    )


def disguise(order: dict[str, Any]) -> None:
    from tests.chaos import disguises

    if order.get("skew"):
        disguises.skew_clock(order["skew"])
    if order.get("host"):
        disguises.rename_host(order["host"])
    if order.get("mutate"):
        disguises.MUTATIONS[order["mutate"]]()


def run(argv: list[str]) -> int:
    from avatar.commands.main import main as avatar

    try:
        return avatar(argv)
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:  # noqa: BLE001 - what it died of belongs in its stderr
        import traceback

        traceback.print_exc()
        return 70


if __name__ == "__main__":
    main()
