"""The free provider, end to end: real store, real child process, real video."""

import contextlib
import fcntl
import hashlib
import itertools
import os
import signal
from datetime import UTC, datetime
from decimal import Decimal

import av
import numpy as np
import pytest
from PIL import Image

from avatar.errors import (
    DownloadFailed,
    NotSent,
    ProviderUnavailable,
    RenderFailed,
    RenderLost,
    SubmitRefused,
)
from avatar.media.decoder_calls import probe_video, probe_voice
from avatar.media.preview_request import MAX_STARTS, try_lock
from avatar.media.preview_scene import BAR_COLOUR, EDGE_COLOUR, THROAT_COLOUR, Scene, canvas_size, clock_text
from avatar.models import CancelOutcome, RemoteState, Submission
from avatar.providers import open_provider
from avatar.providers.base import RenderInputs
from avatar.settings_sections import StoreSettings
from avatar.store.store import Store
from avatar.stored_models import Asset, Portrait, ProviderName, Segment
from tests.media.recordings import EXAMPLES, tone, write_wav

PORTRAIT = EXAMPLES / "portrait.png"


@pytest.fixture
def settings(make_settings):
    return make_settings(preview={"max_side": 256})


@pytest.fixture
def preview(settings, store):
    return open_provider("preview", settings, store)


@pytest.fixture
def kept_inputs(store):
    """Puts a portrait and a voice into the store, and describes them as a plan does."""

    async def keep(portrait: bytes, voice: bytes, seconds: float = 2.0) -> RenderInputs:
        image, sound = await keep_asset(store, portrait, "png"), await keep_asset(store, voice, "wav")
        return describe(image, sound, seconds)

    return keep


async def keep_asset(store, data: bytes, extension: str) -> Asset:
    sha256 = hashlib.sha256(data).hexdigest()
    key = f"assets/{sha256}.{extension}"
    await store.put(key, data, content_type="application/octet-stream")
    return Asset(key=key, sha256=sha256, size=len(data), content_type="application/octet-stream")


def describe(image: Asset, sound: Asset, seconds: float) -> RenderInputs:
    portrait = Portrait(source=image, asset=image, sha256=image.sha256, width=512, height=512)
    segment = Segment(index=0, start=0, seconds=seconds, asset=sound, sha256=sound.sha256)
    return RenderInputs(
        render_id="0123456789abcdef" * 4,
        portrait=portrait,
        segment=segment,
        prompt=".",
        portrait_url="https://unused.invalid/portrait",
        voice_url="https://unused.invalid/voice",
    )


@pytest.fixture
def example(kept_inputs):
    async def keep() -> RenderInputs:
        return await kept_inputs(PORTRAIT.read_bytes(), (EXAMPLES / "speech.mp3").read_bytes(), 8.14)

    return keep


@pytest.fixture
def brief(kept_inputs, tmp_path):
    """Two seconds of a tone, for what does not depend on the voice."""

    async def keep() -> RenderInputs:
        sound = write_wav(tmp_path / "brief.wav", tone(2.0))
        return await kept_inputs(PORTRAIT.read_bytes(), sound.read_bytes())

    return keep


async def follow(provider, submission, window=60.0):
    return [snapshot async for snapshot in provider.watch(submission, window)]


async def rendered(provider, inputs, target):
    """Submit, follow, collect, download."""
    submission = await provider.submit(inputs)
    snapshots = await follow(provider, submission)
    assert snapshots[-1].state is RemoteState.DONE, snapshots[-1]
    await provider.download(await provider.collect(submission), target)
    return submission


def folder_of(settings, submission):
    return settings.state_dir / "preview" / submission.request_id


def pictures(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


async def test_a_preview_is_as_long_as_its_voice(preview, example, tmp_path):
    """Picture and sound end within 0.04 s of the voice, in a file that every browser plays at once."""
    await rendered(preview, await example(), tmp_path / "video.mp4")
    voice, video = probe_voice(EXAMPLES / "speech.mp3"), probe_video(tmp_path / "video.mp4")
    assert abs(video.video_seconds - voice.seconds) <= 0.04
    assert abs(video.audio_seconds - voice.seconds) <= 0.04
    assert (video.video_start, video.audio_start) == (0, 0)
    assert (video.width, video.height, video.fps) == (256, 256, 25)
    assert (video.video_codec, video.audio_codec, video.faststart) == ("h264", "aac", True)


async def test_every_frame_moves_and_carries_the_mark(preview, example, tmp_path):
    """No two neighbours are alike, and the amber mark is in the corner of each."""
    await rendered(preview, await example(), tmp_path / "video.mp4")
    frames = pictures(tmp_path / "video.mp4")
    changes = [np.abs(one.astype(int) - other).mean() for one, other in itertools.pairwise(frames)]
    assert min(changes) > 0.05
    amber = np.array([255, 196, 0])
    for frame in frames[:: len(frames) // 10]:
        corner = frame[9:24, 9:60].reshape(-1, 3).astype(int)
        near = np.abs(corner - amber).max(axis=1) < 60
        assert near.mean() > 0.3


async def test_the_waveform_is_in_step_with_the_voice(preview, kept_inputs, tmp_path):
    """Where the voice starts and stops, the waveform does that has just passed its middle, to the frame."""
    voice = tone(4.0)
    for second in (0, 2):
        voice[:, second * 44100 : (second + 1) * 44100] = 0
    sound = write_wav(tmp_path / "voice.wav", voice).read_bytes()
    await rendered(preview, await kept_inputs(PORTRAIT.read_bytes(), sound, 4.0), tmp_path / "video.mp4")
    heard = [frame[222:244, 123:127].astype(int) for frame in pictures(tmp_path / "video.mp4")]
    blue = np.array([(np.abs(area - BAR_COLOUR).max(axis=2) < 70).sum() for area in heard])
    assert blue[2:24].max() < 12
    assert blue[27:49].min() > 12
    assert blue[53:74].max() < 12
    assert blue[77:98].min() > 12


@pytest.fixture
def square(tmp_path):
    """A portrait whose outermost pixels are red, and what draws it without a face."""
    pixels = np.full((512, 512, 3), 200, np.uint8)
    pixels[:8], pixels[-8:], pixels[:, :8], pixels[:, -8:] = [(255, 0, 0)] * 4
    Image.fromarray(pixels).save(tmp_path / "square.png")
    return tmp_path / "square.png"


def is_red(pixels):
    """Also through the dark strip."""
    return pixels[..., 0] > pixels[..., 1:].max(axis=-1).astype(int) + 40


def test_nothing_of_the_portrait_is_cut_off(square):
    """All four edges are in view wherever the camera looks."""
    scene = Scene(square, np.linspace(0, 1, 500, dtype=np.float32), frame_rate=25, max_side=512)
    for number in range(0, 500, 25):
        red = is_red(scene.frame(number))
        assert red[:60, 200:300].any(axis=0).all()
        assert red[-60:, 100:400].any()
        assert red[200:300, :60].any(axis=1).all()
        assert red[200:300, -60:].any(axis=1).all()


def dark_spot(scene, number):
    """Middle of the mouth's dark inside, as shares of the picture's sides; none if it is closed."""
    pixels = scene.frame(number)[:440].astype(int)
    down, across = np.nonzero(np.abs(pixels - THROAT_COLOUR).max(axis=-1) < 12)
    return (across.mean() / 512, down.mean() / 512, down.size) if down.size else None


def test_the_mouth_is_in_the_face_and_opens_with_the_voice(square):
    """At the lower part of its box; wider the louder the voice, and the portrait's own while it is silent."""
    levels = np.repeat(np.array([0, 0.5, 1], np.float32), 20)
    scene = Scene(square, levels, frame_rate=25, max_side=512, face=(0.3, 0.2, 0.3, 0.4))
    assert dark_spot(scene, 10) is None
    (across, down, half), (_, _, whole) = dark_spot(scene, 30), dark_spot(scene, 50)
    assert across == pytest.approx(0.45, abs=0.04)
    assert down == pytest.approx(0.52, abs=0.04)
    assert whole > 1.3 * half


def test_the_parts_of_a_voice_have_edges_and_a_clock(square):
    """An amber line in the waveform where a part begins and ends; the time changes from one tenth to the next."""
    scene = Scene(square, np.full(100, 0.5, np.float32), frame_rate=25, max_side=512)
    amber = [
        (np.abs(scene.frame(at)[450:480].astype(int) - EDGE_COLOUR).max(axis=-1) < 20).any() for at in (5, 95)
    ]
    assert amber == [True, True]
    clocks = [scene.frame(at)[22:34, 380:480].astype(int) for at in (0, 2, 3)]
    assert np.abs(clocks[0] - clocks[1]).max() == 0
    assert np.abs(clocks[1] - clocks[2]).max() > 100
    assert [clock_text(seconds) for seconds in (0, 59.96, 83.25)] == ["0:00.0", "0:59.9", "1:23.2"]


async def test_looks_tell_state_and_progress(settings, store, example):
    """Running with a share that grows and a time that remains, then done."""
    preview = open_provider(
        "preview",
        settings.model_copy(update={"preview": settings.preview.model_copy(update={"max_side": 512})}),
        store,
    )
    submission = await preview.submit(await example())
    snapshots = await follow(preview, submission)
    running = [snapshot for snapshot in snapshots if snapshot.state is RemoteState.RUNNING]
    shares = [snapshot.progress for snapshot in running]
    assert shares == sorted(shares)
    assert any(0 < share < 1 for share in shares)
    assert all(snapshot.eta_seconds >= 0 for snapshot in running if snapshot.progress)
    assert any(snapshot.eta_seconds > 0 for snapshot in running if snapshot.progress)
    assert (snapshots[-1].state, snapshots[-1].progress) == (RemoteState.DONE, 1.0)


async def test_it_is_free_and_needs_no_configuration(preview, brief, tmp_path):
    """No price, nothing billed, no key asked for."""
    preview.check_configured()
    assert preview.price_per_second == 0
    assert not preview.capabilities.paid
    submission = await preview.submit(await brief())
    await follow(preview, submission)
    assert (await preview.collect(submission)).billed_seconds == Decimal(0)


async def test_another_process_can_follow(settings, store, preview, brief, tmp_path):
    """Whoever holds the submission finds the render by its files, also after a first follower fetched it."""
    submission = await rendered(preview, await brief(), tmp_path / "first.mp4")
    other = open_provider("preview", settings, store)
    video = await other.collect(submission)
    await other.download(video, tmp_path / "second.mp4")
    assert (tmp_path / "first.mp4").read_bytes() == (tmp_path / "second.mp4").read_bytes()


async def test_a_killed_renderer_is_started_again(settings, preview, example, tmp_path):
    """Polling brings a dead render back to life: it is free."""
    submission = await preview.submit(await example())
    folder = folder_of(settings, submission)
    os.kill(int((folder / "renderer.pid").read_text()), signal.SIGKILL)
    snapshots = await follow(preview, submission)
    assert snapshots[-1].state is RemoteState.DONE
    assert (folder / "render.lock").read_text().split() == ["started", "started"]
    await preview.download(await preview.collect(submission), tmp_path / "video.mp4")
    assert probe_video(tmp_path / "video.mp4").frames == 203


async def test_a_renderer_that_keeps_dying_is_given_up(settings, preview, example):
    """The third death ends the request, as failed and not charged."""
    submission = await preview.submit(await example())
    folder = folder_of(settings, submission)
    snapshots = []
    async for snapshot in preview.watch(submission, 60):
        snapshots.append(snapshot)
        with contextlib.suppress(OSError, ValueError):
            os.kill(int((folder / "renderer.pid").read_text()), signal.SIGKILL)
    assert (snapshots[-1].state, snapshots[-1].billed) == (RemoteState.FAILED, False)
    assert f"died {MAX_STARTS} times" in snapshots[-1].message


async def test_cancel_stops_the_renderer(settings, preview, example):
    """A cancelled render ends as failed, is not started again, and leaves no process behind."""
    submission = await preview.submit(await example())
    assert await preview.cancel(submission) is CancelOutcome.REQUESTED
    snapshots = await follow(preview, submission)
    assert (snapshots[-1].state, snapshots[-1].kind, snapshots[-1].billed) == (
        RemoteState.FAILED,
        "cancelled",
        False,
    )
    with pytest.raises(RenderFailed, match="cancelled"):
        await preview.collect(submission)
    assert await preview.cancel(submission) is CancelOutcome.TOO_LATE
    with (folder_of(settings, submission) / "render.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # granted only once the renderer is gone
    assert not (folder_of(settings, submission) / "video.mp4").exists()


async def test_cancel_after_the_end_is_too_late(preview, brief, tmp_path):
    """A finished preview stays finished."""
    submission = await rendered(preview, await brief(), tmp_path / "video.mp4")
    assert await preview.cancel(submission) is CancelOutcome.TOO_LATE
    assert (await preview.poll(submission)).state is RemoteState.DONE


@pytest.fixture
def taken_slots(settings):
    """Every slot of this machine held, as by other renders; yields how to let go of them."""
    folder = settings.state_dir / "preview" / "slots"
    folder.mkdir(parents=True)
    held = [try_lock(folder / f"{number}.lock") for number in range(os.cpu_count())]

    def release():
        while held:
            os.close(held.pop())

    yield release
    release()


async def test_renders_wait_for_a_processor(taken_slots, preview, brief):
    """While every processor renders, a request is queued; polling starts it when one is free."""
    submission = await preview.submit(await brief())
    assert (await preview.poll(submission)).state is RemoteState.QUEUED
    with pytest.raises(ProviderUnavailable):
        await preview.collect(submission)
    taken_slots()
    assert (await follow(preview, submission))[-1].state is RemoteState.DONE


async def test_a_waiting_render_is_taken_out_of_the_queue(taken_slots, preview, brief):
    """Cancelled before its start, it is never rendered."""
    submission = await preview.submit(await brief())
    assert await preview.cancel(submission) is CancelOutcome.REMOVED
    taken_slots()
    assert (await preview.poll(submission)).state is RemoteState.FAILED


@pytest.mark.parametrize("request_id", ["pv-other-00000000", "../../etc", "slots", ""])
async def test_a_request_of_another_machine_is_lost(preview, request_id):
    """What has no files here is lost, and no id leads out of the directory."""
    submission = Submission.model_construct(
        render_id="r", provider=ProviderName.PREVIEW, request_id=request_id, submitted_at=datetime.now(UTC)
    )
    assert (await preview.poll(submission)).state is RemoteState.LOST
    with pytest.raises(RenderLost):
        await preview.collect(submission)


async def test_a_broken_input_fails_the_render(preview, kept_inputs):
    """The renderer's own words come back, and the failure is final."""
    submission = await preview.submit(
        await kept_inputs(b"not a picture", (EXAMPLES / "speech.wav").read_bytes())
    )
    snapshots = await follow(preview, submission)
    assert (snapshots[-1].state, snapshots[-1].kind) == (RemoteState.FAILED, "preview_failed")
    with pytest.raises(RenderFailed, match="UnidentifiedImageError") as caught:
        await preview.collect(submission)
    assert caught.value.billed is False


async def test_inputs_that_are_not_in_the_store_are_refused(settings, preview, brief, store):
    """Refused for certain, with nothing left behind."""
    inputs = await brief()
    await store.remove(inputs.segment.asset.key)
    with pytest.raises(SubmitRefused, match="inputs cannot be had"):
        await preview.submit(inputs)
    assert not list((settings.state_dir / "preview").glob("pv-*"))


async def test_a_store_that_does_not_answer_means_not_sent(settings, brief, unused_tcp_port):
    """Nothing was started, so it may be tried again."""
    absent = StoreSettings(
        endpoint=f"127.0.0.1:{unused_tcp_port}", access_key="a", secret_key="b", secure=False
    )
    store = Store(absent)
    with pytest.raises(NotSent):
        await open_provider("preview", settings, store).submit(await brief())
    await store.aclose()
    assert not list((settings.state_dir / "preview").glob("pv-*"))


async def test_fetched_previews_are_swept(settings, store, preview, brief, tmp_path):
    """A while after it was fetched a preview goes; who asks then learns that it is lost."""
    submission = await rendered(preview, await brief(), tmp_path / "video.mp4")
    video = await preview.collect(submission)
    os.utime(folder_of(settings, submission), (0, 0))
    later = open_provider("preview", settings, store)
    second = await later.submit(await brief())
    assert (await later.poll(submission)).state is RemoteState.LOST
    with pytest.raises(DownloadFailed):
        await later.download(video, tmp_path / "again.mp4")
    assert (await follow(later, second))[-1].state is RemoteState.DONE


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((512, 512), (720, 720)),
        ((300, 750), (288, 720)),
        ((1921, 1080), (720, 404)),
        ((4000, 3000), (720, 540)),
    ],
)
def test_sides_are_even_and_the_longest_is_as_set(size, expected):
    """yuv420p takes even sides only."""
    assert canvas_size(*size, 720) == expected
