"""Consent of the person in a portrait: recorded by the content of the portrait's file, asked for before anything is paid.

`consent/<sha256>/<time>-<token>.json` says that it was given, or revoked; the newest one decides, and none is removed.
It is no part of a job's identity.
"""

import secrets
from datetime import UTC, date, datetime

from pydantic import ValidationError

from avatar.errors import ConsentMissing, StoreUnavailable
from avatar.job.index import Summary, list_manifests, newest_first, read_summary, summarise_manifest
from avatar.models import Plan
from avatar.money.journal import is_indexed
from avatar.stored_models import Consent
from avatar.waiting import in_turns, patiently
from avatar.workspace import Workspace

CONSENT = "consent/"


async def find_consent(workspace: Workspace, sha256: str) -> Consent | None:
    """What was written last about the portrait of that content: given, ended or revoked. None if nothing was.

    Raises:
        StoreUnavailable: the store failed, or what is there cannot be read.
    """
    kept = await workspace.store.list(f"{CONSENT}{sha256}/")
    return await _read(workspace, kept[-1].key) if kept else None


async def _read(workspace: Workspace, key: str) -> Consent:
    try:
        return Consent.model_validate_json((await workspace.store.get(key)).data)
    except ValidationError as error:
        raise StoreUnavailable(f"The consent {key} cannot be read. Nothing was sent or spent.") from error


async def write_consent(workspace: Workspace, consent: Consent) -> None:
    key = f"{CONSENT}{consent.portrait}/{consent.written_at:%Y%m%dT%H%M%S%f}-{secrets.token_hex(4)}.json"
    await workspace.store.create(key, consent.model_dump_json(indent=2).encode())


async def all_consents(workspace: Workspace) -> list[Consent]:
    """Of each portrait what was written last."""
    newest = {stat.key.split("/")[1]: stat.key for stat in await workspace.store.list(CONSENT)}
    return await in_turns(lambda key: _read(workspace, key), newest.values())


def fault_of(consent: Consent | None, today: date | None = None) -> str:
    """Why it does not hold today (UTC), as a clause; empty if it does."""
    if consent is None:
        return "no consent is recorded for this portrait"
    if consent.revoked:
        return f"the consent of {consent.who} was revoked on {consent.written_at:%Y-%m-%d}"
    if consent.until < (today or datetime.now(UTC).date()):
        return f"the consent of {consent.who} ended on {consent.until}"
    return ""


def consented(workspace: Workspace, plan: Plan, consent: Consent | None) -> Plan:
    """The plan with the consent that holds for its portrait, if one does.

    Raises:
        ConsentMissing: none does, AVATAR_CONSENT asks for one, and the plan's provider is paid.
    """
    fault = fault_of(consent)
    if fault and needs_consent(workspace, plan):
        name = plan.files.get("portrait", "")
        raise ConsentMissing(
            f"The portrait {name!r} (SHA-256 {plan.portrait.source.sha256}) may not be paid for: {fault}, and "
            "AVATAR_CONSENT is `required`. Nothing was sent or spent now.",
            hint="Record one: avatar consent add PORTRAIT --who NAME --for PURPOSE --until DATE --paper PLACE",
        )
    return plan.model_copy(update={"consent": None if fault else consent})


def needs_consent(workspace: Workspace, plan: Plan) -> bool:
    paid = workspace.provider(plan.provider, plan.model).capabilities.paid
    return paid and workspace.settings.consent == "required"


async def with_consent(workspace: Workspace, plan: Plan) -> Plan:
    """As `consented`, with what the store says now."""
    sha256 = plan.portrait.source.sha256
    return consented(workspace, plan, await patiently(lambda: find_consent(workspace, sha256)))


async def made_with(workspace: Workspace, sha256: str) -> list[Summary]:
    """The videos of that portrait, whether a consent was recorded then or not, the newest first. Reads the whole index."""
    found: dict[str, Summary] = {}
    if not await is_indexed(workspace.store):
        manifests = await list_manifests(workspace.store)
        read = await in_turns(lambda stat: summarise_manifest(workspace.store, stat), manifests)
        found = {each.job_id: each for each in read if each and sha256 in each.text}
    else:
        async for day in newest_first(workspace.store):
            read = await in_turns(lambda stat: read_summary(workspace.store, stat.key), day)
            found |= {each.job_id: each for each in read if each and sha256 in each.text}
    return sorted(found.values(), key=lambda each: each.at, reverse=True)
