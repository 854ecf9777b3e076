"""Decide everything about a job before money is spent: its inputs ready for the provider, its cuts, its price."""

import asyncio
import dataclasses
import hashlib
import math
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter

from avatar.errors import InvalidInput
from avatar.job.inputs import sniff
from avatar.media.cuts import CUTS_SPEC, Cut, plan_cuts
from avatar.media.portrait import PORTRAIT_SPEC, prepare_portrait
from avatar.media.probe import VoiceFacts, probe_voice
from avatar.media.voice import VOICE_SPEC, SegmentFile, check_voice, cut_voice, prepare_voice
from avatar.models import Asset, AvatarJob, Limits, Plan, Portrait, Segment, Voice, job_id, shown
from avatar.money.quote import quote_segments
from avatar.providers.base import Provider
from avatar.store.objects import hash_file
from avatar.workspace import Workspace

T = TypeVar("T")

_SEGMENTS = TypeAdapter(tuple[Segment, ...])


async def plan_job(workspace: Workspace, job: AvatarJob, portrait: Asset, voice: Asset) -> Plan:
    """Decode both inputs fully, convert what needs it, and price the result. Spends nothing.

    Raises:
        InvalidInput: an input cannot be used, with what was found and what is needed.
        StoreUnavailable: the store failed.
    """
    provider = workspace.provider(job.provider)
    ready, (sound, segments) = await asyncio.gather(
        _as_named(ready_portrait(workspace, portrait, provider.limits), portrait, job.portrait),
        _as_named(ready_voice(workspace, voice, provider.limits), voice, job.voice),
    )
    return plan_ready(provider, job, ready, sound, segments)


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
    return Plan(
        job_id=identify(job, portrait.source, voice.source, provider),
        prompt=job.prompt,
        model=provider.model,
        provider=provider.name,
        portrait=portrait,
        voice=voice,
        segments=segments,
        quote=quote_segments(segments, provider=provider.name, price_per_second=provider.price_per_second),
        take=job.take,
        continuity=job.continuity,
    )


def identify(job: AvatarJob, portrait: Asset, voice: Asset, provider: Provider) -> str:
    return job_id(job, portrait_sha256=portrait.sha256, voice_sha256=voice.sha256, model=provider.model)


async def ready_portrait(workspace: Workspace, source: Asset, limits: Limits) -> Portrait:
    async with workspace.local_copy(source) as path:
        target = path.with_suffix(".ready")
        facts = await asyncio.to_thread(prepare_portrait, path, target, limits)
        asset, identity = source, source.sha256
        if facts.changed:
            spec = _spec(PORTRAIT_SPEC, limits)
            asset = await _keep_derived(workspace, source.sha256, target, spec)
            identity = _derived_identity(source, spec)
    return Portrait(
        source=source, asset=asset, sha256=identity, width=facts.width, height=facts.height, notes=facts.notes
    )


async def ready_voice(
    workspace: Workspace, source: Asset, limits: Limits
) -> tuple[Voice, tuple[Segment, ...]]:
    """The voice, and the pieces of it that fit the limits: one, untouched where possible, or several, cut."""
    async with workspace.local_copy(source) as path:
        facts = await asyncio.to_thread(probe_voice, path)
        if facts.seconds > limits.max_seconds:
            segments = await _several(workspace, source, path, facts, limits)
        else:
            await asyncio.to_thread(check_voice, facts, limits)
            segments = (await _whole(workspace, source, path, facts, limits),)
    return _voice(source, facts), segments


async def _whole(
    workspace: Workspace, source: Asset, path: Path, facts: VoiceFacts, limits: Limits
) -> Segment:
    target = path.with_suffix(".ready")
    asset, identity = source, source.sha256
    if await asyncio.to_thread(prepare_voice, path, target, facts, limits):
        spec = _spec(VOICE_SPEC, limits)
        asset = await _keep_derived(workspace, source.sha256, target, spec)
        identity = _derived_identity(source, spec)
    return Segment(index=0, start=0.0, seconds=facts.seconds, asset=asset, sha256=identity)


async def _several(
    workspace: Workspace, source: Asset, path: Path, facts: VoiceFacts, limits: Limits
) -> tuple[Segment, ...]:
    """The pieces of a voice, each named by its sound: a piece that an edit elsewhere left alone is not bought again.

    They are decided once for a voice and kept. Another decoder may differ in a sample's last bit, which would give
    the pieces other names, and have them bought anew.
    """
    spec = _spec(f"{CUTS_SPEC}-{VOICE_SPEC}", limits)
    key = f"assets/{source.sha256}.{spec}.segments.json"
    if await workspace.store.exists(key) is None:
        segments = await _cut(workspace, path, facts, limits, spec)
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


def _voice(source: Asset, facts: VoiceFacts) -> Voice:
    return Voice(source=source, **dataclasses.asdict(facts))


def _spec(version: str, limits: Limits) -> str:
    """Version of a conversion together with the limits it was made for."""
    return f"{version}-{hashlib.sha256(repr(limits).encode()).hexdigest()[:8]}"


def _derived_identity(source: Asset, spec: str) -> str:
    return hashlib.sha256(f"{source.sha256}:{spec}".encode()).hexdigest()


async def _keep_derived(workspace: Workspace, content: str, path: Path, spec: str) -> Asset:
    """Store a converted input once. The first conversion wins: another library version may write other bytes."""
    extension, content_type = sniff(path.read_bytes()[:16])
    key = f"assets/{content}.{spec}.{extension}"
    kept = await workspace.store.exists(key)
    if kept is None or kept.sha256 is None:
        sha256 = await asyncio.to_thread(hash_file, path)
        kept = await workspace.store.put_file(key, path, content_type=content_type, sha256=sha256)
    if kept.sha256 is None:
        raise RuntimeError(f"the store dropped the sha256 of {key}")
    return Asset(key=key, sha256=kept.sha256, size=kept.size, content_type=content_type)


def plan_cache_key(workspace: Workspace, job: AvatarJob, portrait: Asset, voice: Asset) -> str:
    """Everything a plan depends on, so that a cached one is as good as a new one."""
    provider = workspace.provider(job.provider)
    spec = _spec(f"{PORTRAIT_SPEC}-{VOICE_SPEC}-{CUTS_SPEC}-{provider.price_per_second}", provider.limits)
    return f"plans/{identify(job, portrait, voice, provider)}/{provider.name}-{spec}"
