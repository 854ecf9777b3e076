"""Events out as signed webhooks (Standard Webhooks 1.0): read from the Prefect server, sent to each address.

`webhooks/state.json` has up to when events were read, and the ids of the last of them; `webhooks/waiting/…` is a
delivery that did not succeed yet. So nothing is sent twice by one bridge, whenever it is started anew; of two bridges
each may send it, with the same id.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from pydantic import Field, ValidationError

from avatar.errors import NotConfigured, ObjectNotFound
from avatar.local import prefect_client
from avatar.providers.public_hosts import TransferCut, UnsafeUrl, host_of, post_public
from avatar.settings_sections import EventSettings
from avatar.stored_models import Stored
from avatar.workspace import Workspace

log = logging.getLogger("avatar.hooks")

STATE, WAITING = "webhooks/state.json", "webhooks/waiting/"
#: Seconds between two looks for events.
EVERY = 5.0
#: An event may come in so much later than it says that it happened: clocks differ, and Prefect sends in the background.
LATE = timedelta(minutes=2)
#: What Prefect gives at once, at most.
PAGE = 50
#: Seconds after which a delivery is tried again; after the last it is given up. Standard Webhooks suggests these.
PAUSES = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
#: Seconds in which a receiver answers.
ANSWER_SECONDS = 15.0
_GONE = 410
#: Bytes of a secret, as Standard Webhooks has it.
_SHORTEST, _LONGEST = 24, 64


class State(Stored):
    """Up to when events were read, and those since a little before that which were taken."""

    format: int = 1
    since: datetime
    taken: dict[str, datetime] = Field(default_factory=dict, description="when they happened, by id")


class Waiting(Stored):
    """A delivery that did not succeed yet."""

    format: int = 1
    id: str
    body: str
    address: str = Field(description="digest of the address it is for")
    tries: int = 1
    next_at: datetime

    @property
    def key(self) -> str:
        return f"{WAITING}{self.id}.{self.address}.json"


def check_hooks(settings: EventSettings) -> None:
    """Raise `NotConfigured` if events are to be sent and cannot be signed."""
    if settings.urls:
        keys_of(settings)


def keys_of(settings: EventSettings) -> list[bytes]:
    """The keys that sign, the first one first. Raises `NotConfigured`."""
    try:
        given = settings.secret.get_secret_value().split() if settings.secret else []
        keys = [base64.b64decode(each.removeprefix("whsec_"), validate=True) for each in given]
    except ValueError:
        keys = []
    if not keys or not all(_SHORTEST <= len(key) <= _LONGEST for key in keys):
        raise NotConfigured(
            "AVATAR_EVENTS__URLS is set, and AVATAR_EVENTS__SECRET is no secret to sign with. Nothing was sent.",
            hint="Make one: echo whsec_$(openssl rand -base64 32)",
        )
    return keys


def signed(keys: list[bytes], event_id: str, at: int, body: bytes) -> dict[str, str]:
    """The headers of Standard Webhooks: https://github.com/standard-webhooks/standard-webhooks, spec 1.0."""
    message = f"{event_id}.{at}.".encode() + body
    marks = [base64.b64encode(hmac.new(key, message, hashlib.sha256).digest()).decode() for key in keys]
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(at),
        "webhook-signature": " ".join(f"v1,{mark}" for mark in marks),
        "content-type": "application/json",
    }


def body_of(event: dict[str, Any]) -> str:
    """What is sent of an event of Prefect's."""
    resource = event["resource"].get("prefect.resource.id", "")
    data = {"resource": resource, **event["payload"]}
    return json.dumps({"type": event["event"], "timestamp": event["occurred"], "data": data})


class Hooks:
    """Sends what happened.

    Args:
        workspace: settings and store.
        api_url: the Prefect API that hears of events.
        say: called when an address cannot be reached, and when it can again.
        now: the time.
    """

    def __init__(
        self,
        workspace: Workspace,
        api_url: str,
        say: Callable[[str], None],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.store, self.settings = workspace.store, workspace.settings.events
        self._api_url, self._say, self._now = api_url, say, now
        self._keys = keys_of(self.settings)
        given = self.settings.urls.get_secret_value().split(",") if self.settings.urls else []
        self._urls = {
            hashlib.sha256(url.encode()).hexdigest()[:16]: url for each in given if (url := each.strip())
        }
        self._waiting: dict[str, Waiting] | None = None
        self._troubles: dict[str, str] = {}

    async def run(self) -> None:
        """Look and send until cancelled."""
        while True:
            began = time.monotonic()
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001 - the next look takes up what this one left
                self._report("", f"{error}" or type(error).__name__)
            else:
                self._report("", "")
            # Many events are read again each time until they are old: the more there are, the seldomer.
            await asyncio.sleep(max(EVERY, 10 * (time.monotonic() - began)))

    async def look(self) -> None:
        """Send what is new, and what waits and is due."""
        await self._take_up_waiting()
        state = await self._state()
        events = [each for each in await self._events(state) if each["id"] not in state.taken]
        for event in events:
            body = body_of(event)
            for address in self._urls:
                one = Waiting(id=event["id"], body=body, address=address, tries=0, next_at=self._now())
                # Kept before it is sent: a bridge that dies in between sends it again, and loses none.
                await self._keep(one)
        if events:
            await self._advance(state, events)
        await asyncio.gather(*(self._send_due(address) for address in self._urls))

    async def _events(self, state: State) -> list[dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        since = state.since - LATE
        while True:
            wanted = {
                "event": {"prefix": ["avatar."]},
                "occurred": {"since": since.isoformat()},
                "order": "ASC",
            }
            query = {"filter": wanted, "limit": PAGE}
            page = (await asyncio.to_thread(prefect_client.ask, self._api_url, "/events/filter", query))[
                "events"
            ]
            new = [each for each in page if each["id"] not in found]
            found |= {each["id"]: each for each in new}
            if len(page) < PAGE:
                return list(found.values())
            last = _time(page[-1])
            since = last if new and last > since else since + timedelta(microseconds=1)

    async def _state(self) -> State:
        try:
            return State.model_validate_json((await self.store.get(STATE)).data)
        except (ObjectNotFound, ValidationError):  # the first look: what happened before is no news
            state = State(since=self._now() + LATE)
            await self._write(state)
            return state

    async def _advance(self, state: State, events: list[dict[str, Any]]) -> None:
        taken = state.taken | {each["id"]: _time(each) for each in events}
        since = max(state.since, min(self._now(), max(taken.values())))
        kept = {name: at for name, at in taken.items() if at >= since - LATE}
        await self._write(State(since=since, taken=kept))

    async def _write(self, state: State) -> None:
        await self.store.put(STATE, state.model_dump_json().encode(), content_type="application/json")

    async def _take_up_waiting(self) -> None:
        """What an earlier process left: listed once."""
        if self._waiting is None:
            kept = [await self.store.get(stat.key) for stat in await self.store.list(WAITING)]
            read = [Waiting.model_validate_json(blob.data) for blob in kept]
            self._waiting = {each.key: each for each in read}
            for gone in [each for each in read if each.address not in self._urls]:
                await self._drop(gone)

    async def _keep(self, one: Waiting) -> None:
        assert self._waiting is not None  # noqa: S101 - it was taken up
        await self.store.put(one.key, one.model_dump_json().encode(), content_type="application/json")
        self._waiting[one.key] = one

    async def _drop(self, one: Waiting) -> None:
        assert self._waiting is not None  # noqa: S101 - it was taken up
        await self.store.remove(one.key)
        self._waiting.pop(one.key, None)

    async def _send_due(self, address: str) -> None:
        """What is due for one address, the oldest first. One that fails ends this look at it, and holds up no other."""
        due = [each for each in (self._waiting or {}).values() if each.address == address]
        due = [each for each in due if each.next_at <= self._now()]
        for one in sorted(due, key=lambda each: each.next_at):
            trouble, keep = await self._send(one)
            self._report(address, trouble)
            if not trouble or not keep or one.tries >= len(PAUSES):
                if trouble:
                    log.error("Event %s is not sent %s any more: %s", one.id, self._host(address), trouble)
                await self._drop(one)
                continue
            pause = timedelta(seconds=PAUSES[one.tries])
            await self._keep(one.model_copy(update={"tries": one.tries + 1, "next_at": self._now() + pause}))
            return

    async def _send(self, one: Waiting) -> tuple[str, bool]:
        """What went wrong, as a clause without the address; and whether it is worth another try."""
        body = one.body.encode()
        headers = signed(self._keys, one.id, int(self._now().timestamp()), body)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answer = await post_public(
                    self._urls[one.address], body, headers, private=self.settings.allow_private_hosts
                )
        except UnsafeUrl as error:
            return f"{error.why} (AVATAR_EVENTS__ALLOW_PRIVATE_HOSTS)", True
        except (TransferCut, httpx.HTTPError, OSError, TimeoutError) as error:
            return f"no answer ({type(error).__name__})", True
        if answer.is_success:
            return "", True
        return f"it answered {answer.status_code}", answer.status_code != _GONE

    def _host(self, address: str) -> str:
        return f"to {host_of(self._urls[address])}" if address else "on"

    def _report(self, address: str, trouble: str) -> None:
        before = self._troubles.get(address, "")
        if trouble and not before:
            self._say(f"Events are not sent {self._host(address)} for now, and are kept: {trouble}")
        elif before and not trouble:
            self._say(f"Events are sent {self._host(address)} again.")
        self._troubles[address] = trouble


def _time(event: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(event["occurred"])
