"""What a hostile file can make of a decoder, acted out in the confined process."""

import ctypes
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

from avatar.errors import InvalidInput, VideoRejected
from avatar.media import confined as module
from avatar.media.confined import confined


@confined(InvalidInput)
def crash(path: Path) -> int:
    """As a decoder that writes where it must not."""
    return ctypes.string_at(0)[0]


@confined(VideoRejected)
def crash_on_video(path: Path) -> int:
    return ctypes.string_at(0)[0]


@confined(InvalidInput)
def crash_unless_new(path: Path) -> int:
    """A child that was harmed by an earlier file, and dies over an innocent one."""
    if path.exists():
        return 7
    path.touch()
    return ctypes.string_at(0)[0]


@confined(InvalidInput)
def spin(path: Path) -> None:
    while True:
        pass


@confined(InvalidInput)
def sleep(path: Path) -> None:
    time.sleep(600)


@confined(InvalidInput)
def hoard(path: Path) -> int:
    return sum(len(bytes(1 << 20)) for _ in [bytearray(100 << 20) for _ in range(12)])


@confined(InvalidInput)
def flood(path: Path) -> int:
    return path.write_bytes(bytes(96 << 20))


@confined(InvalidInput)
def stumble(path: Path) -> int:
    return 1 // len(b"")


@confined(InvalidInput)
def lie(path: Path) -> int:
    return "a decoder gone astray"  # type: ignore[return-value]


@confined(InvalidInput)
def run_out_of_disk(path: Path) -> int:
    raise OSError(28, "No space left on device")


@confined(InvalidInput)
def variables(path: Path) -> list[str]:
    return [f"{name}={value}" for name, value in os.environ.items()]


@confined(InvalidInput)
def attempt(path: Path, what: str) -> str:
    """How an attempt to reach out ends."""
    try:
        if what == "network":
            socket.create_connection(("127.0.0.1", 9)).close()
        elif what == "program":
            subprocess.run(["/bin/true"], check=True)
        else:
            return ",".join(_held())
    except OSError as error:
        return type(error).__name__
    return "done"


def _held() -> Iterator[str]:
    for name in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the listing's own
            yield str(name.readlink()).split(":")[0]


@confined(InvalidInput)
def who(path: Path) -> int:
    return os.getpid()


@confined(InvalidInput)
def wait_for(path: Path) -> int:
    """Busy until the file is there; its number is written beside it at once."""
    path.with_suffix(".pid").write_text(str(os.getpid()))
    while not path.exists():
        pass
    return os.getpid()


@confined(InvalidInput)
def echo(
    path: Path, numbers: tuple[float, ...], part: Fraction, *, folder: Path | None = None
) -> tuple[str, ...]:
    return (str(path), *map(repr, numbers), str(part), str(folder), str(Path.cwd()), str(module.__name__))
