"""What every provider keeps to, run against each of them: add one to `PROVIDERS` and it is held to the same."""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal

import av
import pytest

from avatar.errors import ProviderUnavailable, RenderFailed, RenderLost
from avatar.models import CancelOutcome, RemoteState, Submission
from avatar.providers import open_provider
from avatar.providers.base import Provider, RenderInputs
from avatar.store.objects import hash_file
from avatar.stored_models import Asset, ProviderName
from tests.providers.conftest import RENDER_ID, make_inputs, make_submission
from tests.providers.conftest import make_settings as paid_settings
from tests.sandbox.samples import make_inputs as make_files

PROVIDERS = ["fal", "pixazo-v1", "pixazo-v2", "preview"]
#: Only those that are asked over a network can be made to fail from outside.
remote = pytest.mark.parametrize("case", [name for name in PROVIDERS if name != "preview"], indirect=True)
ORDER = [RemoteState.QUEUED, RemoteState.RUNNING, RemoteState.DONE]


@dataclass
class Case:
    """A provider, inputs it can use, and how many paid requests it has been seen to send."""

    provider: Provider
    inputs: RenderInputs
    sandbox: object | None = None

    @property
    def posts(self) -> int:
        return self.sandbox.state()["posts"] if self.sandbox else 0


@pytest.fixture(params=PROVIDERS)
def case(request) -> Case:
    """Opens each provider in turn: the paid ones at the sandbox, the preview on a store of its own."""
    name, _, generation = request.param.partition("-")
    if name == "preview":
        return request.getfixturevalue("preview_case")
    sandbox = request.getfixturevalue("sandbox")
    if generation:
        sandbox.reset(pixazo_generation=generation)
    files = request.getfixturevalue("sandbox_inputs")
    inputs = make_inputs(portrait_url=f"{files}/portrait.png", voice_url=f"{files}/voice.wav")
    return Case(open_provider(ProviderName(name), paid_settings(sandbox.url), None), inputs, sandbox)


@pytest.fixture
async def preview_case(store, make_settings, tmp_path) -> Case:
    make_files(tmp_path)
    portrait, voice = [
        Asset(key=f"assets/{name}", sha256=hash_file(tmp_path / name), size=1, content_type=kind)
        for name, kind in (("portrait.png", "image/png"), ("voice.wav", "audio/wav"))
    ]
    for asset in (portrait, voice):
        path = tmp_path / asset.key.rsplit("/", 1)[-1]
        await store.put_file(asset.key, path, content_type=asset.content_type, sha256=asset.sha256)
    inputs = make_inputs()
    inputs = replace(
        inputs,
        portrait=inputs.portrait.model_copy(update={"asset": portrait}),
        segment=inputs.segment.model_copy(update={"asset": voice}),
    )
    return Case(open_provider(ProviderName.PREVIEW, make_settings(), store), inputs)


async def watch_to_the_end(provider: Provider, submission: Submission) -> list[RemoteState]:
    async with aclosing(provider.watch(submission, 60)) as snapshots:
        return [snapshot.state async for snapshot in snapshots]


def seconds_of(path) -> float:
    """Decoded length of the picture."""
    with av.open(str(path)) as container:
        frames = sum(1 for _ in container.decode(video=0))
        return frames / float(container.streams.video[0].average_rate)


async def test_a_render_comes_home(case, tmp_path):
    """Submit, watch, collect, download: a video of the voice's length, for one request."""
    provider, target = case.provider, tmp_path / "video.mp4"
    submission = await provider.submit(case.inputs)
    states = await watch_to_the_end(provider, submission)
    assert states[-1] is RemoteState.DONE
    assert [ORDER.index(state) for state in states] == sorted(ORDER.index(state) for state in states)
    video = await provider.collect(submission)
    await provider.download(video, target)
    assert abs(seconds_of(target) - 2.5) < 0.3
    assert case.posts == (1 if provider.capabilities.paid else 0)


async def test_the_receipt_is_complete(case):
    """A submission names render, provider and request, and survives being written down."""
    before = datetime.now(UTC)
    submission = await case.provider.submit(case.inputs)
    assert (submission.render_id, submission.provider) == (RENDER_ID, case.provider.name)
    assert before <= submission.submitted_at <= datetime.now(UTC)
    assert Submission.model_validate_json(submission.model_dump_json()) == submission
    assert "Signature" not in submission.model_dump_json()


async def test_another_process_can_go_on(case):
    """A receipt read back, in a provider opened anew, is all it takes to follow and collect."""
    submission = await case.provider.submit(case.inputs)
    another = (
        open_provider(case.provider.name, case.provider._settings, case.provider._store)
        if case.sandbox
        else case.provider
    )
    stored = Submission.model_validate_json(submission.model_dump_json())
    assert (await watch_to_the_end(another, stored))[-1] is RemoteState.DONE
    assert (await another.collect(stored)).url


async def test_looking_and_collecting_may_be_repeated(case):
    """After the end every look says done, and every collect the same video."""
    submission = await case.provider.submit(case.inputs)
    await watch_to_the_end(case.provider, submission)
    looks = [await case.provider.poll(submission) for _ in range(2)]
    assert {look.state for look in looks} == {RemoteState.DONE}
    assert len({(await case.provider.collect(submission)).url for _ in range(2)}) == 1


async def test_an_unfinished_render_is_not_collected(case):
    """Collecting too early is transient: nothing is lost or failed by it."""
    if case.sandbox:
        case.sandbox.behave("submit", "never")
    submission = await case.provider.submit(case.inputs)
    with pytest.raises(ProviderUnavailable):
        await case.provider.collect(submission)


async def test_a_request_nobody_knows_is_lost(case):
    """An unknown request is lost to looks, watches and collects, and no failure."""
    name = case.provider.name
    stranger = make_submission(
        name, request_id="pv-none-00000000", generation="v1" if name == "pixazo" else ""
    )
    assert (await case.provider.poll(stranger)).state is RemoteState.LOST
    assert await watch_to_the_end(case.provider, stranger) == [RemoteState.LOST]
    with pytest.raises(RenderLost):
        await case.provider.collect(stranger)


@remote
async def test_a_failed_render_says_why(case):
    """A render that failed ends the watch; its collect gives the provider's words."""
    case.sandbox.behave("submit", "fail", kind="face_detection_error", message="No face was found")
    submission = await case.provider.submit(case.inputs)
    states = await watch_to_the_end(case.provider, submission)
    assert states[-1] in {RemoteState.DONE, RemoteState.FAILED}
    with pytest.raises(RenderFailed, match="No face was found") as caught:
        await case.provider.collect(submission)
    assert caught.value.request_id == submission.request_id


@remote
async def test_an_outage_in_the_middle_does_not_end_a_watch(case):
    """Broken answers and connections while watching are passed over."""
    submission = await case.provider.submit(case.inputs)
    for on in ("stream", "status"):
        for do in ("drop", "server_error", "html", "rst"):
            case.sandbox.behave(on, do)
    assert (await watch_to_the_end(case.provider, submission))[-1] is RemoteState.DONE


@remote
async def test_a_watch_hands_back_a_render_that_goes_on(case):
    """A window that passes first ends the watch without an end."""
    case.sandbox.behave("submit", "never")
    submission = await case.provider.submit(case.inputs)
    async with aclosing(case.provider.watch(submission, 0.3)) as snapshots:
        assert {snapshot.state async for snapshot in snapshots} <= {RemoteState.QUEUED, RemoteState.RUNNING}


async def test_many_renders_at_once_do_not_mix(case):
    """Requests of one provider opened once are followed side by side."""
    orders = [replace(case.inputs, render_id=f"{index:064d}") for index in range(3)]
    receipts = await asyncio.gather(*(case.provider.submit(order) for order in orders))
    ends = await asyncio.gather(*(watch_to_the_end(case.provider, receipt) for receipt in receipts))
    assert [states[-1] for states in ends] == [RemoteState.DONE] * 3
    assert len({receipt.request_id for receipt in receipts}) == 3


async def test_a_cancel_says_what_it_did(case):
    """Cancel answers with an outcome where the capability is claimed, and `unsupported` where not."""
    if case.sandbox:
        case.sandbox.behave("submit", "never")
    outcome = await case.provider.cancel(await case.provider.submit(case.inputs))
    assert (outcome is CancelOutcome.UNSUPPORTED) is not case.provider.capabilities.cancel


async def test_limits_and_price_are_data(case):
    """Prices are exact, and free only where nothing is paid."""
    assert isinstance(case.provider.price_per_second, Decimal)
    assert (case.provider.price_per_second > 0) is case.provider.capabilities.paid
    assert 0 < case.provider.limits.min_seconds < case.provider.limits.max_seconds


@pytest.mark.parametrize("name", list(ProviderName))
def test_settings_override_limits(name):
    """Each limit can be set; the others stay what the provider is known to take."""
    usual = open_provider(name, paid_settings("http://127.0.0.1:9"), None).limits
    changed = open_provider(
        name, paid_settings("http://127.0.0.1:9", limits={"max_seconds": 300}), None
    ).limits
    assert changed == replace(usual, max_seconds=300)
