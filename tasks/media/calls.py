"""Calls of functions, and their answers, as JSON: what passes between us and the process that decodes.

Everything is validated against the function's own annotations on arrival, so that a decoder gone astray can answer
nothing but what the function may return.
"""

import dataclasses
import errno
import importlib
import inspect
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import BaseModel, TypeAdapter

from tasks import errors
from tasks.errors import AvatarError
from tasks.media.bounds import Bounds

__all__ = ["Call", "Fault", "answer", "read_answer"]

#: Troubles of the machine, which say nothing about the file.
OURS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
}


#: Of a library's own words, no more than this is repeated.
WORDS = 200


class Fault(Exception):
    """The work failed in a way its function does not name; the text tells how."""


@lru_cache(maxsize=64)
def _adapters(function: Callable[..., Any]) -> dict[str, TypeAdapter[Any]]:
    return {name: TypeAdapter(hint) for name, hint in get_type_hints(function).items()}


@dataclass(frozen=True)
class Call:
    """A function and its arguments by name."""

    function: Callable[..., Any]
    arguments: dict[str, Any]

    @classmethod
    def of(cls, function: Callable[..., Any], *args: Any, **named: Any) -> "Call":
        return cls(function, dict(inspect.signature(function).bind(*args, **named).arguments))

    @property
    def files(self) -> list[Path]:
        """Every path among the arguments, in order."""
        return list(_paths(self.arguments.values()))

    def pack(self, bounds: Bounds) -> bytes:
        packed = {
            "function": [self.function.__module__, self.function.__qualname__],
            "bounds": dataclasses.asdict(bounds),
            "folder": str(Path.cwd()),
            "arguments": self.arguments,
        }
        return _write(packed)

    @classmethod
    def unpack(cls, packed: bytes) -> "Call":
        """Read a call, be in its folder and within its bounds from now on."""
        given = json.loads(packed)
        module, name = given["function"]
        function = getattr(importlib.import_module(module), name).__wrapped__
        os.chdir(given["folder"])
        Bounds(**given["bounds"]).apply()
        adapters = _adapters(function)
        arguments = {
            name: adapters[name].validate_python(value) for name, value in given["arguments"].items()
        }
        return cls(function, arguments)

    def make(self) -> Any:
        return self.function(**self.arguments)


def _write(value: dict[str, Any]) -> bytes:
    return json.dumps(value, default=_plain).encode()


def _plain(value: Any) -> Any:
    """What JSON has no form for. Floats are written so that they come back the same, NaN included."""
    if dataclasses.is_dataclass(value):
        return vars(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, (Path, Fraction)):
        return str(value)
    raise TypeError(f"{type(value).__name__} does not pass between processes")


def _paths(values: Any) -> Iterator[Path]:
    for value in values:
        if isinstance(value, Path):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _paths(value)
        elif dataclasses.is_dataclass(value):
            yield from _paths(vars(value).values())


def answer(packed: bytes) -> tuple[bytes, bool]:
    """Carry out a call and tell how it ended, and whether this process is fit for another. Never raises."""
    try:
        return _write({"result": Call.unpack(packed).make()}), True
    except AvatarError as error:
        return _write({"error": [type(error).__name__, error.message, error.hint]}), True
    except MemoryError:
        return _write({"fault": "it needs more than 1 GiB of memory"}), False
    except Exception as error:  # noqa: BLE001 - whatever a hostile file makes a decoder raise
        return _write(_fault(error)), True


def _fault(error: Exception) -> dict[str, Any]:
    number = getattr(error, "errno", None)
    if isinstance(error, OSError) and number in OURS:
        return {"machine": [number, str(error.strerror)]}
    if number == errno.EFBIG:
        return {"fault": "it would be too large on disk"}
    # FFmpeg's own words come with numbers and paths of this machine around them.
    text = str(getattr(error, "strerror", None) or error)
    words = "".join(letter if letter.isprintable() else " " for letter in text)
    return {"fault": f"{type(error).__name__}: {words[:WORDS]}"}


def read_answer(function: Callable[..., Any], packed: bytes) -> Any:
    """What the call returned, or raise what it raised.

    Raises:
        AvatarError: as the function raised it.
        OSError: this machine failed, and the file is not to blame.
        Fault: it failed in any other way.
    """
    try:
        told = json.loads(packed)
        if "result" in told:
            return _adapters(function)["return"].validate_python(told["result"])
    except ValueError as error:
        raise Fault("its decoder gave no sensible answer") from error
    if "error" in told:
        kind, message, hint = told["error"]
        raise getattr(errors, kind)(message, hint=hint)
    if "machine" in told:
        raise OSError(*told["machine"])
    raise Fault(str(told["fault"]))
