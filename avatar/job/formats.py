"""Further forms of a published video: made from what was bought, each its own object, the original kept."""

import asyncio
import logging
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from avatar.errors import AvatarError
from avatar.job.inputs import open_input
from avatar.job.record import caption_files, file_marks, place_video, write_record
from avatar.media.decoder_calls import inspect_video, make_form
from avatar.media.facts import FormSpec, MadeForm, form_of
from avatar.models import Video
from avatar.stored_models import Check, Form
from avatar.workspace import Workspace

log = logging.getLogger("avatar.forms")

#: What a form must come to: dBTP, LUFS beside what was wanted, SSIM.
HIGHEST_PEAK, OFF, LOWEST_QUALITY = -1.0, 1.0, 0.95


async def add_forms(workspace: Workspace, video: Video, names: Sequence[str]) -> Video:
    """Make the forms that the video does not have yet, and name them in its record. Buys nothing.

    Raises:
        InvalidInput: a logo, an intro or an outro of the settings cannot be had.
        VideoRejected: the video, or one of these, does not decode.
        StoreUnavailable: the store failed. What was made is made again.
    """
    had = {form.name: form for form in video.forms if form.made_of == video.sha256}
    missing = [name for name in dict.fromkeys(names) if name not in had]
    if not missing:
        return video
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=workspace.scratch)))
        await workspace.store.download(video.key, folder / "video.mp4")
        extras = await _extras(workspace, stack)
        for name in missing:
            had[name] = await _made(workspace, video, name, folder, replace(extras, face=video.portrait.face))
    others = {form.name: form for form in video.forms} | had
    changed = video.model_copy(update={"forms": tuple(others.values())})
    await write_record(workspace, changed)
    return changed


async def add_forms_or_note(workspace: Workspace, video: Video, names: Sequence[str]) -> Video:
    """Like `add_forms`, for a video that was just published: a form that fails is a note, and takes nothing from it."""
    try:
        return await add_forms(workspace, video, names)
    except (AvatarError, OSError) as error:
        log.warning("The forms of job %s were not made: %s", video.job_id, error)
        noted = video.model_copy(update={"notes": (*video.notes, f"its forms were not made: {error}")})
        await write_record(workspace, noted)
        return noted


async def _extras(workspace: Workspace, stack: AsyncExitStack) -> FormSpec:
    wanted = workspace.settings.forms
    files: dict[str, Any] = {}
    for what in ("logo", "intro", "outro"):
        if source := getattr(wanted, what):
            files[what] = (await stack.enter_async_context(open_input(workspace, source, what=what)),)
    return replace(FormSpec("same", loudness=wanted.loudness, label=wanted.label), **files)


async def _made(workspace: Workspace, video: Video, name: str, folder: Path, extras: FormSpec) -> Form:
    asked, target = form_of(name), folder / "form.mp4"
    spec = replace(extras, shape=asked.shape, fit=asked.fit)
    tracks = await caption_files(workspace, video.captions, folder)
    made = await asyncio.to_thread(make_form, folder / "video.mp4", target, spec, file_marks(video), tracks)
    _, seen = await asyncio.to_thread(inspect_video, target, made.seconds)
    file = f"video-{name.replace(':', 'x').replace('/', '-')}"
    placed = await place_video(workspace, video, target, file)
    figures = {
        key: getattr(made, key)
        for key in ("seconds", "width", "height", "loudness_before", "loudness", "peak", "quality")
    }
    checks = (*seen, *_checks(made, spec.loudness))
    return Form(name=name, made_of=video.sha256, checks=checks, **figures, **placed)


def _checks(made: MadeForm, wanted: float | None) -> list[Check]:
    peak, quality = made.peak, made.quality
    checks = [
        Check(
            name="true peak",
            value=f"{peak:.1f} dBTP",
            bound=f"at most {HIGHEST_PEAK:g} dBTP",
            passed=wanted is None or peak <= HIGHEST_PEAK,
        ),
        Check(
            name="likeness to the original",
            value=f"{quality:.3f} SSIM",
            bound=f"at least {LOWEST_QUALITY:g}",
            passed=quality >= LOWEST_QUALITY,
        ),
    ]
    if wanted is not None:
        off, bound = abs(made.loudness - wanted), f"{wanted:g} LUFS within {OFF:g}"
        checks.append(
            Check(name="loudness", value=f"{made.loudness:.1f} LUFS", bound=bound, passed=off <= OFF)
        )
    return checks
