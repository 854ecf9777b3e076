"""`avatar quote`: length, cuts and price of a voice, or the price of a manifest.

For files on this machine it needs no store, no server and no key; what lies in the store is fetched from there.
With AVATAR_CONSENT=required the store is asked for the consent to the portrait.
"""

import argparse
import asyncio
import json
import math
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache, cached_property
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from avatar.batch.check import check_rows
from avatar.batch.manifest import KINDS, open_manifest
from avatar.batch.models import Batch, Checked, Outcome, RowState
from avatar.batch.report import each_outcome
from avatar.batch.rows import as_job, read_rows
from avatar.commands.serve import with_store
from avatar.errors import InvalidInput, NotConfigured
from avatar.job.consent import fault_of, find_consent
from avatar.job.inputs import open_input
from avatar.job.plan import warn_of_portrait, warn_of_speech
from avatar.media.decoder_calls import plan_cuts, prepare_portrait, probe_voice
from avatar.media.extract_voice import VoiceAlone, extract_voice
from avatar.media.facts import Cut, PortraitFacts, VoiceFacts
from avatar.models import AvatarJob, Limits
from avatar.option_names import at_command
from avatar.providers import describe_provider
from avatar.providers.known_models import find_model, known_models
from avatar.settings import AvatarSettings
from avatar.store.objects import hash_file
from avatar.stored_models import ProviderName, Quote
from avatar.workspace import Workspace


def run(arguments: argparse.Namespace) -> int:
    sources = [source for source in (arguments.voice, arguments.portrait) if source]
    if any("://" in source for source in sources):
        if PurePosixPath(urlsplit(arguments.voice).path).suffix.lower() in KINDS:
            return _quote_stored_manifest(arguments)
        return with_store(lambda workspace: _fetch_and_quote(workspace, arguments))
    path = Path(arguments.voice).expanduser()
    if not path.is_file():
        raise InvalidInput(f"The voice {arguments.voice!r} is not a file on this machine.")
    if path.suffix.lower() in KINDS:
        return _quote_manifest(path, arguments)
    return _quote_voice(path, arguments.portrait, arguments)


async def _fetch_and_quote(workspace: Workspace, arguments: argparse.Namespace) -> int:
    async with AsyncExitStack() as stack:
        voice = await stack.enter_async_context(open_input(workspace, arguments.voice, what="voice"))
        portrait = None
        if arguments.portrait:
            source = arguments.portrait
            portrait = str(await stack.enter_async_context(open_input(workspace, source, what="portrait")))
        fault = ""
        if portrait and workspace.settings.consent == "required":
            fault = fault_of(
                await find_consent(workspace, await asyncio.to_thread(hash_file, Path(portrait)))
            )
        return await asyncio.to_thread(_quote_voice, voice, portrait, arguments, fault)


def _quote_voice(
    path: Path, portrait: str | None, arguments: argparse.Namespace, fault: str | None = None
) -> int:
    """`fault` is what stands against the consent to the portrait; None: the store is asked for it."""
    settings = AvatarSettings()
    asked = _asked(settings, arguments.provider, arguments.model)
    with tempfile.TemporaryDirectory() as folder:
        found = probe_voice(path)
        alone = extract_voice(path, found, Path(folder), trim=arguments.trim)
        inputs = QuoteInputs(alone, portrait, fault)
        offers = [offer(name, model, inputs, settings) for name, model in asked]
    notes = (*inputs.portrait_notes, *alone.facts.notes)
    if arguments.json:
        print(json.dumps({"seconds": alone.facts.seconds, "notes": notes, "offers": offers}))
    else:
        _print(found, alone.facts, notes, offers)
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


class QuoteInputs:
    """A voice by itself, and the portrait it goes with, if one is named, as each provider would be given it."""

    def __init__(self, alone: VoiceAlone, portrait: str | None = None, fault: str | None = None) -> None:
        self.alone, self._fault = alone, fault
        self._portrait = Path(portrait).expanduser() if portrait else None
        self._looks: dict[Limits, PortraitFacts] = {}

    @property
    def portrait_notes(self) -> tuple[str, ...]:
        return next((facts.notes for facts in self._looks.values()), ())

    def look(self, limits: Limits) -> PortraitFacts | None:
        """What there is to say of the portrait. Raises `InvalidInput` if this provider would not take it."""
        if self._portrait is not None and limits not in self._looks:
            with tempfile.TemporaryDirectory() as folder:
                self._looks[limits] = prepare_portrait(self._portrait, Path(folder) / "ready", limits)
        return self._looks.get(limits)

    @cached_property
    def consent_fault(self) -> str:
        """Why nothing may be paid for this portrait, as a clause. Asks the store."""
        if self._fault is not None or self._portrait is None:
            return self._fault or ""
        return _consent_fault(hash_file(self._portrait))


@cache
def _consent_fault(sha256: str) -> str:
    return fault_of(with_store(lambda workspace: find_consent(workspace, sha256)))


class ManifestQuote:
    """The rows of a manifest by what they cost, as far as this machine can tell."""

    def __init__(self, provider: ProviderName | None, model: str | None, *, trim: bool) -> None:
        self.settings, self._provider, self._model, self._trim = AvatarSettings(), provider, model, trim
        self.amounts: dict[ProviderName, Decimal] = {}
        self.rows = self.seconds = self.elsewhere = 0
        self.bad: list[tuple[int, str]] = []
        self._offers: dict[tuple[str, str, bool, ProviderName, str], dict[str, Any]] = {}
        self._seen: set[AvatarJob] = set()

    def add(self, line: int, job: AvatarJob | str) -> None:
        self.rows += 1
        if isinstance(job, str):
            self.bad.append((line, job))
        elif any("://" in source for source in (job.portrait, job.voice)):
            self.elsewhere += 1
        elif gone := [source for source in (job.portrait, job.voice) if not Path(source).is_file()]:
            self.bad.append((line, f"{gone[0]} is not a file on this machine"))
        else:
            self._price(line, job)

    def _price(self, line: int, job: AvatarJob) -> None:
        asked = job.model_copy(
            update={"title": "", "language": "", "labels": ()}
        )  # the same job under another name
        if asked in self._seen:
            return
        self._seen.add(asked)
        name = self._provider or job.provider or self.settings.provider
        try:
            model = self._model or job.model or self.settings.model
            found = self._offer(job, name, model, trim=self._trim or job.trim)
        except InvalidInput as error:
            self.bad.append((line, str(error)))
            return
        if not found["accepted"]:
            self.bad.append((line, str(found["reason"])))
            return
        self.seconds += found["seconds"]
        self.amounts[name] = self.amounts.get(name, Decimal(0)) + Decimal(found["amount"])

    def _offer(self, job: AvatarJob, name: ProviderName, model: str, *, trim: bool) -> dict[str, Any]:
        key = (job.portrait, job.voice, trim, name, model)
        if key not in self._offers:
            with tempfile.TemporaryDirectory() as folder:
                voice = Path(job.voice)
                alone = extract_voice(voice, probe_voice(voice), Path(folder), trim=trim)
                self._offers[key] = offer(name, model, QuoteInputs(alone, job.portrait), self.settings)
        return self._offers[key]


def _quote_manifest(path: Path, arguments: argparse.Namespace) -> int:
    """Price every row whose files are on this machine; what was bought before is not known here, and counted too."""
    provider = ProviderName(arguments.provider) if arguments.provider else None
    quoted = ManifestQuote(provider, arguments.model, trim=arguments.trim)
    portrait = arguments.portrait and str(Path(arguments.portrait).expanduser().absolute())
    batch = Batch(manifest=str(path), portrait=portrait)
    for raw in read_rows(path, batch):
        quoted.add(raw.line, as_job(raw, batch, str(path.absolute().parent)))
    if not quoted.rows:
        raise InvalidInput("The manifest has no rows.")
    if arguments.json:
        amounts = {str(name): str(amount) for name, amount in quoted.amounts.items()}
        bad = [{"line": line, "reason": reason} for line, reason in quoted.bad]
        told = {
            "rows": quoted.rows,
            "seconds": quoted.seconds,
            "amounts": amounts,
            "elsewhere": quoted.elsewhere,
        }
        print(json.dumps(told | {"bad": bad}))
    else:
        _print_manifest(quoted)
    return InvalidInput.exit_code if quoted.bad else 0


def _quote_stored_manifest(arguments: argparse.Namespace) -> int:
    """Price a manifest in the store as a batch does before it begins: what was bought before costs nothing."""
    asked = {"manifest": arguments.voice, "provider": arguments.provider, "model": arguments.model}
    batch = Batch.model_validate(asked | {"portrait": arguments.portrait})
    checked, bad = with_store(lambda workspace: _check(workspace, batch))
    if arguments.json:
        told = checked.model_dump(mode="json", include={"rows", "ready", "quoted", "owed"})
        print(json.dumps(told | {"bad": [{"line": row.line, "reason": row.reason} for row in bad]}))
    else:
        print(f"{checked.rows} rows, {checked.ready} to render: ${checked.owed:.2f} still to be paid")
        for row in bad:
            print(f"  line {row.line}: {row.reason}")
    return InvalidInput.exit_code if bad else 0


async def _check(workspace: Workspace, batch: Batch) -> tuple[Checked, list[Outcome]]:
    async with open_manifest(workspace, batch.of(datetime.now(UTC).date())) as manifest:
        checked = await check_rows(workspace, batch, manifest)
    rows = each_outcome(workspace, checked, "")
    return checked, [row async for row in rows if row.state is RowState.BAD]


def _print_manifest(quoted: ManifestQuote) -> None:
    total = sum(quoted.amounts.values(), Decimal(0))
    print(f"{quoted.rows} rows, {quoted.seconds} s billed: ${total:.2f}")
    for name, amount in quoted.amounts.items():
        print(f"  {name:8} ${amount:.2f}")
    if quoted.elsewhere:
        print(f"  {quoted.elsewhere} rows with files in the store or on the web are not in it")
    for line, reason in quoted.bad:
        print(f"  line {line}: {reason}")


def offer(name: ProviderName, model: str, inputs: QuoteInputs, settings: AvatarSettings) -> dict[str, Any]:
    """What `name` asks for these inputs with that model and where it would cut, or why it would not take them."""
    alone, facts = inputs.alone, inputs.alone.facts
    try:
        price, limits = describe_provider(name, settings, model)
        portrait = inputs.look(limits)
        cuts = plan_cuts(alone.path, facts, limits)
        if settings.consent == "required" and price and inputs.consent_fault:
            raise InvalidInput(f"{inputs.consent_fault} (AVATAR_CONSENT=required)")
    except (InvalidInput, NotConfigured) as error:
        return {"provider": name, "model": model, "accepted": False, "reason": str(error)}
    segments = [_segment(cut, facts) for cut in cuts]
    seconds = sum(math.ceil(round(segment["seconds"], 3)) for segment in segments)
    amount = (seconds * price).quantize(Decimal("0.0001"))
    quote = Quote(provider=name, seconds=seconds, price_per_second=price, amount=amount)
    warnings = (
        *(warn_of_portrait(portrait) if portrait else ()),
        *warn_of_speech(facts.speech, facts.seconds, quote, clipped=facts.clipped),
    )
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


def _bites(alone: VoiceAlone, cuts: Sequence[Cut], limits: Limits) -> list[str]:
    """Which of the provider's limits change what is sent."""
    bites = []
    if len(cuts) > 1:
        bites.append(f"longer than {limits.max_seconds:g} s: cut into {len(cuts)} segments")
    if alone.spec:
        bites.append("another sound than its file's: sent as MP3")
    elif alone.facts.container not in limits.audio_containers:
        bites.append(f"{alone.facts.container} is not taken: sent as MP3")
    return bites


def _print(found: VoiceFacts, facts: VoiceFacts, notes: Sequence[str], offers: list[dict[str, Any]]) -> None:
    print(f"{facts.seconds:.2f} s of {found.codec}, {found.sample_rate} Hz, {found.channels} channel(s)")
    for note in notes:
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
        for line in (
            *row["limits"],
            *(f"{each['text']} {at_command(each['hint'])}" for each in row["warnings"]),
        ):
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
