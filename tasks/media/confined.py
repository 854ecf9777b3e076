"""Decoding what others made, where it can do no harm: in a child process without network, secrets or much memory.

A function that opens foreign media is marked `@confined(...)`. Called, it runs in a child; a decoder that crashes,
hangs or asks for too much ends with that child, and its caller gets the error named in the mark. Children are kept
and used again, since starting one takes 0.2 s and asking one less than a millisecond.
"""

import functools
import os
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from tasks.errors import AvatarError, InvalidInput
from tasks.media.bounds import bounds_for
from tasks.media.calls import Call, Fault, read_answer
from tasks.media.children import Children

__all__ = ["close", "confined", "decode_here"]

P = ParamSpec("P")
R = TypeVar("R")


def confined(refusal: type[AvatarError]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Run the function in a child process. Arguments and result are of its annotated types, which JSON can hold.

    Args:
        refusal: raised, with the first file's name, where decoding crashes, hangs, needs too much, or fails in a
            way the function does not name itself. Errors of our own pass through as they are; an `OSError`
            is a failure of this machine.
    """

    def mark(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def run(*args: P.args, **named: P.kwargs) -> R:
            if _inside:
                return function(*args, **named)
            return _run(Call.of(function, *args, **named), refusal)  # type: ignore[no-any-return]

        return run

    return mark


_inside = False


def decode_here() -> None:
    """This process is a child: confined functions run where they are called."""
    global _inside  # noqa: PLW0603 - a fact about the process
    _inside = True


def _run(call: Call, refusal: type[AvatarError]) -> Any:
    files = call.files
    bounds = bounds_for(files)
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


def close() -> None:
    """End the children that have nothing to do. The next call starts one again."""
    if _kept is not None:
        _kept.close()
