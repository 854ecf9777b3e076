"""From the renders of a job to one file: each render inspected, put together under the original voice, inspected."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from tasks.media.facts import VideoFacts
from tasks.media.inspect import inspect_video
from tasks.media.poster import Stills
from tasks.media.stitch import Part, stitch
from tasks.models import Check, Plan, Render
from tasks.workspace import Workspace

#: A render whose length is within this of its voice, in seconds, is published as the provider made it.
CLOSE_ENOUGH = 0.1


@dataclass(frozen=True)
class Assembled:
    """A job's video before it is put in place, and all that was found out about it."""

    path: Path
    facts: VideoFacts
    checks: tuple[Check, ...]
    stills: Stills
    notes: tuple[str, ...] = ()


async def assemble(workspace: Workspace, plan: Plan, renders: Sequence[Render], folder: Path) -> Assembled:
    """Fetch, inspect and join the renders in `folder`. A failed check does not raise: it is in the result."""
    voice = folder / f"voice.{plan.voice.source.key.rsplit('.', 1)[-1]}"
    await workspace.store.download(plan.voice.source.key, voice)
    pieces = []
    for number, render in enumerate(renders):
        pieces.append(folder / f"part-{number:04d}.mp4")
        await workspace.store.download(render.key, pieces[-1])
    if len(pieces) == 1:
        return await asyncio.to_thread(_single, plan, pieces[0], voice, folder)
    heard = []
    for segment in plan.segments:
        heard.append(folder / f"segment-{segment.index:04d}.{segment.asset.key.rsplit('.', 1)[-1]}")
        await workspace.store.download(segment.asset.key, heard[-1])
    return await asyncio.to_thread(_several, plan, pieces, heard, voice, folder)


def _single(plan: Plan, piece: Path, voice: Path, folder: Path) -> Assembled:
    """As the provider made it, unless its length or its layout needs mending."""
    stills = _stills(folder)
    facts, checks = inspect_video(piece, plan.voice.seconds, voice=voice, stills=stills)
    sound = all(check.passed for check in checks)
    if not sound or (abs(facts.seconds - plan.voice.seconds) <= CLOSE_ENOUGH and facts.faststart):
        return Assembled(piece, facts, checks, stills)
    return _joined(plan, [piece], voice, folder)


def _several(plan: Plan, pieces: list[Path], heard: list[Path], voice: Path, folder: Path) -> Assembled:
    """Joined; a render that fails its own checks fails the whole, and says which one it was."""
    failed: list[Check] = []
    for segment, piece, sound in zip(plan.segments, pieces, heard, strict=True):
        _, checks = inspect_video(piece, segment.seconds, voice=sound)
        failed += [
            check.model_copy(update={"name": f"segment {segment.index + 1}: {check.name}"})
            for check in checks
            if not check.passed
        ]
    made = _joined(plan, pieces, voice, folder)
    return replace(made, checks=(*made.checks, *failed))


def _joined(plan: Plan, pieces: list[Path], voice: Path, folder: Path) -> Assembled:
    target = folder / "video.mp4"
    parts = [
        Part(path=piece, start=_exact(start), end=_exact(end))
        for piece, (start, end) in zip(pieces, _spans(plan), strict=True)
    ]
    stitched = stitch(parts, voice, target)
    stills = _stills(folder)
    facts, checks = inspect_video(target, plan.voice.seconds, voice=voice, stills=stills)
    return Assembled(target, facts, checks, stills, stitched.notes)


def _stills(folder: Path) -> Stills:
    return Stills(folder / "poster.jpg", folder / "contact.jpg")


def _spans(plan: Plan) -> list[tuple[float, float]]:
    return [(segment.start, segment.start + segment.seconds) for segment in plan.segments]


def _exact(seconds: float) -> Fraction:
    return Fraction(seconds).limit_denominator(1_000_000)
