"""`avatar quote`: length, cuts and price of a voice. Needs no store, no server and no key."""

import argparse
import json
import math
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from avatar.errors import InvalidInput
from avatar.media.cuts import Cut, plan_cuts
from avatar.media.facts import VoiceFacts
from avatar.media.probe import probe_voice
from avatar.models import Limits, ProviderName
from avatar.providers import describe_provider
from avatar.settings import AvatarSettings


def run(arguments: argparse.Namespace) -> int:
    path = Path(arguments.voice).expanduser()
    if not path.is_file():
        raise InvalidInput(f"The voice {arguments.voice!r} is not a file on this machine.")
    facts = probe_voice(path)
    names = [ProviderName(arguments.provider)] if arguments.provider else list(ProviderName)
    offers = [offer(name, path, facts, AvatarSettings()) for name in names]
    if arguments.json:
        print(json.dumps({"seconds": facts.seconds, "offers": offers}))
    else:
        _print(facts, offers)
    return 0 if any(offer["accepted"] for offer in offers) else InvalidInput.exit_code


def offer(name: ProviderName, path: Path, facts: VoiceFacts, settings: AvatarSettings) -> dict[str, Any]:
    """What `name` asks for this voice and where it would be cut, or why it would not take it."""
    price, limits = describe_provider(name, settings)
    try:
        cuts = plan_cuts(path, facts, limits)
    except InvalidInput as error:
        return {"provider": name, "accepted": False, "reason": str(error)}
    segments = [_segment(cut, facts) for cut in cuts]
    seconds = sum(math.ceil(round(segment["seconds"], 3)) for segment in segments)
    return {
        "provider": name,
        "accepted": True,
        "seconds": seconds,
        "price": str(price),
        "amount": str((seconds * price).quantize(Decimal("0.0001"))),
        "limits": _bites(facts, cuts, limits),
        "segments": segments,
    }


def _segment(cut: Cut, facts: VoiceFacts) -> dict[str, Any]:
    return {
        "start": round(cut.start / facts.sample_rate, 3),
        "seconds": round((cut.end - cut.start) / facts.sample_rate, 3),
        "loudness": None if math.isnan(cut.loudness) else round(cut.loudness, 1),
        "pause": round(cut.pause, 3),
    }


def _bites(facts: VoiceFacts, cuts: Sequence[Cut], limits: Limits) -> list[str]:
    """Which of the provider's limits change what is sent."""
    bites = []
    if len(cuts) > 1:
        bites.append(f"longer than {limits.max_seconds:g} s: cut into {len(cuts)} segments")
    if facts.container not in limits.audio_containers:
        bites.append(f"{facts.container} is not taken: sent as MP3")
    return bites


def _print(facts: VoiceFacts, offers: list[dict[str, Any]]) -> None:
    print(f"{facts.seconds:.2f} s of {facts.codec}, {facts.sample_rate} Hz, {facts.channels} channel(s)")
    for note in facts.notes:
        print(f"  note: {note}")
    shown: list[dict[str, Any]] = []
    for row in offers:
        if not row["accepted"]:
            print(f"  {row['provider']:8} not accepted: {row['reason']}")
            continue
        print(
            f"  {row['provider']:8} ${Decimal(row['amount']):.2f}  ({row['seconds']} s at ${row['price']}/s)"
        )
        for bite in row["limits"]:
            print(f"           {bite}")
        shown = row["segments"] if len(row["segments"]) > 1 else shown
    for number, segment in enumerate(shown, 1):
        print(f"  segment {number:3}  {_span(segment)}")


def _span(segment: dict[str, Any]) -> str:
    end = segment["start"] + segment["seconds"]
    text = f"{segment['start']:9.3f} to {end:9.3f} s  ({segment['seconds']:.3f} s)"
    if segment["loudness"] is None:
        return text
    return f"{text}  cut at {segment['loudness']:.0f} dBFS in a pause of {segment['pause']:.2f} s"
