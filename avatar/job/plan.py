"""Decide everything about a job before money is spent: its inputs ready for the provider, its cuts, its price, and what is likely to be regretted."""

import asyncio
import hashlib
import json
import math
from collections.abc import Awaitable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter

from avatar.errors import InvalidInput
from avatar.media.decoder_calls import cut_voice, plan_cuts, prepare_portrait, prepare_voice, probe_voice
from avatar.media.extract_voice import BREATH_AFTER, BREATH_BEFORE, COPY_SPEC, VoiceAlone, extract_voice
from avatar.media.facts import (
    CUTS_SPEC,
    RECOLOURED_SPEC,
    VOICE_SPEC,
    Cut,
    PortraitFacts,
    SegmentFile,
    VoiceFacts,
    check_voice,
)
from avatar.media.kinds import sniff_file
from avatar.models import AvatarJob, Limits, Plan, job_id, shown, title_for
from avatar.money.quote import quote_segments
from avatar.option_names import named
from avatar.providers.base import Provider
from avatar.settings import AvatarSettings
from avatar.store.objects import KeyTaken, hash_file
from avatar.stored_models import Asset, InputWarning, Portrait, Quote, Segment, Speech, Voice
from avatar.workspace import Workspace

T = TypeVar("T")

#: What a plan holds: raise it when that changes, so that cached ones are made anew.
PLAN_SPEC = "q2"
_SEGMENTS = TypeAdapter(tuple[Segment, ...])


async def plan_job(workspace: Workspace, job: AvatarJob, portrait: Asset, voice: Asset) -> Plan:
    """Decode both inputs fully, convert what needs it, and price the result. Spends nothing.

    Raises:
        InvalidInput: an input cannot be used, with what was found and what is needed.
        StoreUnavailable: the store failed.
    """
    provider = workspace.provider(job.provider, job.model)
    provider.check_offered()
    ready, (sound, segments) = await asyncio.gather(
        _as_named(
            ready_portrait(workspace, portrait, provider.limits, _name(job.portrait)), portrait, job.portrait
        ),
        _as_named(
            ready_voice(workspace, voice, provider.limits, _name(job.voice), trim=job.trim), voice, job.voice
        ),
    )
    plan = plan_ready(provider, job, ready, sound, segments)
    refuse_warned(workspace.settings, plan)
    return plan


def _name(source: str) -> str:
    return shown(source).rsplit("/", 1)[-1]


def refuse_warned(settings: AvatarSettings, plan: Plan) -> None:
    """Raise `InvalidInput` if AVATAR_WARNINGS makes a refusal of what there is to warn of."""
    if settings.warnings == "refuse" and plan.warnings:
        raise InvalidInput(
            " ".join([*(warning.text for warning in plan.warnings), "Nothing was sent or spent."]),
            hint="Mend it, or set AVATAR_WARNINGS=show.",
        )


async def _as_named(made_ready: Awaitable[T], asset: Asset, source: str) -> T:
    """Errors name the file as the user did, not the copy of it that was looked at."""
    try:
        return await made_ready
    except InvalidInput as error:
        text = error.message.replace(asset.key.rsplit("/", 1)[-1], shown(source).rsplit("/", 1)[-1])
        if "Nothing was sent" not in text:
            text += " Nothing was sent or spent."
        raise InvalidInput(text, hint=error.hint) from error


def plan_ready(
    provider: Provider, job: AvatarJob, portrait: Portrait, voice: Voice, segments: tuple[Segment, ...]
) -> Plan:
    """The plan for inputs that were made ready for this provider, perhaps for another job."""
    quote = quote_segments(segments, provider=provider.name, price_per_second=provider.price_per_second)
    return Plan(
        job_id=identify(job, portrait.source, voice.source, provider),
        prompt=job.prompt,
        model=provider.model,
        provider=provider.name,
        portrait=portrait,
        voice=voice,
        segments=segments,
        quote=quote,
        take=job.take,
        continuity=job.continuity,
        warnings=(*warn_of_portrait(portrait), *warn_of_voice(voice, quote)),
        title=title_for(job),
        language=job.language,
        labels=job.labels,
        files={"portrait": _name(job.portrait), "voice": _name(job.voice)},
        formats=job.formats,
    )


def identify(job: AvatarJob, portrait: Asset, voice: Asset, provider: Provider) -> str:
    return job_id(job, portrait_sha256=portrait.sha256, voice_sha256=voice.sha256, model=provider.model)


async def ready_portrait(workspace: Workspace, source: Asset, limits: Limits, name: str = "") -> Portrait:
    """The portrait as this provider takes it. `name` is what its user calls it."""
    async with workspace.local_copy(source) as path:
        target = path.with_suffix(".ready")
        facts = await asyncio.to_thread(prepare_portrait, path, target, limits, name)
        asset = source
        if facts.changed:
            asset = await _keep_derived(workspace, source.sha256, target, _spec(RECOLOURED_SPEC, limits))
    return Portrait(
        source=source,
        asset=asset,
        sha256=_identity(source, facts.spec, limits),
        width=facts.width,
        height=facts.height,
        notes=facts.notes,
        searched=facts.searched,
        face=facts.face,
    )


async def ready_voice(
    workspace: Workspace, source: Asset, limits: Limits, name: str = "", *, trim: bool = False
) -> tuple[Voice, tuple[Segment, ...]]:
    """The voice, and the pieces of it that fit the limits: one, untouched where possible, or several, cut.

    Args:
        workspace: where they are kept.
        source: the file as it came.
        limits: of the provider.
        name: what its user calls the file.
        trim: whether silence at both ends is left out.
    """
    async with workspace.local_copy(source) as path:
        found = await asyncio.to_thread(probe_voice, path, name)
        alone = await asyncio.to_thread(extract_voice, path, found, path.parent, trim=trim)
        kept = await _keep_derived(workspace, source.sha256, alone.path, alone.spec) if alone.spec else None
        if alone.facts.seconds > limits.max_seconds:
            speech, segments = alone.facts.speech, await _several(workspace, source, alone, limits)
        else:
            await asyncio.to_thread(check_voice, alone.facts, limits)
            speech, segment = await _whole(workspace, source, alone, limits)
            segments = (segment,)
    return _voice(source, kept, found, alone.facts, speech), segments


async def _whole(
    workspace: Workspace, source: Asset, alone: VoiceAlone, limits: Limits
) -> tuple[Speech, Segment]:
    """The voice as one segment, and what is heard in the very file that is sent."""
    target, facts = alone.path.with_suffix(".ready"), alone.facts
    prepared = await asyncio.to_thread(prepare_voice, alone.path, target, facts, limits)
    asset, speech = source, facts.speech
    spec = "-".join(part for part in (alone.spec, prepared.spec) if part)
    if prepared.changed or alone.spec:
        asset = await _keep_derived(workspace, source.sha256, target, _spec(spec or COPY_SPEC, limits))
        speech = (await asyncio.to_thread(probe_voice, target)).speech
    identity = _identity(source, spec, limits)
    return speech, Segment(index=0, start=0.0, seconds=facts.seconds, asset=asset, sha256=identity)


async def _several(
    workspace: Workspace, source: Asset, alone: VoiceAlone, limits: Limits
) -> tuple[Segment, ...]:
    """The pieces of a voice, each named by its sound: a piece that an edit elsewhere left alone is not bought again.

    They are decided once for a voice and kept. Another decoder may differ in a sample's last bit, which would give
    the pieces other names, and have them bought anew.
    """
    spec = _spec("-".join(part for part in (CUTS_SPEC, VOICE_SPEC, alone.spec) if part), limits)
    key = f"assets/{source.sha256}.{spec}.segments.json"
    if await workspace.store.exists(key) is None:
        segments = await _cut(workspace, alone.path, alone.facts, limits, spec)
        await workspace.store.create(key, _SEGMENTS.dump_json(segments))
    return _SEGMENTS.validate_json((await workspace.store.get(key)).data)


async def _cut(
    workspace: Workspace, path: Path, facts: VoiceFacts, limits: Limits, spec: str
) -> tuple[Segment, ...]:
    cuts = await asyncio.to_thread(plan_cuts, path, facts, limits)
    files = await asyncio.to_thread(cut_voice, path, facts, cuts, path.parent, limits)
    pieces = zip(cuts, files, strict=True)
    return tuple([await _segment(workspace, cut, file, facts, spec) for cut, file in pieces])


async def _segment(
    workspace: Workspace, cut: Cut, file: SegmentFile, facts: VoiceFacts, spec: str
) -> Segment:
    return Segment(
        index=cut.index,
        start=cut.start / facts.sample_rate,
        seconds=file.seconds,
        asset=await _keep_derived(workspace, file.sha256, file.path, spec),
        sha256=file.sha256,
        loudness=None if math.isnan(cut.loudness) else round(cut.loudness, 1),
        pause=round(cut.pause, 3),
    )


def _voice(source: Asset, alone: Asset | None, found: VoiceFacts, heard: VoiceFacts, speech: Speech) -> Voice:
    """What the file is, and what is heard of it."""
    return Voice(
        source=source,
        alone=alone,
        seconds=heard.seconds,
        samples=heard.samples,
        sample_rate=heard.sample_rate,
        channels=heard.channels,
        codec=found.codec,
        container=found.container,
        peak=heard.peak,
        loudness=heard.loudness,
        notes=heard.notes,
        speech=speech,
        clipped=found.clipped,
    )


def _spec(version: str, limits: Limits) -> str:
    """Version of a conversion together with the limits it was made for."""
    return f"{version}-{hashlib.sha256(repr(limits).encode()).hexdigest()[:8]}"


def _identity(source: Asset, version: str, limits: Limits) -> str:
    """What an input counts as in the id of a render: the source itself, or what a preparation makes of it."""
    if not version:
        return source.sha256
    return hashlib.sha256(f"{source.sha256}:{_spec(version, limits)}".encode()).hexdigest()


async def _keep_derived(workspace: Workspace, content: str, path: Path, spec: str) -> Asset:
    """Store a converted input once. The first conversion wins: another library version may write other bytes."""
    extension, content_type = sniff_file(path)
    key = f"assets/{content}.{spec}.{extension}"
    sha256 = await asyncio.to_thread(hash_file, path)
    try:
        kept = await workspace.store.put_file(key, path, content_type=content_type, sha256=sha256)
        await workspace.copies.keep(key, path)
    except KeyTaken:
        kept = await workspace.store.stat(key)
    if kept.sha256 is None:
        raise RuntimeError(f"the store dropped the sha256 of {key}")
    return Asset(key=key, sha256=kept.sha256, size=kept.size, content_type=content_type)


def _names(job: AvatarJob) -> str:
    """What the job is called, as a piece of a key: names may hold what no store takes in one."""
    more = [_name(job.portrait), _name(job.voice), *([job.formats] if job.formats else [])]
    names = json.dumps([title_for(job), job.language, dict(job.labels), *more], sort_keys=True)
    return hashlib.sha256(names.encode()).hexdigest()[:8]


def plan_cache_key(workspace: Workspace, job: AvatarJob, portrait: Asset, voice: Asset) -> str:
    """Everything a plan depends on, so that a cached one is as good as a new one."""
    provider = workspace.provider(job.provider, job.model)
    versions = (PLAN_SPEC, RECOLOURED_SPEC, COPY_SPEC, CUTS_SPEC, workspace.settings.warnings, _names(job))
    spec = _spec(f"{'-'.join(versions)}-{provider.price_per_second}", provider.limits)
    return f"plans/{identify(job, portrait, voice, provider)}/{provider.name}-{spec}"


__all__ = ["warn_of_portrait", "warn_of_speech", "warn_of_voice"]

#: dBFS in one channel under which a voice is called very quiet. Speech is usually recorded at -30 to -15.
QUIET_DBFS = -42.0
#: A sound that is this lively (dB) and this long loud enough (seconds) may be speech.
LIVELY_DB, ENOUGH_SECONDS = 2.0, 0.8
#: Seconds of silence at both ends together that are worth a word.
LONG_SILENCE = 2.0
#: Pixels of a portrait's shorter side, and of a face's height, under which the video is likely to be poor.
SMALL_SIDE, SMALL_FACE = 512, 64
#: Share of the picture's height that a face may fill, and how near to an edge it may come.
TIGHT, EDGE = 0.8, 0.0


def warn_of_portrait(portrait: Portrait | PortraitFacts) -> Iterator[InputWarning]:
    """Warnings about a portrait: its size, and the face in it, where one was looked for."""
    size = f"{portrait.width}×{portrait.height} px"
    if min(portrait.width, portrait.height) < SMALL_SIDE:
        yield InputWarning(
            about="portrait",
            kind="small",
            text=f"The portrait is small ({size}): the video will be as blurred as it is.",
            hint=f"Give one of {SMALL_SIDE} px or more on each side.",
        )
    if portrait.searched and portrait.face is None:
        yield InputWarning(
            about="portrait",
            kind="no-face",
            text="No face was found in the portrait.",
            hint="A person should look into the camera; animals and drawings may work all the same.",
        )
    if portrait.face is not None:
        yield from _warn_of_face(portrait, portrait.face)


def _warn_of_face(
    portrait: Portrait | PortraitFacts, face: tuple[float, float, float, float]
) -> Iterator[InputWarning]:
    left, top, width, height = face
    pixels = round(height * portrait.height)
    if pixels < SMALL_FACE:
        yield InputWarning(
            about="portrait",
            kind="face-small",
            text=f"The face in the portrait is only {pixels} px high.",
            hint="Crop the picture to head and shoulders, or take a larger one.",
        )
    beyond = min(left, top) < EDGE or max(left + width, top + height) > 1 - EDGE
    if height > TIGHT or beyond:
        yield InputWarning(
            about="portrait",
            kind="face-cut",
            text="The face fills the portrait to its edges, or is cut off by them.",
            hint="Leave room around head and shoulders: the head moves.",
        )


def warn_of_voice(voice: Voice, quote: Quote) -> Iterator[InputWarning]:
    """Warnings about a voice, measured on what is sent. A plan of an earlier version has no measures."""
    if voice.speech is not None:
        yield from warn_of_speech(voice.speech, voice.seconds, quote, clipped=voice.clipped)


def warn_of_speech(speech: Speech, seconds: float, quote: Quote, *, clipped: bool) -> Iterator[InputWarning]:
    """Warnings about what is heard in one channel of a voice, and what its silence costs."""
    if speech.loudness < QUIET_DBFS:
        yield InputWarning(
            about="voice",
            kind="quiet",
            text=f"The voice is very quiet: {speech.loudness:.0f} dBFS in one channel.",
            hint="Raise its level: speech is usually at -30 to -15 dBFS.",
        )
    elif speech.liveliness < LIVELY_DB or speech.loud < ENOUGH_SECONDS:
        yield InputWarning(
            about="voice",
            kind="no-speech",
            text="The voice does not sound like speech: it is a steady sound, or hardly any.",
            hint="Listen to it before it is paid for.",
        )
    if clipped:
        yield InputWarning(
            about="voice",
            kind="clipped",
            text="The voice was recorded too loud: its loudest parts are cut off.",
            hint="Record it at a lower level.",
        )
    if speech.head + speech.tail >= LONG_SILENCE:
        yield _warn_of_silence(seconds, speech, quote)


def _warn_of_silence(seconds: float, speech: Speech, quote: Quote) -> InputWarning:
    idle = max(0.0, speech.head - BREATH_BEFORE) + max(0.0, speech.tail - BREATH_AFTER)
    saved = (math.ceil(seconds) - math.ceil(seconds - idle)) * quote.price_per_second
    cost = min(saved.quantize(Decimal("0.01")), quote.amount)
    price = f" They cost ${cost:.2f} of ${quote.amount:.2f}." if cost else ""
    return InputWarning(
        about="voice",
        kind="silence",
        text=f"The voice is silent for its first {speech.head:.1f} s and its last {speech.tail:.1f} s.{price}",
        hint=f"{named('trim')} leaves them out.",
        cost=cost,
    )
