"""A provider that answers by script and remembers what it was asked: for the rules around the paid request."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from avatar.models import (
    KLING_AVATAR,
    CancelOutcome,
    Limits,
    Plan,
    RemoteState,
    RemoteVideo,
    Snapshot,
    Submission,
)
from avatar.providers.base import Capabilities, Provider, RenderInputs
from avatar.stored_models import Asset, Portrait, ProviderName, Quote, Segment, Voice

Answer = Exception | str | Callable[[], object]


class Scripted(Provider):
    """Each submit pops the next answer: a request id is accepted, an exception is raised, a callable is awaited."""

    name = ProviderName.FAL
    model = KLING_AVATAR
    capabilities = Capabilities(paid=True)

    def __init__(
        self, *answers: Answer, looks: list[Snapshot] | None = None, video: Path | None = None
    ) -> None:
        self.price_per_second = Decimal("0.115")
        self.limits = Limits()
        self.answers = list(answers)
        self.looks = looks or [Snapshot(state=RemoteState.DONE)]
        self.video = video
        self.seen: list[RenderInputs] = []

    def check_configured(self) -> None:
        return None

    async def submit(self, inputs: RenderInputs) -> Submission:
        self.seen.append(inputs)
        await asyncio.sleep(0.05)  # a real request takes a while: long enough for a rival to look
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if callable(answer):
            answer = await answer()
        return Submission(
            render_id=inputs.render_id,
            provider=self.name,
            request_id=str(answer),
            submitted_at=datetime.now(UTC),
        )

    async def poll(self, submission: Submission) -> Snapshot:
        return self.looks[0]

    async def watch(self, submission: Submission, window: float) -> AsyncGenerator[Snapshot, None]:
        for look in self.looks:
            yield look

    async def collect(self, submission: Submission) -> RemoteVideo:
        return RemoteVideo(url="https://example.invalid/v.mp4", payload={"video": {"url": "…"}})

    async def download(self, video: RemoteVideo, target: Path) -> None:
        target.write_bytes(self.video.read_bytes())

    async def cancel(self, submission: Submission) -> CancelOutcome:
        return CancelOutcome.UNSUPPORTED


def make_plan(portrait: Asset, voice: Asset, *, seconds: float = 8.0, take: int = 0) -> Plan:
    segment = Segment(index=0, start=0, seconds=seconds, asset=voice, sha256=voice.sha256)
    return Plan(
        job_id="1" * 32,
        prompt=".",
        model=KLING_AVATAR,
        provider=ProviderName.FAL,
        portrait=Portrait(source=portrait, asset=portrait, sha256=portrait.sha256, width=512, height=512),
        voice=Voice(
            source=voice, seconds=seconds, samples=int(seconds * 48000), sample_rate=48000, channels=1, codec="mp3",
            container="mp3", peak=0.5, loudness=-20,
        ),
        segments=(segment,),
        quote=Quote(
            provider=ProviderName.FAL, seconds=seconds, price_per_second=Decimal("0.115"), amount=Decimal("0.92")
        ),
        take=take,
    )  # fmt: skip
