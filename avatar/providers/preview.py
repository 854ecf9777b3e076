"""The preview: renders on this machine, free and offline, under the same contract as the paid providers.

A child process does the work; whoever polls finds it by its files, and starts it again if it died.
"""

import asyncio
import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

from avatar.errors import (
    DownloadFailed,
    NotSent,
    ObjectNotFound,
    ProviderUnavailable,
    RenderFailed,
    RenderLost,
    StoreUnavailable,
    SubmitRefused,
)
from avatar.media.preview_request import PreviewFolder, PreviewRequest, StartResult
from avatar.models import PREVIEW, CancelOutcome, RemoteState, RemoteVideo, Snapshot, Submission
from avatar.providers.base import Capabilities, Provider, RenderInputs
from avatar.providers.known_models import KnownModel
from avatar.settings import AvatarSettings
from avatar.store.store import Store
from avatar.stored_models import ProviderName

SCHEME = "preview:"
#: A look is a few file system calls, so it may be taken often.
LOOK_SECONDS = 0.15
#: How long a fetched video stays for a second follower, and any request for somebody to come back.
FETCHED_SECONDS, FORGOTTEN_SECONDS = 600, 7 * 86_400
SWEEP_SECONDS = 60
ENDED = {RemoteState.DONE, RemoteState.FAILED, RemoteState.LOST}


class Preview(Provider):
    """Renders under `state_dir/preview`, as many at a time as there are processors."""

    name: ClassVar[ProviderName] = ProviderName.PREVIEW
    model = PREVIEW
    capabilities: ClassVar[Capabilities] = Capabilities(paid=False, cancel=True)

    def __init__(self, settings: AvatarSettings, store: Store, model: KnownModel) -> None:
        """`model` is what a preview stands for: its voice is cut as that one's would be."""
        self.price_per_second = Decimal(0)
        self.limits = model.limits
        self._picture = settings.preview
        self._root = settings.state_dir / "preview"
        self._store = store
        self._slots = os.cpu_count() or 1
        self._swept = 0.0

    def check_configured(self) -> None:
        """Nothing to configure."""

    async def submit(self, inputs: RenderInputs) -> Submission:
        """Fetch the inputs from the store by key and start rendering.

        Raises:
            NotSent: the store did not answer; nothing was started.
            SubmitRefused: an input is not in the store, or this machine's disk refused.
        """
        stem = re.sub(r"[^A-Za-z0-9]", "-", inputs.render_id)[:24]
        request_id = f"pv-{stem}-{secrets.token_hex(4)}"
        folder = self._folder(request_id)
        await self._fetch(inputs, folder, request_id)
        await asyncio.to_thread(self._begin, folder)
        return Submission(
            render_id=inputs.render_id,
            provider=self.name,
            request_id=request_id,
            submitted_at=datetime.now(UTC),
        )

    async def _fetch(self, inputs: RenderInputs, folder: PreviewFolder, request_id: str) -> None:
        picture = self._picture
        request = PreviewRequest(
            request_id, inputs.render_id, picture.max_side, picture.frame_rate, inputs.portrait.face
        )
        try:
            await asyncio.to_thread(folder.path.mkdir, parents=True)
            await self._store.fetch(inputs.portrait.asset.key, folder.portrait)
            await self._store.fetch(inputs.segment.asset.key, folder.voice)
            await asyncio.to_thread(folder.create, request)
        except StoreUnavailable as error:
            folder.remove()
            raise NotSent(f"The preview was not started: {error}", provider=self.name) from error
        except (ObjectNotFound, OSError) as error:
            folder.remove()
            message = f"The preview was not started, its inputs cannot be had: {error} It cost nothing."
            raise SubmitRefused(message, provider=self.name) from error

    def _begin(self, folder: PreviewFolder) -> None:
        # The request exists: what fails from here on is tried again by whoever polls.
        with contextlib.suppress(OSError):
            folder.start(self._slots)
            self._sweep()

    async def poll(self, submission: Submission) -> Snapshot:
        """One look; starts the renderer if it is not at work."""
        try:
            return self._look(self._folder(submission.request_id))
        except OSError as error:
            raise ProviderUnavailable(
                f"The preview's files cannot be read: {error}", provider=self.name
            ) from error

    def _look(self, folder: PreviewFolder) -> Snapshot:
        if ended := _ending(folder):
            return ended
        start = folder.start(self._slots)
        if start is StartResult.QUEUED:
            return Snapshot(
                state=RemoteState.QUEUED, word=start.value, message="waiting for a free processor"
            )
        # It may have ended between the two looks.
        return _ending(folder) or _running(folder)

    async def watch(self, submission: Submission, window: float) -> AsyncGenerator[Snapshot, None]:
        """A look every `LOOK_SECONDS`, until it ended or `window` seconds passed."""
        end = time.monotonic() + window
        while True:
            snapshot = await self.poll(submission)
            yield snapshot
            if snapshot.state in ENDED or time.monotonic() >= end:
                return
            await asyncio.sleep(LOOK_SECONDS)

    async def collect(self, submission: Submission) -> RemoteVideo:
        """The finished preview, as `preview:<request_id>`."""
        snapshot = await self.poll(submission)
        named: dict[str, Any] = submission.model_dump(include={"provider", "render_id", "request_id"})
        if snapshot.state is RemoteState.LOST:
            raise RenderLost(f"{snapshot.message} It cost nothing: run the job again.", **named)
        if snapshot.state is RemoteState.FAILED:
            message = f"The preview failed, and cost nothing: {snapshot.message}"
            raise RenderFailed(message, kind=snapshot.kind, billed=False, **named)
        if snapshot.state is not RemoteState.DONE:
            raise ProviderUnavailable("The preview is still being rendered.", **named)
        return RemoteVideo(
            url=f"{SCHEME}{submission.request_id}",
            content_type="video/mp4",
            billed_seconds=Decimal(0),
            payload={"request_id": submission.request_id, "state": snapshot.state.value},
        )

    async def download(self, video: RemoteVideo, target: Path) -> None:
        """Copy the video to `target`. Raises `DownloadFailed` if it is gone."""
        folder = self._folder(video.url.removeprefix(SCHEME))
        try:
            await asyncio.to_thread(shutil.copyfile, folder.video, target)
        except OSError as error:
            raise DownloadFailed(
                f"The preview {video.url} is not on this machine any more: {error}", provider=self.name
            ) from error
        folder.discard_inputs()

    async def cancel(self, submission: Submission) -> CancelOutcome:
        """Stop the renderer. A preview that was waiting is taken out of the queue."""
        folder = self._folder(submission.request_id)
        if _ending(folder):
            return CancelOutcome.TOO_LATE
        working = await asyncio.to_thread(folder.cancel)
        return CancelOutcome.REQUESTED if working else CancelOutcome.REMOVED

    def _folder(self, request_id: str) -> PreviewFolder:
        # An id that is no plain name was never given out here, and must not lead out of the directory.
        plain = re.fullmatch(r"[A-Za-z0-9_-]+", request_id)
        return PreviewFolder(self._root / (request_id if plain else "no-such-request"))

    def _sweep(self) -> None:
        """Remove what was fetched a while ago, or was never asked for again."""
        now = time.time()
        if now - self._swept < SWEEP_SECONDS:
            return
        self._swept = now
        for path in self._root.glob("pv-*"):
            folder = PreviewFolder(path)
            kept = FORGOTTEN_SECONDS if folder.voice.exists() else FETCHED_SECONDS
            if path.stat().st_mtime < now - kept:
                folder.remove()


def _ending(folder: PreviewFolder) -> Snapshot | None:
    if not folder.exists():
        return Snapshot(state=RemoteState.LOST, word="unknown", message="This machine has no such preview.")
    if folder.video.exists():
        return Snapshot(state=RemoteState.DONE, progress=1.0, word="done")
    if folder.is_cancelled():
        message = "It was cancelled."
        return Snapshot(
            state=RemoteState.FAILED, kind="cancelled", billed=False, word="cancelled", message=message
        )
    if failure := folder.failure():
        return Snapshot(
            state=RemoteState.FAILED, kind="preview_failed", billed=False, word="failed", message=failure
        )
    return None


def _running(folder: PreviewFolder) -> Snapshot:
    progress = folder.progress()
    return Snapshot(
        state=RemoteState.RUNNING,
        word="running",
        progress=progress.share if progress else 0.0,
        eta_seconds=progress.remaining if progress else None,
    )
