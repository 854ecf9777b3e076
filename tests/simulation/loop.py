"""An event loop without time, sockets or threads, shared by simulated processes that can be killed or put to sleep.

What one process does can be seen by others only through its requests (to the store, to the provider). So between two
requests a process simply runs; what the seed decides is which request arrives next, and which answer.
"""

import asyncio
import heapq
import random
import socket
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from itertools import count
from typing import Any

#: The process that a task belongs to; tasks that it makes inherit it.
PROCESS: "ContextVar[Process | None]" = ContextVar("process", default=None)


class Process:
    """A worker as the system sees it: what of it is to be run, its clocks, and whether it lives.

    Attributes:
        skew: seconds its wall clock is ahead of true time.
        slept: seconds its monotonic clock has stood still.
        holder: by what name it writes into the journal.
        well: whether it has ended, and without an error.
        killed: whether it died.
    """

    def __init__(self, name: str, *, skew: float = 0.0) -> None:
        self.name, self.skew, self.slept, self.holder = name, skew, 0.0, ""
        self.alive, self.asleep, self.well, self.killed = True, False, False, False
        self.ready: deque[_Handle] = deque()
        self.waiting: list[Callable[[], None]] = []  # what reached it while it slept
        self.task: asyncio.Task[Any] | None = None

    @property
    def ended(self) -> bool:
        return not self.alive


class _Handle:
    """A callback that waits for its turn; `local` is the moment by its process's monotonic clock, for timers."""

    __slots__ = ("args", "callback", "context", "dropped", "local", "process")

    def __init__(self, callback: Any, args: Any, context: Context, local: float = 0.0) -> None:
        self.callback, self.args, self.context, self.local = callback, args, context, local
        self.process = context.get(PROCESS)
        self.dropped = False

    def cancel(self) -> None:
        self.dropped = True

    def cancelled(self) -> bool:
        return self.dropped

    def when(self) -> float:
        return self.local


class Request:
    """Something asked of the world. It takes effect when it arrives; its answer comes later, or never."""

    __slots__ = ("act", "error", "future", "process", "result")

    def __init__(
        self, process: Process | None, future: "asyncio.Future[Any]", act: Callable[[], Any]
    ) -> None:
        self.process, self.future, self.act = process, future, act
        self.result: Any = None
        self.error: BaseException | None = None


class VirtualLoop(asyncio.AbstractEventLoop):
    """Runs all processes of one schedule. `now` is true time, in seconds since the schedule began."""

    def __init__(self, seed: int, *, latency: float = 0.02) -> None:
        self.random = random.Random(seed)
        self.latency = latency
        self.now = 0.0
        self.steps = 0
        self.current: Process | None = None
        self.after_step: Callable[[], None] | None = None
        self.defects: list[str] = []
        self._busy: deque[Process | None] = deque()
        self._ready: deque[_Handle] = deque()  # of no process
        self._timers: list[tuple[float, int, _Handle]] = []
        self._order = count()
        self._arriving: list[Request] = []
        self._answering: list[Request] = []
        self._kept: list[Any] = []  # the dead stay here: collected, their coroutines would run on
        self._closed = False

    # --- processes

    def spawn(self, process: Process, coroutine: Coroutine[Any, Any, Any]) -> Process:
        """Start a process whose main task is `coroutine`."""
        context = copy_context()
        context.run(PROCESS.set, process)
        before, self.current = self.current, process
        process.task = asyncio.Task(coroutine, loop=self, context=context)
        process.task.add_done_callback(lambda task: self._exit(process, task))
        self.current = before
        return process

    def _exit(self, process: Process, task: "asyncio.Task[Any]") -> None:
        """Its main task has ended, and with it the process."""
        process.well = not task.cancelled() and task.exception() is None
        process.alive = False
        self._kept += [process, *process.ready]
        process.ready.clear()

    def kill(self, process: Process) -> None:
        """End a process where it stands: no more of its code runs. What it has asked for may still arrive."""
        process.alive, process.killed = False, True
        self._kept += [process, *process.ready]
        process.ready.clear()
        process.waiting.clear()
        drop = self.random.random() < 0.5
        self._kept += [request for request in self._arriving if request.process is process]
        if drop:
            self._arriving = [request for request in self._arriving if request.process is not process]

    def sleep(self, process: Process, seconds: float, *, stopped_clock: bool) -> None:
        """Hold a process for `seconds`: as SIGSTOP does, or (`stopped_clock`) as a machine that is suspended."""
        process.asleep = True

        def wake() -> None:
            if not process.alive:
                return
            process.asleep = False
            process.slept += seconds if stopped_clock else 0.0
            waiting, process.waiting = process.waiting, []
            for each in waiting:
                each()
            if process.ready:
                self._busy.append(process)

        self.at(self.now + seconds, wake)

    def at(self, moment: float, callback: Callable[[], None]) -> None:
        """Have the world do something at a true moment, whoever lives then."""
        context = Context()
        heapq.heappush(self._timers, (moment, next(self._order), _Handle(callback, (), context, moment)))

    # --- requests

    def request(self, act: Callable[[], Any], *, delay: float = 0.0) -> "asyncio.Future[Any]":
        """Ask the world to carry out `act`, `delay` seconds from now at the earliest."""
        request = Request(self.current, asyncio.Future(loop=self), act)
        if delay:
            self.at(self.now + delay, lambda: self._arriving.append(request))
        else:
            self._arriving.append(request)
        return request.future

    def _deliver(self) -> None:
        """Let one request arrive, or one answer, whichever the seed says."""
        arriving, answering, chance = self._arriving, self._answering, self.random.random
        self.now += chance() * self.latency
        if len(arriving) == 1 and not answering:  # nothing else is on its way, as almost always
            self._arrive(arriving.pop())
            if len(answering) == 1 and not arriving:
                self.now += chance() * self.latency
                self._answer(answering.pop())
            return
        chosen = int(chance() * (len(arriving) + len(answering)))
        if chosen < len(arriving):
            arriving[chosen], arriving[-1] = arriving[-1], arriving[chosen]
            self._arrive(arriving.pop())
        else:
            chosen -= len(arriving)
            answering[chosen], answering[-1] = answering[-1], answering[chosen]
            self._answer(answering.pop())

    def _arrive(self, request: Request) -> None:
        self.steps += 1
        self.current = None
        try:
            request.result = request.act()
        except Exception as error:  # noqa: BLE001 - it is the answer
            request.error = error
        if request.process is None or request.process.alive:
            self._answering.append(request)
        if self.after_step is not None:
            self.after_step()

    def _answer(self, request: Request) -> None:
        process = request.process
        if process is not None and not process.alive:
            self._kept.append(request)
            return
        if process is not None and process.asleep:
            process.waiting.append(lambda: self._answering.append(request))
            return
        if request.future.done():  # given up in the meantime
            return
        if request.error is not None:
            request.future.set_exception(request.error)
            request.future.exception()
        else:
            request.future.set_result(request.result)

    # --- running

    def run(self, until: Callable[[], bool]) -> None:
        """Run until `until` holds, or nothing is left to happen."""
        asyncio._set_running_loop(self)
        try:
            while not until():
                if self._busy:
                    self._run_ready()
                elif self._arriving or self._answering:
                    self._fire()
                    if not self._busy:
                        self._deliver()
                elif self._timers:
                    self.now = max(self.now, self._timers[0][0])
                    self._fire()
                else:
                    return
        finally:
            asyncio._set_running_loop(None)

    def _run_ready(self) -> None:
        process = self._busy.popleft()
        if process is not None and process.asleep:
            return  # what is ready stays so until it wakes
        self.current = process
        ready = self._ready if process is None else process.ready
        while ready:
            handle = ready.popleft()
            if not handle.dropped:
                handle.context.run(handle.callback, *handle.args)
        self.current = None

    def _fire(self) -> None:
        """Run or hand over the timers that are due."""
        timers = self._timers
        while timers and timers[0][0] <= self.now:
            handle = heapq.heappop(timers)[2]
            if handle.dropped:
                continue
            if handle.process is None:
                handle.context.run(handle.callback, *handle.args)
                continue
            self._due(handle)

    def _due(self, handle: _Handle) -> None:
        process = handle.process
        assert process is not None
        if not process.alive:
            self._kept.append(handle)
        elif process.asleep:
            process.waiting.append(lambda: self._due(handle))
        elif handle.local > self.now - process.slept + 1e-9:
            self._push(handle, handle.local + process.slept)
        else:
            self._append(handle)

    def _append(self, handle: _Handle) -> None:
        process = handle.process
        if process is None:
            if not self._ready:
                self._busy.append(None)
            self._ready.append(handle)
        elif process.alive:
            if not process.ready:
                self._busy.append(process)
            process.ready.append(handle)
        else:
            self._kept.append(handle)

    def _push(self, handle: _Handle, moment: float) -> None:
        heapq.heappush(self._timers, (moment, next(self._order), handle))

    # --- what asyncio asks of a loop

    def time(self) -> float:
        return self.now - (self.current.slept if self.current else 0.0)

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> _Handle:
        handle = _Handle(callback, args, context or copy_context())
        if not self._closed:
            self._append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(self, delay: float, callback: Any, *args: Any, context: Context | None = None) -> _Handle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> _Handle:
        handle = _Handle(callback, args, context or copy_context(), when)
        self._push(handle, when + (handle.process.slept if handle.process else 0.0))
        return handle

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: Context | None = None
    ) -> "asyncio.Task[Any]":
        return asyncio.Task(coro, loop=self, name=name, context=context)

    async def getaddrinfo(self, *_: Any, **__: Any) -> Any:
        """There are no names here: only a proxy knows any."""
        raise socket.gaierror(socket.EAI_NONAME, "no names")

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> "asyncio.Future[Any]":
        """No thread: it is done here and now."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - it is the answer
            future.set_exception(error)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """A callback raised: a defect. A task destroyed while pending is a process that was killed."""
        error = context.get("exception")
        if error is not None and "never retrieved" not in context.get("message", ""):
            self.defects.append(f"{context.get('message')}: {error!r}")

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return not self._closed

    def is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Let go of everything. The dead run a last time now, when nothing they do has an effect."""
        self._closed = True
        for each in (self._kept, self._timers, self._arriving, self._answering, self._busy, self._ready):
            each.clear()
