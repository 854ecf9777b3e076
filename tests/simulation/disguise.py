"""What the product takes from the system, replaced: clocks, chance, and room on the disk.

Done once for the whole program. Whatever is asked then is answered by the schedule that runs (`take_the_stage`).
"""

import datetime as dt
import errno
import os
import random
import secrets
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.simulation.loop import VirtualLoop

#: True time at the beginning of a schedule, as seconds since 1970: it is set anew for each.
_EPOCH = [1_767_344_400.0]
_loop: list[VirtualLoop] = []
_disk_is_full: list[Callable[[], bool]] = [lambda: False]
#: Packages that are the product's.
OURS = ("avatar",)


def take_the_stage(loop: VirtualLoop, epoch: float, disk_is_full: Callable[[], bool]) -> None:
    """From now on this schedule's loop tells the time and throws the dice."""
    _loop[:], _EPOCH[:], _disk_is_full[:] = [loop], [epoch], [disk_is_full]


def wall() -> float:
    """The wall clock of the process that runs; true time where none does."""
    loop = _loop[0]
    return _EPOCH[0] + loop.now + (loop.current.skew if loop.current else 0.0)


def monotonic() -> float:
    return 1000.0 + _loop[0].time()


def _refuse(*_: Any) -> None:
    raise AssertionError("the product may not block")


class _DatetimeMeta(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, dt.datetime)


class _Datetime(dt.datetime, metaclass=_DatetimeMeta):
    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> Any:
        return dt.datetime.fromtimestamp(wall(), tz)


class Instead:
    """A module some of whose functions are ours."""

    def __init__(self, module: ModuleType, **functions: Any) -> None:
        self._module = module
        vars(self).update(functions)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _throw(name: str, *of: Any) -> Any:
    return getattr(_loop[0].random, name)(*of)


def _bits(count: int) -> int:
    return _loop[0].random.getrandbits(count)


class _Folder:
    """`tempfile.TemporaryDirectory`, on a disk that may be full."""

    def __init__(self, dir: Path | str | None = None, **_: Any) -> None:  # noqa: A002 - as in tempfile
        if _disk_is_full[0]():
            raise OSError(errno.ENOSPC, "No space left on device")
        self.name = f"{dir}/{_bits(64):x}"
        os.mkdir(self.name)  # noqa: PTH102 - a tenth of all work here was done by pathlib and shutil

    def __enter__(self) -> str:
        return self.name

    def __exit__(self, *_: object) -> None:
        self.cleanup()

    def cleanup(self) -> None:
        empty(self.name)
        with suppress(FileNotFoundError):
            os.rmdir(self.name)  # noqa: PTH106


def empty(folder: str) -> None:
    """Remove the files in a folder, if there is one."""
    with suppress(FileNotFoundError):
        for name in os.listdir(folder):  # noqa: PTH208
            os.unlink(f"{folder}/{name}")  # noqa: PTH108


_TEMPFILE = Instead(tempfile, TemporaryDirectory=_Folder)
_TIME = Instead(time, time=wall, monotonic=monotonic, perf_counter=monotonic, sleep=_refuse)
_RANDOM = Instead(
    random, **{name: partial(_throw, name) for name in ("uniform", "random", "randrange", "choice")}
)
_UUID = Instead(uuid, uuid4=lambda: uuid.UUID(int=_bits(128), version=4))
_SECRETS = Instead(
    secrets,
    token_hex=lambda count=32: f"{_bits(8 * count):0{2 * count}x}",
    token_bytes=lambda count=32: _bits(8 * count).to_bytes(count),
)
#: What is replaced wherever the product has it by name.
_INSTEAD: dict[int, Any] = {
    id(time): _TIME,
    id(random): _RANDOM,
    id(uuid): _UUID,
    id(secrets): _SECRETS,
    id(tempfile): _TEMPFILE,
    id(dt.datetime): _Datetime,
    id(time.time): wall,
    id(time.monotonic): monotonic,
}


def disguise_clocks() -> None:
    """Replace clocks and chance in every module of the product that is imported by now."""
    for module in our_modules():
        for name, value in list(vars(module).items()):
            if id(value) in _INSTEAD:
                setattr(module, name, _INSTEAD[id(value)])


def our_modules() -> Iterator[ModuleType]:
    for name, module in list(sys.modules.items()):
        if module is not None and name.split(".")[0] in OURS:
            yield module
