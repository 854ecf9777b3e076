"""Manifests of videos that nobody rendered, and the objects beside them."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from avatar.job.index import add_video
from avatar.models import Video
from avatar.stored_models import Asset, Check, Cost, Portrait, Render, Segment, Voice

START = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
PASSED = Check(name="picture length", value="8.16 s", bound="8.12 to 8.18 s", passed=True)
FAILED = Check(name="sound", value="silent", bound="as loud as the voice", passed=False)


def digest(number):
    return f"{number:064x}"


def asset(number, extension, content_type):
    sha256 = digest(number)
    return Asset(key=f"assets/{sha256}.{extension}", sha256=sha256, size=5, content_type=content_type)


def render(number, **facts):
    given = {
        "render_id": f"{number:032x}",
        "provider": "fal",
        "request_id": f"req-{number}",
        "key": f"renders/{number:032x}/{digest(number)}.mp4",
        "sha256": digest(number),
        "size": 5,
        "seconds": 8.16,
        "width": 720,
        "height": 720,
        "quoted": Decimal("1.04"),
        "billed": Decimal("0.94"),
        "submitted_at": START,
        "collected_at": START,
    }
    return Render(**(given | facts))


def make_video(number=1, **facts):
    """The manifest of job `number`, published that many minutes after START."""
    job_id = facts.get("job_id", f"{number:032x}")
    sound = asset(0xC0FFEE, "mp3", "audio/mpeg")
    face = asset(0xFACADE, "png", "image/png")
    given = {
        "job_id": job_id,
        "provider": "fal",
        "model": "kling-ai-avatar-v2-pro",
        "uri": f"s3://avatar/videos/{job_id}/video.mp4",
        "key": f"videos/{job_id}/video.mp4",
        "poster_key": f"videos/{job_id}/poster.jpg",
        "manifest_key": f"videos/{job_id}/manifest.json",
        "sha256": digest(number),
        "size": 5,
        "seconds": 8.16,
        "width": 720,
        "height": 720,
        "cost": Cost(quoted=Decimal("1.04"), billed=Decimal("0.94")),
        "segments": (Segment(index=0, start=0, seconds=8.16, asset=sound, sha256=sound.sha256),),
        "renders": (render(number),),
        "checks": (PASSED,),
        "portrait": Portrait(source=face, asset=face, sha256=face.sha256, width=512, height=512),
        "voice": Voice(
            source=sound,
            seconds=8.16,
            samples=359856,
            sample_rate=44100,
            channels=1,
            codec="mp3",
            container="mp3",
            peak=0.8,
            loudness=-18.0,
        ),
        "prompt": f"says hello number {number}",
        "published_at": START + timedelta(minutes=number),
        "timings": {"render": 31.0},
        "versions": {"avatar-flows": "0.1.0"},
    }
    return Video(**(given | facts))


async def put_video(store, number=1, **facts):
    """A job's objects as `publish_video` leaves them, each holding a few bytes."""
    video = make_video(number, **facts)
    await store.put(video.key, b"video", content_type="video/mp4")
    await store.put(video.poster_key, b"still", content_type="image/jpeg")
    for each in (video.portrait.asset, video.voice.source):
        await store.put(each.key, b"input", content_type=each.content_type)
    await put_manifest(store, video)
    return video


async def put_manifest(store, video):
    await add_video(store, video)
    await store.put(
        f"videos/{video.job_id}/manifest.json",
        video.model_dump_json().encode(),
        content_type="application/json",
    )
