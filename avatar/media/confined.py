"""Decoding what others made, where it can do no harm: in a child process without network, secrets or much memory.

A function that opens foreign media is marked `@confined(...)`. Called, it runs in a child; a decoder that crashes,
hangs or asks for too much ends with that child, and its caller gets the error named in the mark. Children are kept
and used again, since starting one takes 0.2 s and asking one less than a millisecond.
"""

import dataclasses
import errno
import functools
import importlib
import inspect
import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, get_type_hints

from pydantic import BaseModel, TypeAdapter

from avatar import errors
from avatar.errors import AvatarError, InvalidInput
from avatar.media.decoder_limits import Bounds, bounds_for
from avatar.media.decoder_pool import Children

# Calls of functions, and their answers, as JSON: what passes between us and the process that decodes.
#
# Everything is validated against the function's own annotations on arrival, so that a decoder gone astray can answer
# nothing but what the function may return.


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
        return _write(trouble_of(error)), True


#: Troubles of the machine, which say nothing about the file.
OURS = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE, errno.ENFILE,
}  # fmt: skip
#: Of a library's own words, no more than this is repeated.
WORDS = 200


def trouble_of(error: Exception) -> dict[str, Any]:
    """How an error of a decoder is told to who asked: the machine's trouble by its number, else its own words."""
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


__all__ = ["close", "confined", "decode_here", "start_early"]

P = ParamSpec("P")
R = TypeVar("R")


def confined(refusal: type[AvatarError], *, work: float = 1.0) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Run the function in a child process. Arguments and result are of its annotated types, which JSON can hold.

    Args:
        refusal: raised, with the first file's name, where decoding crashes, hangs, needs too much, or fails in a
            way the function does not name itself. Errors of our own pass through as they are; an `OSError`
            is a failure of this machine.
        work: processor time that it may take, beside that of decoding its files.
    """

    def mark(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def run(*args: P.args, **named: P.kwargs) -> R:
            if _inside:
                return function(*args, **named)
            return _run(Call.of(function, *args, **named), refusal, work)  # type: ignore[no-any-return]

        return run

    return mark


_inside = False


def decode_here() -> None:
    """This process is a child: confined functions run where they are called."""
    global _inside  # noqa: PLW0603 - a fact about the process
    _inside = True


def _run(call: Call, refusal: type[AvatarError], work: float) -> Any:
    files = call.files
    bounds = bounds_for(files, work)
    try:
        return read_answer(call.function, _ask(call.pack(bounds), bounds.wall_seconds))
    except Fault as fault:
        name = files[0].name if files else "It"
        hint = "Export the file anew, with another program." if refusal is InvalidInput else None
        raise refusal(f"{name} cannot be decoded: {fault}.", hint=hint) from fault


def _ask(packed: bytes, seconds: float) -> bytes:
    """An old child that dies may have been ill before; only a new one is believed."""
    with _children().taken() as child:
        answered = child.ask(packed, seconds)
    if answered is None and not child.was_new and not child.is_at_fault:
        with _children().taken(new=True) as child:
            answered = child.ask(packed, seconds)
    if answered is None:
        raise Fault(child.last_words(seconds))
    return answered


_kept: Children | None = None
_lock = threading.Lock()


def _children() -> Children:
    global _kept  # noqa: PLW0603 - one set for a process
    with _lock:
        if _kept is None:
            _kept = Children()
            os.register_at_fork(after_in_child=_forget)
        return _kept


def _forget() -> None:
    """This process was forked off one that decodes: it starts children of its own."""
    global _kept, _lock
    if _kept is not None:
        _kept.forget()
    _kept, _lock = None, threading.Lock()


def start_early() -> None:
    """Have a child start while this process does something else, as importing Prefect."""
    _children().start_one()


def close() -> None:
    """End the children that have nothing to do. The next call starts one again."""
    if _kept is not None:
        _kept.close()
