"""Webhooks: the addresses that providers are asked to call, and what a call leaves in the store until it is used."""

import asyncio
import hashlib
import hmac
import json
import logging
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pydantic import Field, ValidationError

from avatar.errors import AvatarError, InvalidInput, NotConfigured, ObjectNotFound, StoreUnavailable
from avatar.money.entries import Entry, Record, RenderState
from avatar.money.journal import Journal
from avatar.providers.base import RenderInputs
from avatar.settings_sections import BridgeSettings
from avatar.store.store import Store
from avatar.stored_models import Model, ProviderName

# The addresses that providers are asked to call when a render has ended, each good for one request of one render.
#
# An address carries the render, the attempt and a MAC over both. The MAC is a capability: whoever knows the address may
# bring a note for that one request, and nothing else. It reaches the provider and nobody else: no log, no journal.
#: Where the secret is kept when the settings name none.
SECRET_KEY = "bridge/secret.json"  # noqa: S105 - an object's name
#: Hex digits of the MAC that are kept: 160 bits.
MAC_DIGITS = 40
_SECRET_BYTES = 32
_RENDER_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class WebhookTarget:
    """The one request of a render that an address stands for."""

    provider: ProviderName
    render_id: str
    attempt: int


class WebhookAddresses:
    """Makes such addresses and knows its own again."""

    def __init__(self, secret: bytes, public_url: str | None) -> None:
        self._secret = secret
        self._base = public_url.rstrip("/") if public_url else None

    def with_address(self, inputs: RenderInputs, intent: Entry) -> RenderInputs:
        """`inputs` with the address for the request that `intent` announces. Makes no call."""
        asked = WebhookTarget(intent.provider, intent.render_id, intent.attempt)
        return replace(inputs, webhook_url=f"{self._base}{path_of(asked)}/{self._mac(asked)}")

    def verified(self, provider: str, render_id: str, attempt: str, mac: str) -> WebhookTarget | None:
        """What the parts of an address stand for; None if they are not of one that was made here."""
        known = provider in set(ProviderName) and _RENDER_ID.fullmatch(render_id)
        if not known or not re.fullmatch(r"[1-9][0-9]{0,5}", attempt):
            return None
        asked = WebhookTarget(ProviderName(provider), render_id, int(attempt))
        same = hmac.compare_digest(self._mac(asked).encode(), mac.encode("utf-8", "replace"))
        return asked if same else None

    def _mac(self, asked: WebhookTarget) -> str:
        message = f"avatar webhook\n{asked.provider}\n{asked.render_id}\n{asked.attempt}"
        return hmac.new(self._secret, message.encode(), hashlib.sha256).hexdigest()[:MAC_DIGITS]


def path_of(asked: WebhookTarget) -> str:
    """The path of an address up to its MAC."""
    return f"/webhooks/{asked.provider}/{asked.render_id}/{asked.attempt}"


async def open_webhook_addresses(settings: BridgeSettings, store: Store) -> WebhookAddresses:
    """The maker of addresses, with the secret of the settings or of the store, which is made there if it is missing.

    Raises:
        StoreUnavailable: the store could not be asked.
        NotConfigured: the secret in the store cannot be read.
    """
    given = settings.secret.get_secret_value().encode() if settings.secret else await _kept_secret(store)
    return WebhookAddresses(given, str(settings.public_url) if settings.public_url else None)


async def _kept_secret(store: Store) -> bytes:
    if await store.exists(SECRET_KEY) is None:
        made = json.dumps({"secret": secrets.token_hex(_SECRET_BYTES)}).encode()
        await store.create(SECRET_KEY, made)
    blob = await store.get(SECRET_KEY)
    try:
        secret = bytes.fromhex(json.loads(blob.data)["secret"])
    except (ValueError, TypeError, KeyError):
        secret = b""
    if len(secret) < _SECRET_BYTES:
        raise NotConfigured(
            f"The secret that signs webhook addresses cannot be read from {SECRET_KEY}. Nothing was sent.",
            hint="Set AVATAR_BRIDGE__SECRET, or remove that object: a new one is made.",
        )
    return secret


# Notes: what a webhook leaves in the store. A note moves nothing by itself; the provider's API is asked.
#
# `hints/<render_id>.<attempt>.<digest of the request id>.json` says that a webhook about that paid request came in. It
# makes whoever waits for the render look at once, and it may give an unknown render its request id (`attach`).
log = logging.getLogger("avatar.webhooks")

PREFIX = "hints/"
#: Notes kept for one paid request. One is usual; more come only from somebody who knows the address.
MOST = 8
#: States in which a request id that a webhook brings is news. `resolved`: a person erred, and the render is paid for.
OPEN_ENDED = frozenset({RenderState.UNKNOWN, RenderState.RESOLVED})
#: States in which a note is kept: somebody waits, or will.
WANTED = OPEN_ENDED | {RenderState.INTENT, RenderState.SUBMITTED}

#: Ids that a note may bring. Documented ones are letters, digits, hyphens and underscores.
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:=~-]{0,199}")


class WebhookNote(Model):
    """A webhook about one paid request came in. Only its address was verified, and fal's signature."""

    render_id: str
    attempt: int = Field(ge=1)
    provider: ProviderName
    request_id: str | None = Field(None, max_length=200, description="as the webhook's body has it")
    received_at: datetime

    @property
    def key(self) -> str:
        digest = hashlib.sha256((self.request_id or "").encode()).hexdigest()[:16]
        return f"{note_prefix(self.render_id)}{self.attempt}.{digest}.json"


def note_prefix(render_id: str) -> str:
    return f"{PREFIX}{render_id}."


def render_of_note(key: str) -> str:
    """The render that a note's key names."""
    return key.removeprefix(PREFIX).partition(".")[0]


def valid_request_id(value: Any) -> str | None:
    """`value` if it has the form of a request id; a stranger may have written it."""
    return value if isinstance(value, str) and _REQUEST_ID.fullmatch(value) else None


async def keep_note(store: Store, journal: Journal, note: WebhookNote) -> Record | None:
    """Keep a note that somebody may wait for; the same one again changes nothing.

    Returns:
        The render as it stands; None if the note is of no use to it.

    Raises:
        StoreUnavailable: it was not kept; let the provider deliver it again.
    """
    record = await journal.head(note.render_id)
    if record is None or not await _is_wanted(journal, record, note):
        return None
    prefix = f"{note_prefix(note.render_id)}{note.attempt}."
    kept = [stat.key for stat in await store.list(prefix)]
    if note.key in kept:
        return record
    if len(kept) >= MOST:
        log.warning("Render %s: %d notes are kept already; one more is dropped.", note.render_id, len(kept))
        return None
    await store.create(note.key, note.model_dump_json().encode())
    return record


async def _is_wanted(journal: Journal, record: Record, note: WebhookNote) -> bool:
    followed = record.entry.submission
    if _is_about(note, record):
        if record.state in WANTED - {RenderState.SUBMITTED}:
            return True
        if followed is not None and note.request_id in {None, followed.request_id}:
            return record.state is RenderState.SUBMITTED
    if note.request_id and note.request_id not in await request_ids(journal, note.render_id):
        log.error(
            "A %s webhook for attempt %d of render %s names request %s, which the journal does not hold. If the "
            "provider's dashboard shows it, it was charged beside the one that is followed.",
            note.provider, note.attempt, note.render_id, note.request_id,
        )  # fmt: skip
    return False


async def notes_for(store: Store, record: Record) -> list[WebhookNote]:
    """The notes about the newest paid request of a render."""
    stats = await store.list(f"{note_prefix(record.entry.render_id)}{record.entry.attempt}.")
    read = [await _read(store, stat.key) for stat in stats]
    return [note for note in read if note is not None and _is_about(note, record)]


def _is_about(note: WebhookNote, record: Record) -> bool:
    entry = record.entry
    return (note.render_id, note.attempt, note.provider) == (entry.render_id, entry.attempt, entry.provider)


async def _read(store: Store, key: str) -> WebhookNote | None:
    try:
        return WebhookNote.model_validate_json((await store.get(key)).data)
    except ObjectNotFound:  # another run has used it up
        return None
    except (ValidationError, InvalidInput):
        log.warning("%s is no note: it is left alone.", key)
        return None


async def request_ids(journal: Journal, render_id: str) -> set[str]:
    """Every request id that the journal holds of a render, of all its attempts."""
    history = await journal.history(render_id)
    return {record.entry.submission.request_id for record in history if record.entry.submission}


async def renders_with_notes(store: Store) -> set[str]:
    """Ids of the renders that webhooks have come in for."""
    return {render_of_note(stat.key) for stat in await store.list(PREFIX)}


async def drop_notes(store: Store, render_id: str) -> None:
    """Remove the notes of a render that nobody waits for any more. One that stays is removed by `reconcile`."""
    try:
        for stat in await store.list(note_prefix(render_id)):
            await store.remove(stat.key)
    except StoreUnavailable as error:
        log.info("The notes of render %s stay for now: %s", render_id, error)


# Waking those who wait for a render when a webhook has come in for it, in whatever process the webhook arrived.
#: Seconds between two lists of the notes, however many renders are waited for; and when the store does not answer.
EVERY, AFTER_FAILURE = 1.0, 10.0


class WebhookListener:
    """Wakes once for each note about a render that somebody waits for. Lists the notes only while somebody does."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._rung: set[str] = set()
        self._listener: asyncio.Task[None] | None = None

    @contextmanager
    def listening(self, render_id: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever a new note about the render is there; whoever waits clears it."""
        called = asyncio.Event()
        self._waiting.setdefault(render_id, set()).add(called)
        if self._listener is None or self._listener.done():
            self._listener = asyncio.create_task(self._listen())
        try:
            yield called
        finally:
            self._waiting[render_id].discard(called)
            if not self._waiting[render_id]:
                del self._waiting[render_id]
            if not self._waiting:
                self._listener.cancel()
                self._listener = None

    async def _listen(self) -> None:
        while True:
            began = time.monotonic()
            try:
                self._wake([stat.key for stat in await self._store.list(PREFIX)])
                pause = EVERY
            except AvatarError as error:  # the wait goes on without notes
                log.info("Notes cannot be listed: %s", error)
                pause = AFTER_FAILURE
            await asyncio.sleep(max(pause / 2, pause - (time.monotonic() - began)))

    def _wake(self, keys: list[str]) -> None:
        for key in keys:
            waiting = self._waiting.get(render_of_note(key), ())
            if waiting and key not in self._rung:
                self._rung.add(key)
                for called in waiting:
                    called.set()
        self._rung.intersection_update(keys)
