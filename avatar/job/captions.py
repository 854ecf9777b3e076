"""Captions of a job: read and checked before anything is paid, put in place with its video, free to change later."""

import asyncio
import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from avatar.errors import InvalidInput
from avatar.job.inputs import open_input
from avatar.job.record import (
    VTT,
    caption_files,
    file_marks,
    place_captions,
    place_video,
    write_record,
)
from avatar.media.decoder_calls import read_captions, write_marked
from avatar.media.disclosure import disclosure_for
from avatar.media.webvtt import KINDS, as_vtt, language_of
from avatar.models import AvatarJob, Plan, Video, shown
from avatar.stored_models import Caption, Voice
from avatar.waiting import patiently
from avatar.workspace import Workspace


async def with_captions(workspace: Workspace, job: AvatarJob, plan: Plan) -> Plan:
    """The plan with the job's captions, which are checked against its voice and kept in the store.

    Raises:
        InvalidInput: they cannot be used; file, cue and remedy are named. Nothing was sent.
        SourceUnavailable, StoreUnavailable: try again.
    """
    if not job.captions:
        return plan
    made = await patiently(lambda: ready_captions(workspace, job.captions, plan.voice, job.language))
    return plan.model_copy(update={"captions": made})


async def ready_captions(
    workspace: Workspace, sources: Sequence[str], voice: Voice, language: str
) -> tuple[Caption, ...]:
    """Each source as WebVTT in the store. `language` is that of a file whose name tells none."""
    made = [await _ready(workspace, source, voice, language) for source in sources]
    for number, caption in enumerate(made):
        if any(caption.language == other.language for other in made[:number]):
            spoken = caption.language or "a language that its name does not tell"
            raise InvalidInput(
                f"The captions {caption.name!r} are not the only ones in {spoken}. Nothing was sent or spent.",
                hint="Name the language before the ending, as in welcome.de.srt.",
            )
    return tuple(made)


async def _ready(workspace: Workspace, source: str, voice: Voice, language: str) -> Caption:
    name = PurePosixPath(shown(source)).name
    if PurePosixPath(name).suffix.lower() not in KINDS:
        raise InvalidInput(
            f"The captions {name!r} are none of {', '.join(KINDS)}. Nothing was sent or spent.",
            hint="Give SubRip (.srt), WebVTT (.vtt), or the text alone (.txt).",
        )
    script = name.lower().endswith(".txt")
    async with open_input(workspace, source, what="captions") as path:
        if script:
            async with workspace.local_copy(voice.heard) as sound:
                cues = await asyncio.to_thread(read_captions, path, name, voice.seconds, sound)
        else:
            cues = await asyncio.to_thread(read_captions, path, name, voice.seconds)
    data = as_vtt(cues).encode()
    sha256 = hashlib.sha256(data).hexdigest()
    key = f"assets/{sha256}.vtt"
    await workspace.store.put(key, data, content_type=VTT, metadata={"sha256": sha256})
    return Caption(
        language=language_of(name) or language,
        key=key,
        sha256=sha256,
        cues=len(cues),
        approximate=script,
        name=name,
    )


async def caption_video(workspace: Workspace, video: Video, sources: Sequence[str]) -> Video:
    """Give a video captions; those it has in the same language go. Its record names a new file, the old one is kept.

    Buys nothing. Raises as `with_captions` does.
    """
    made = await ready_captions(workspace, sources, video.voice, video.language)
    had = {caption.language: caption for caption in video.captions}
    if all(each.language in had and had[each.language].sha256 == each.sha256 for each in made):
        return video
    captions = tuple({**had, **{each.language: each for each in made}}.values())
    with tempfile.TemporaryDirectory(dir=workspace.scratch) as folder:
        source, target = Path(folder) / "video.mp4", Path(folder) / "captioned.mp4"
        await workspace.store.download(video.key, source)
        tracks = await caption_files(workspace, captions, Path(folder))
        await asyncio.to_thread(write_marked, source, target, file_marks(video), tracks)
        placed = await place_video(workspace, video, target)
    changed = video.model_copy(
        update={
            **placed,
            "captions": await place_captions(workspace, video.job_id, captions),
            "disclosure": disclosure_for(video.language),
            "notes": (*video.notes, f"captions changed; before: {video.key}"),
        }
    )
    await write_record(workspace, changed)
    return changed
