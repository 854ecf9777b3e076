"""The processes that decode, as `avatar.media.confined` has them: started or forked, asked, replaced when they die, ended with us."""

import atexit
import multiprocessing
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection

from avatar.media.decoder_limits import environment

#: A child's first message, and the last one, by whoever forked it: its pid, and its exit status as `subprocess` has it.
READY, ENDED = b"ready ", b"ended "
#: Calls after which a child is replaced: what a library leaks is bounded.
CALLS_PER_CHILD = 1000
#: Seconds a call waits for a child at work before it starts another one.
PATIENCE_SECONDS = 0.3
#: The same for one that was started just now: its first call takes longer, and starting another costs more work than
#: most calls.
FIRST_SECONDS = 2.0
#: Seconds a child may take to start, on a machine that has much else to do.
START_SECONDS = 60.0
#: No honest answer is nearly as long: the cuts of a voice of 100 hours take 1 MB.
ANSWER_BYTES = 16 * 2**20
ENDED_BY = {signal.SIGXCPU: "it takes too much processor time", signal.SIGKILL: "its decoder was killed"}


def _start(descriptor: int, *flags: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-P", "-s", "-m", "avatar.media.decoder_process", *flags, str(descriptor)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
        pass_fds=[descriptor],
        start_new_session=True,  # Ctrl-C ends us, and our end ends it
    )


_forking: socket.socket | None = None


def fork_children() -> None:
    """From now on the children of this process, and of those forked from it, are forks of one that has imported all they need.

    It is started here, and ends with the last process that may ask it. Linux only; elsewhere nothing changes.
    """
    global _forking
    if sys.platform == "linux" and _forking is None:
        _forking, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            _start(theirs.fileno(), "--fork").returncode = 0  # nobody waits for it: it may outlive us


class ForkedChild:
    """A child that another process forked for us: of `subprocess.Popen` what is used here.

    Args:
        line: our end of the connection to it.

    Attributes:
        returncode: how it ended, as whoever forked it tells over the line; if that was not heard, as one that was killed.
    """

    def __init__(self, line: "Connection[bytes, bytes]") -> None:
        self.returncode: int | None = None
        self._line = line
        self._pidfd: int | None = None

    def begun(self, pid: int) -> None:
        self._pidfd = os.pidfd_open(pid)

    def poll(self) -> int | None:
        if self.returncode is None and self._pidfd is not None and self._has_ended(self._pidfd, 0):
            self.returncode = -signal.SIGKILL
        return self.returncode

    def kill(self) -> None:
        if self._pidfd is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            return
        with suppress(OSError), socket.socket(fileno=os.dup(self._line.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)  # it ends by that, if it ever begins

    def wait(self) -> None:
        if self._pidfd is not None:
            self._has_ended(self._pidfd, None)
            os.close(self._pidfd)
            self._pidfd = None
        if self.returncode is None:
            self.returncode = -signal.SIGKILL

    @staticmethod
    def _has_ended(pidfd: int, milliseconds: int | None) -> bool:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(milliseconds))


def _fork(line: "Connection[bytes, bytes]", theirs: int) -> ForkedChild | None:
    """A child at the other end of `line`; None if there is nobody to fork it."""
    if _forking is None:
        return None
    try:
        socket.send_fds(_forking, [b"+"], [theirs])
    except OSError:
        return None
    return ForkedChild(line)


class Child:
    """A child process, and the line to it.

    Attributes:
        calls: it was asked.
        was_new: whether its last call was its first.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.was_new = True
        self._ready = self._busy = self._timed_out = False
        self._line, theirs = multiprocessing.Pipe()
        with theirs:
            self._process = _fork(self._line, theirs.fileno()) or _start(theirs.fileno())

    def ask(self, packed: bytes, seconds: float) -> bytes | None:
        """The answer, or None if the child died over it or took more than `seconds`, and is no more."""
        self._await_start()
        self.was_new, self.calls = not self.calls, self.calls + 1
        return self._exchange(packed, seconds)

    def _await_start(self) -> None:
        if not self._ready and (answered := self._exchange(b"", START_SECONDS)):
            self._ready = True
            if isinstance(self._process, ForkedChild):
                self._process.begun(int(answered.removeprefix(READY)))
        if not self._ready:
            raise RuntimeError(
                f"The process that decodes media did not start (exit status {self._process.returncode}). "
                f"Nothing was sent or spent. Try: {sys.executable} -m avatar.media.decoder_process 0"
            )

    def _exchange(self, packed: bytes, seconds: float) -> bytes | None:
        timer = threading.Timer(seconds, self._time_out)
        timer.daemon = self._busy = True
        timer.start()
        try:
            if packed:
                self._line.send_bytes(packed)
            answered = self._line.recv_bytes(ANSWER_BYTES)
            if answered.startswith(ENDED):
                self._process.returncode = int(answered.removeprefix(ENDED))
                raise EOFError
        except (EOFError, OSError):
            self.end()
            return None
        finally:
            timer.cancel()
        self._busy = False
        return answered

    def _time_out(self) -> None:
        self._timed_out = True
        self._process.kill()

    @property
    def is_usable(self) -> bool:
        """Whether it lives, and nobody was interrupted while waiting for its answer, which is still to come."""
        return self._process.poll() is None and not self._busy and self.calls < CALLS_PER_CHILD

    @property
    def is_at_fault(self) -> bool:
        """Whether it used up its time, which the next would, too."""
        return self._timed_out or self._process.returncode == -signal.SIGXCPU

    def last_words(self, seconds: float) -> str:
        code = self._process.returncode or 0
        if self._timed_out:
            return f"it takes more than {seconds:.0f} s"
        with suppress(ValueError):
            return ENDED_BY.get(number := signal.Signals(-code), f"its decoder crashed ({number.name})")
        return f"its decoder ended ({code})"

    def end(self) -> None:
        self._line.close()
        self._process.kill()
        self._process.wait()

    def forget(self) -> None:
        """This process was forked off: the child is somebody else's."""
        self._line.close()
        self._process.returncode = 0


class Children:
    """The children of this process: one, and more where it is long at work, up to the number of processors."""

    def __init__(self) -> None:
        self._most = max(2, os.cpu_count() or 1)
        self._living = self._starting = 0
        self._idle: list[Child] = []
        self._changed = threading.Condition()
        atexit.register(self.close)

    @contextmanager
    def taken(self, *, new: bool = False) -> Iterator[Child]:
        """A child for one call; a dead or worn one is not kept.

        Args:
            new: one that was never asked before, beyond the usual number if need be.
        """
        child = self._idle_one(new=new)
        started = child is None
        try:
            child = child or Child()
            yield child
        finally:
            self._give_back(child, started=started)

    def start_one(self) -> None:
        """Have one start now, unless there is any: whoever asks it waits the less."""
        with self._changed:
            if not self._living:
                self._idle.append(Child())
                self._living += 1

    def _idle_one(self, *, new: bool) -> Child | None:
        """A child that waits; None if one is to be started, which counts from now on."""
        patient = True
        with self._changed:
            while True:
                while self._idle and not new:
                    if (child := self._idle.pop()).is_usable:
                        return child
                    self._end(child)
                if new or not self._living or (not patient and self._living < self._most):
                    self._living += 1
                    self._starting += 1
                    return None
                patient = self._changed.wait(FIRST_SECONDS if self._starting else PATIENCE_SECONDS)

    def _give_back(self, child: Child | None, *, started: bool) -> None:
        with self._changed:
            self._starting -= started
            if child and child.is_usable:
                self._idle.append(child)
            else:
                self._end(child)
            self._changed.notify()

    def _end(self, child: Child | None) -> None:
        self._living -= 1
        if child:
            child.end()

    def close(self) -> None:
        """End those that have nothing to do."""
        with self._changed:
            while self._idle:
                self._end(self._idle.pop())

    def forget(self) -> None:
        """This process was forked off: the children are somebody else's."""
        for child in self._idle:
            child.forget()
