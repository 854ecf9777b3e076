"""Decide everything about a job before money is spent: its inputs ready for the provider, its cuts, its price."""

import asyncio
import dataclasses
import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

from tasks.jobs.identity import job_id
from tasks.jobs.ingest import hash_file, sniff
from tasks.jobs.quote import quote_segments
from tasks.media.cuts import CUTS_SPEC, Cut, plan_cuts
from tasks.media.portrait import PORTRAIT_SPEC, prepare_portrait
from tasks.media.probe import VoiceFacts, probe_voice
from tasks.media.segments import cut_voice
from tasks.media.voice import VOICE_SPEC, prepare_voice
from tasks.models import Asset, AvatarJob, Plan, Portrait, Segment, Voice
from tasks.providers.base import Limits, Provider
from tasks.workspace import Workspace


async def plan_job(workspace: Workspace, job: AvatarJob, portrait: Asset, voice: Asset) -> Plan:
    """Decode both inputs fully, convert what needs it, and price the result. Spends nothing.

    Raises:
        InvalidInput: an input cannot be used, with what was found and what is needed.
        StoreUnavailable: the store failed.
    """
    provider = workspace.provider(job.provider)
    ready, (sound, segments) = await asyncio.gather(
        ready_portrait(workspace, portrait, provider.limits), ready_voice(workspace, voice, provider.limits)
    )
    return Plan(
        job_id=identify(job, portrait, voice, provider),
        prompt=job.prompt,
        model=provider.model,
        provider=provider.name,
        portrait=ready,
        voice=sound,
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
        cuts = await asyncio.to_thread(plan_cuts, path, facts, limits)
        if len(cuts) > 1:
            segments = await _several(workspace, path, facts, cuts, limits)
        else:
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
    workspace: Workspace, path: Path, facts: VoiceFacts, cuts: Sequence[Cut], limits: Limits
) -> tuple[Segment, ...]:
    """Each piece is named by its sound, so that a piece that an edit elsewhere left alone is not bought again."""
    spec = _spec(VOICE_SPEC, limits)
    files = await asyncio.to_thread(cut_voice, path, facts, cuts, path.parent, limits)
    return tuple(
        [
            Segment(
                index=cut.index,
                start=cut.start / facts.sample_rate,
                seconds=file.seconds,
                asset=await _keep_derived(workspace, file.sha256, file.path, spec),
                sha256=file.sha256,
                loudness=None if math.isnan(cut.loudness) else round(cut.loudness, 1),
                pause=round(cut.pause, 3),
            )
            for cut, file in zip(cuts, files, strict=True)
        ]
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
