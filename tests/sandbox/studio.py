"""Where accepted jobs wait, run and end."""

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import av

from tests.sandbox.inputs import Unusable, check_audio, check_image, fetch
from tests.sandbox.jobs import COMPLETED, IN_PROGRESS, IN_QUEUE, Failure, Job, digest
from tests.sandbox.options import Options
from tests.sandbox.renderer import Look, render
from tests.sandbox.webhooks import Herald

T = TypeVar("T")


class Studio:
    """Runs jobs: at most `slots` per key, each for `render_seconds`, over inputs it fetches itself."""

    def __init__(self, options: Options, media: Path, session: aiohttp.ClientSession, herald: Herald) -> None:
        self.options = options
        self.jobs: dict[str, Job] = {}
        self.by_media: dict[str, Job] = {}
        self._media, self._session, self._herald = media, session, herald
        self._slots: dict[str, asyncio.Semaphore] = defaultdict(self._new_slots)
        self._tasks: set[asyncio.Task[None]] = set()
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="sandbox-render")
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._queued: dict[str, dict[str, None]] = defaultdict(dict)
        self._checked: dict[str, Unusable | None] = {}
        self._measured: dict[Path, tuple[float, tuple[int, int]]] = {}

    def _new_slots(self) -> asyncio.Semaphore:
        return asyncio.Semaphore(self.options.slots or 1_000_000)

    def accept(self, job: Job) -> None:
        """Take a job in: from here on it is paid for."""
        chosen, options = job.fate, self.options
        job.render_seconds = (
            options.render_seconds if chosen.render_seconds is None else chosen.render_seconds
        )
        job.queue_seconds = options.queue_seconds if chosen.queue_seconds is None else chosen.queue_seconds
        self.jobs[job.request_id] = self.by_media[job.media_id] = job
        self._queued[job.key][job.request_id] = None
        task = asyncio.get_running_loop().create_task(self._live(job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def queued(self, key: str) -> int:
        """How many jobs of a key wait."""
        return len(self._queued[key])

    def position(self, job: Job) -> int:
        """How many are ahead; while only time is waited for, it counts down from 2."""
        ahead = list(self._queued[job.key]).index(job.request_id) if self.options.slots else 0
        left = job.accepted + job.queue_seconds - time.time()
        return ahead + max(0, math.ceil(3 * left / job.queue_seconds) - 1 if job.queue_seconds else 0)

    def cancel(self, job: Job) -> None:
        """A queued job is taken out; a running one is only told."""
        job.cancelled = True
        if job.state == IN_QUEUE:
            job.failure = infrastructure("client_cancelled", "Request was cancelled", 499)
            self._leave_queue(job, COMPLETED)

    async def close(self) -> None:
        """Drop every job."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _leave_queue(self, job: Job, state: str) -> None:
        self._queued[job.key].pop(job.request_id, None)
        job.advance(state)

    async def _live(self, job: Job) -> None:
        await asyncio.sleep(job.queue_seconds)
        async with self._slots[job.key]:
            if job.state == IN_QUEUE:
                await self._run(job)
        await asyncio.sleep(job.fate.webhook_delay)
        for _ in range(job.fate.webhooks if job.webhook else 0):
            await self._herald.tell(job)

    async def _run(self, job: Job) -> None:
        if job.start_within is not None and time.time() - job.accepted > job.start_within:
            job.failure = infrastructure("request_timeout", "Request timed out", 504)
            job.failure.headers["X-Fal-Request-Timeout-Type"] = "user"
            return self._leave_queue(job, COMPLETED)
        self._leave_queue(job, IN_PROGRESS)
        if job.fate.never:
            await asyncio.Event().wait()
        work = asyncio.create_task(self._produce(job))
        await asyncio.gather(work, asyncio.sleep(job.render_seconds))
        return job.advance(COMPLETED)

    async def _produce(self, job: Job) -> None:
        if job.fate.failure is not None:
            job.failure = job.fate.failure
            return
        try:
            await self._make_video(job)
        except Unusable as refusal:
            detail = {"detail": [refusal.detail(job.body)]}
            job.failure = Failure(
                refusal.kind, refusal.message, body=detail, headers={"X-Fal-Retryable": "false"}
            )

    async def _make_video(self, job: Job) -> None:
        options, limit = self.options, self.options.fetch_seconds
        portrait, voice = await asyncio.gather(
            fetch(self._session, job.body.get("image_url"), "image_url", options.max_image_bytes, limit),
            fetch(self._session, job.body.get("audio_url"), "audio_url", options.max_audio_bytes, limit),
        )
        look = Look(options.max_side, options.frame_rate, options.extra_seconds, job.fate.defect)
        job.content = digest((digest(portrait) + digest(voice) + str(job.body.get("prompt", "."))).encode())
        name = digest(f"{digest(portrait)}{digest(voice)}{look}".encode())
        target = self._media / f"{name}.mp4"
        async with self._locks[name]:
            await self._in_thread(self._examine, name, portrait, voice)
            if not target.exists():
                await self._in_thread(render, portrait, voice, target, look)
            if target not in self._measured:
                self._measured[target] = await self._in_thread(measure, target)
        job.seconds, job.size = self._measured[target]
        job.video = target

    def _examine(self, name: str, portrait: bytes, voice: bytes) -> None:
        """Decode the inputs, once per pair: a thousand jobs over the same inputs stay cheap."""
        if name not in self._checked:
            try:
                check_image(portrait, self.options)
                check_audio(voice, self.options)
                self._checked[name] = None
            except Unusable as refusal:
                self._checked[name] = refusal
        if known := self._checked[name]:
            raise known

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)


def measure(video: Path) -> tuple[float, tuple[int, int]]:
    """Length in seconds and size in pixels."""
    with av.open(str(video), "r") as container:
        seconds = (container.duration or 0) / av.time_base
        stream = next(iter(container.streams.video), None)
        return round(seconds, 3), (stream.width, stream.height) if stream else (0, 0)


def infrastructure(kind: str, message: str, status: int) -> Failure:
    """A failure of fal's own machinery: a flat body and a header (fal.ai/docs … errors.md)."""
    body = {"detail": message, "error_type": kind}
    return Failure(kind, message, status=status, body=body, headers={"X-Fal-Error-Type": kind})
