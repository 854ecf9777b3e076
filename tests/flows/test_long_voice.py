"""A voice above the provider's limit: cut, bought piece by piece, joined; what did not change is not bought again."""

from pathlib import Path

import pytest

from avatar.models import AvatarJob, Continuity
from tests.flows.conftest import PORTRAIT, PREFECTS_SOCKETS, Produce
from tests.sandbox.running import Sandbox

pytestmark = [pytest.mark.server, PREFECTS_SOCKETS]
EXAMPLES = Path(__file__).parents[2] / "examples"


def job(**more: object) -> AvatarJob:
    return AvatarJob(portrait=str(PORTRAIT), voice=str(EXAMPLES / "speech-95s.mp3"), **more)


async def test_a_long_voice_is_one_video_of_its_length(produce: Produce, sandbox: Sandbox) -> None:
    """95 seconds at a limit of 60: two payments, one video, in step to its end."""
    run = await produce(job(), **sandbox.fal_env())
    assert sandbox.state()["accepts"] == 2
    assert abs(run.video.seconds - 94.808) < 0.04
    assert [round(segment.seconds) for segment in run.video.segments] == [58, 36]
    assert all(check.passed for check in run.video.checks)


async def test_a_chain_starts_where_the_last_one_ended(produce: Produce, sandbox: Sandbox) -> None:
    """The first segment is the one bought before; the second is made from its last frame, so it is bought."""
    await produce(job(), **sandbox.fal_env())
    run = await produce(job(continuity=Continuity.CHAIN), **sandbox.fal_env())
    assert sandbox.state()["accepts"] == 3
    assert run.video.renders[0].sha256 != run.video.renders[1].sha256
    first, second = (accepted["body"]["image_url"] for accepted in sandbox.state()["accepted"][1:])
    assert first.split("?")[0] != second.split("?")[0]


async def test_a_failed_segment_costs_one(produce: Produce, sandbox: Sandbox) -> None:
    """One of two segments fails at the provider; the next run buys that one only."""
    sandbox.behave("submit", "fail", kind="generation_timeout", status=500)
    run = await produce(job(), **sandbox.fal_env())
    assert isinstance(run.outcome, Exception)
    again = await produce(job(), **sandbox.fal_env())
    assert again.video.seconds > 94
    assert sandbox.state()["accepts"] == 3
