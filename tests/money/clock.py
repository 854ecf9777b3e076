"""A loop on which nobody waits: when nothing else is left to happen, its clock goes on to the next timer."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any


class Clock:
    """The selector of a loop, which moves the loop's time on instead of waiting, unless a thread or a socket is at work.

    Attributes:
        ahead: seconds by which it is ahead of this machine's clock.
        threads: calls under way in threads.
    """

    def __init__(self, selector: Any) -> None:
        self.selector, self.ahead, self.threads = selector, 0.0, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.selector, name)

    def select(self, timeout: float | None = None) -> Any:
        if not timeout or self.threads or len(self.selector.get_map()) > 1:  # one socket is the loop's own
            return self.selector.select(timeout)
        happened = self.selector.select(0)
        if not happened:
            self.ahead += timeout
        return happened


class QuickLoop(asyncio.SelectorEventLoop):
    """asyncio's loop, on such a clock."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = self._selector = Clock(self._selector)

    def time(self) -> float:
        return super().time() + self.clock.ahead

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        self.clock.threads += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._came_back)
        return future

    def _came_back(self, _: Any) -> None:
        self.clock.threads -= 1

    def clocks(self) -> SimpleNamespace:
        """In place of `time`, for what measures how long something took."""
        return SimpleNamespace(
            time=lambda: time.time() + self.clock.ahead,
            monotonic=lambda: time.monotonic() + self.clock.ahead,
        )
