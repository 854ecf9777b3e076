"""`avatar quote`: length, cuts and price of a voice. Needs no store, no server and no key."""

import argparse
import json
import math
import tempfile
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from avatar.errors import InvalidInput, NotConfigured
from avatar.job.warnings import warn_of_speech
from avatar.media.cuts import Cut, plan_cuts
from avatar.media.facts import VoiceFacts
from avatar.media.probe import probe_voice
from avatar.media.voice_alone import Alone, take_alone
from avatar.models import Limits, ProviderName, Quote
from avatar.providers import describe_provider
from avatar.providers.known_models import find_model, known_models
from avatar.settings import AvatarSettings


def run(arguments: argparse.Namespace) -> int:
    path = Path(arguments.voice).expanduser()
    if not path.is_file():
        raise InvalidInput(f"The voice {arguments.voice!r} is not a file on this machine.")
    settings = AvatarSettings()
    asked = _asked(settings, arguments.provider, arguments.model)
    with tempfile.TemporaryDirectory() as folder:
        found = probe_voice(path)
        alone = take_alone(path, found, Path(folder), trim=arguments.trim)
        offers = [offer(name, model, alone, settings) for name, model in asked]
    if arguments.json:
        told = {"seconds": alone.facts.seconds, "notes": alone.facts.notes, "offers": offers}
        print(json.dumps(told))
    else:
        _print(found, alone.facts, offers)
    return 0 if any(offer["accepted"] for offer in offers) else InvalidInput.exit_code


def _asked(
    settings: AvatarSettings, provider: str | None, model: str | None
) -> list[tuple[ProviderName, str]]:
    """What is quoted: what was asked for, else all that is to be had, the settings' model first."""
    names = [ProviderName(provider)] if provider else list(ProviderName)
    if model is not None:
        return [(name, model) for name in names]
    known = sorted(known_models(settings).values(), key=lambda one: one.name != find_model(settings).name)
    return [
        (name, one.name)
        for place, one in enumerate(known)
        for name in names
        if (name in one.offers and one.enabled) or not place
    ]


def offer(name: ProviderName, model: str, alone: Alone, settings: AvatarSettings) -> dict[str, Any]:
    """What `name` asks for this voice with that model and where it would be cut, or why it would not take it."""
    facts = alone.facts
    try:
        price, limits = describe_provider(name, settings, model)
        cuts = plan_cuts(alone.path, facts, limits)
    except (InvalidInput, NotConfigured) as error:
        return {"provider": name, "model": model, "accepted": False, "reason": str(error)}
    segments = [_segment(cut, facts) for cut in cuts]
    seconds = sum(math.ceil(round(segment["seconds"], 3)) for segment in segments)
    amount = (seconds * price).quantize(Decimal("0.0001"))
    quote = Quote(provider=name, seconds=seconds, price_per_second=price, amount=amount)
    warnings = tuple(warn_of_speech(facts.speech, facts.seconds, quote, clipped=facts.clipped))
    if settings.warnings == "refuse" and warnings:
        reason = " ".join(warning.text for warning in warnings)
        return {
            "provider": name,
            "model": model,
            "accepted": False,
            "reason": f"{reason} (AVATAR_WARNINGS=refuse)",
        }
    return {
        "provider": name,
        "model": model,
        "accepted": True,
        "seconds": seconds,
        "price": str(price),
        "amount": str(amount),
        "limits": _bites(alone, cuts, limits),
        "segments": segments,
        "warnings": [warning.model_dump(mode="json") for warning in warnings],
    }


def _segment(cut: Cut, facts: VoiceFacts) -> dict[str, Any]:
    return {
        "start": round(cut.start / facts.sample_rate, 3),
        "seconds": round((cut.end - cut.start) / facts.sample_rate, 3),
        "loudness": None if math.isnan(cut.loudness) else round(cut.loudness, 1),
        "pause": round(cut.pause, 3),
    }


def _bites(alone: Alone, cuts: Sequence[Cut], limits: Limits) -> list[str]:
    """Which of the provider's limits change what is sent."""
    bites = []
    if len(cuts) > 1:
        bites.append(f"longer than {limits.max_seconds:g} s: cut into {len(cuts)} segments")
    if alone.spec:
        bites.append("another sound than its file's: sent as MP3")
    elif alone.facts.container not in limits.audio_containers:
        bites.append(f"{alone.facts.container} is not taken: sent as MP3")
    return bites


def _print(found: VoiceFacts, facts: VoiceFacts, offers: list[dict[str, Any]]) -> None:
    print(f"{facts.seconds:.2f} s of {found.codec}, {found.sample_rate} Hz, {found.channels} channel(s)")
    for note in facts.notes:
        print(f"  note: {note}")
    shown: list[dict[str, Any]] = []
    for row in offers:
        if not row["accepted"]:
            print(f"  {row['provider']:8} not accepted: {row['reason']}")
            continue
        model = "" if row["provider"] is ProviderName.PREVIEW else f"  {row['model']}"
        print(
            f"  {row['provider']:8} ${Decimal(row['amount']):.2f}  ({row['seconds']} s at ${row['price']}/s){model}"
        )
        for line in (*row["limits"], *(f"{each['text']} {each['hint']}" for each in row["warnings"])):
            print(f"           {line}")
        shown = row["segments"] if len(row["segments"]) > 1 else shown
    for number, segment in enumerate(shown, 1):
        print(f"  segment {number:3}  {_span(segment)}")


def _span(segment: dict[str, Any]) -> str:
    end = segment["start"] + segment["seconds"]
    text = f"{segment['start']:9.3f} to {end:9.3f} s  ({segment['seconds']:.3f} s)"
    if segment["loudness"] is None:
        return text
    return f"{text}  cut at {segment['loudness']:.0f} dBFS in a pause of {segment['pause']:.2f} s"
