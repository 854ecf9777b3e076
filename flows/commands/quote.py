"""`avatar quote`: length and price of a voice. Needs no store, no server and no key."""

import argparse
import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

from tasks.errors import InvalidInput
from tasks.media.probe import VoiceFacts, probe_voice
from tasks.media.voice import check_voice
from tasks.models import ProviderName
from tasks.providers import describe_provider
from tasks.settings import AvatarSettings


def run(arguments: argparse.Namespace) -> int:
    path = Path(arguments.voice).expanduser()
    if not path.is_file():
        raise InvalidInput(f"The voice {arguments.voice!r} is not a file on this machine.")
    facts = probe_voice(path)
    names = [ProviderName(arguments.provider)] if arguments.provider else list(ProviderName)
    offers = [offer(name, facts, AvatarSettings()) for name in names]
    if arguments.json:
        print(json.dumps({"seconds": facts.seconds, "offers": offers}))
    else:
        _print(facts, offers)
    return 0 if any(offer["accepted"] for offer in offers) else InvalidInput.exit_code


def offer(name: ProviderName, facts: VoiceFacts, settings: AvatarSettings) -> dict[str, Any]:
    """What `name` asks for this voice, or why it would not take it."""
    price, limits = describe_provider(name, settings)
    try:
        check_voice(facts, limits)
    except InvalidInput as error:
        return {"provider": name, "accepted": False, "reason": str(error)}
    seconds = math.ceil(round(facts.seconds, 3))
    amount = (seconds * price).quantize(Decimal("0.0001"))
    return {
        "provider": name,
        "accepted": True,
        "seconds": seconds,
        "price": str(price),
        "amount": str(amount),
    }


def _print(facts: VoiceFacts, offers: list[dict[str, Any]]) -> None:
    print(f"{facts.seconds:.2f} s of {facts.codec}, {facts.sample_rate} Hz, {facts.channels} channel(s)")
    for note in facts.notes:
        print(f"  note: {note}")
    for row in offers:
        if row["accepted"]:
            print(
                f"  {row['provider']:8} ${Decimal(row['amount']):.2f}  ({row['seconds']} s at ${row['price']}/s)"
            )
        else:
            print(f"  {row['provider']:8} not accepted: {row['reason']}")
