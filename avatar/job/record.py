"""A job's folder in the store: its video, its captions, and the record that tells of all of it."""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from avatar.job.index import add_video
from avatar.media.content_credentials import Origin, sign
from avatar.media.disclosure import CaptionTrack, Marks, disclosure_for
from avatar.models import Plan, Video
from avatar.store.objects import KeyTaken, hash_file
from avatar.stored_models import Caption
from avatar.workspace import Workspace

log = logging.getLogger("avatar.record")

#: What captions are served as.
VTT = "text/vtt"


def video_prefix(job_id: str) -> str:
    return f"videos/{job_id}/"


async def place_video(
    workspace: Workspace, job: Plan | Video, path: Path, name: str = "video"
) -> dict[str, Any]:
    """Put a video beside the others of its job, signed if a certificate is set; what its record says of it."""
    path, credentials = await asyncio.to_thread(_signed, workspace, job, path)
    sha256 = await asyncio.to_thread(hash_file, path)
    begin = f"{video_prefix(job.job_id)}{name}"
    try:
        key = f"{begin}.mp4"
        await workspace.store.put_file(key, path, content_type="video/mp4", sha256=sha256, expect_new=True)
    except KeyTaken:  # nothing is overwritten: another version of a media library may write other bytes
        key = f"{begin}-{sha256[:16]}.mp4"
        await workspace.store.put_file(key, path, content_type="video/mp4", sha256=sha256)
    uri = f"s3://{workspace.store.bucket}/{key}"
    return {"sha256": sha256, "size": path.stat().st_size, "key": key, "uri": uri, "credentials": credentials}


def _signed(workspace: Workspace, job: Plan | Video, path: Path) -> tuple[Path, str]:
    """What cannot be signed is put in place as it is: it is paid for. Its record says so."""
    if workspace.settings.c2pa.certificate is None:
        return path, ""
    inputs = {"portrait": job.portrait.source.sha256, "voice": job.voice.source.sha256}
    target = path.with_suffix(".signed.mp4")
    try:
        signer = sign(path, target, Origin(job.job_id, job.title, job.model, inputs), workspace.settings.c2pa)
    except ValueError as error:
        log.warning("The video of job %s is published without content credentials: %s", job.job_id, error)
        return path, f"not signed: {error}"
    return target, signer


async def place_captions(
    workspace: Workspace, job_id: str, captions: Sequence[Caption]
) -> tuple[Caption, ...]:
    """Put captions beside the video of their job: `captions.de.vtt`."""
    placed = []
    for caption in captions:
        name = f"{video_prefix(job_id)}captions{f'.{caption.language}' if caption.language else ''}"
        key = await _free_key(workspace, name, ".vtt", caption.sha256)
        data = (await workspace.store.get(caption.key)).data
        await workspace.store.put(key, data, content_type=VTT, metadata={"sha256": caption.sha256})
        placed.append(caption.model_copy(update={"key": key}))
    return tuple(placed)


def file_marks(job: Plan | Video) -> Marks:
    return Marks(disclosure_for(job.language), job.language, job.model, job.job_id)


async def caption_files(
    workspace: Workspace, captions: Sequence[Caption], folder: Path
) -> tuple[CaptionTrack, ...]:
    """The captions as files in `folder`."""
    tracks = []
    for number, caption in enumerate(captions):
        tracks.append(CaptionTrack(folder / f"captions-{number}.vtt", caption.language))
        await workspace.store.download(caption.key, tracks[-1].path)
    return tuple(tracks)


async def _free_key(workspace: Workspace, name: str, end: str, sha256: str) -> str:
    """Where a file goes. Nothing is overwritten: another version of a media library may write other bytes."""
    kept = await workspace.store.exists(f"{name}{end}")
    return f"{name}{end}" if kept is None or kept.sha256 == sha256 else f"{name}-{sha256[:16]}{end}"


async def write_record(workspace: Workspace, video: Video) -> None:
    await add_video(workspace.store, video)
    record = video.model_dump_json(indent=2).encode()
    await workspace.store.put(video.manifest_key, record, content_type="application/json")
