"""What must hold whatever happens. Judged from the objects in the store and from what the provider really did.

Not a line of the product decides here: entries are read as JSON, and payments are what the provider accepted.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from tests.simulation.provider import Accepted

#: States that say: nothing was accepted.
DENIALS = {"not_sent", "refused"}
#: States after which a paid request may be begun anew.
FREE = {"not_sent", "refused", "resolved", "failed"}
#: What is there for good: paid for, or the proof of it.
PRECIOUS = ("journal/", "renders/", "videos/")


class Judge:
    """Watches every write and every payment of one schedule; `violations` says what was wrong."""

    def __init__(self, limit: Decimal | None) -> None:
        self.limit = limit
        self.violations: list[str] = []
        self.journal: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.paid: dict[str, list[Accepted]] = defaultdict(list)
        self.strays: dict[str, str] = {}  # request ids, by key
        self.days: dict[str, str] = {}  # the day a paid request is claimed on, by its id
        self.price = Decimal(0)
        self.denied: set[tuple[str, int]] = (
            set()
        )  # attempts that their living holders know not to be accepted

    def wrong(self, what: str) -> None:
        self.violations.append(what)

    # --- the store

    def written(self, key: str, data: bytes, before: bytes | None) -> None:
        """An object was written; `before` is what was there."""
        if before is not None and before != data and key.startswith(("journal/", "renders/")):
            self.wrong(f"overwritten: {key}")
        if key.endswith(".settled.json"):
            self._settled(key)
        elif key.startswith("journal/") and data != b"?":
            self._entry(key, json.loads(data))

    def removed(self, key: str) -> None:
        if key.startswith(PRECIOUS):
            self.wrong(f"removed: {key}")

    def _settled(self, key: str) -> None:
        """A stray is settled when the journal follows it."""
        request_id = self.strays.pop(key.replace(".settled", ""), "")
        history = self.journal[key.split("/")[1]]
        followed = any((each.get("submission") or {}).get("request_id") == request_id for each in history)
        if not followed:
            self.wrong(f"settled: {request_id}, which nothing follows")

    def _entry(self, key: str, entry: dict[str, Any]) -> None:
        if "/strays/" in key:
            self.strays[key] = entry["submission"]["request_id"]
            return
        history = self.journal[entry["render_id"]]
        last = history[-1] if history else None
        history.append(entry)
        if entry["seq"] != len(history):
            self.wrong(f"entry {entry['seq']} of {entry['render_id']} is number {len(history)}")
        self._step(last, entry)
        self._truth(entry)

    def _step(self, last: dict[str, Any] | None, entry: dict[str, Any]) -> None:
        """Whether this entry may follow that one."""
        state, before = entry["state"], last and last["state"]
        name = f"{entry['render_id'][:6]}: {before} → {state}"
        if state == "intent":
            self._intent(last, entry, name)
        elif last is None:
            self.wrong(f"{name}: no intent before it")
        elif state in DENIALS and self._author(entry) != entry["holder"]:
            self.wrong(f"{name} by {entry['holder']}, who did not make attempt {entry['attempt']}")
        elif before == "collected" or (before in DENIALS and state != "intent" and not self._is_late(entry)):
            self.wrong(f"{name}: it was at rest")

    def _intent(self, last: dict[str, Any] | None, entry: dict[str, Any], name: str) -> None:
        if last is None:
            return
        if last["state"] == "intent":
            if (last["holder"], last["attempt"]) != (entry["holder"], entry["attempt"]):
                self.wrong(f"{name} of another's attempt")
        elif last["state"] not in FREE or entry["attempt"] != last["attempt"] + 1:
            self.wrong(f"{name}, attempt {last['attempt']} → {entry['attempt']}")

    def _is_late(self, entry: dict[str, Any]) -> bool:
        """Whether it follows a request of an earlier attempt, which was given up before its answer came.

        Nothing of this attempt was accepted, and that video is paid for: so it is followed, and not bought again.
        """
        followed = (entry.get("submission") or {}).get("request_id")
        earlier = {job.request_id for job in self.paid[entry["render_id"]] if job.attempt < entry["attempt"]}
        return entry["state"] == "submitted" and followed in earlier

    def _author(self, entry: dict[str, Any]) -> str | None:
        made = [
            each for each in self.journal[entry["render_id"]]
            if each["state"] == "intent" and each["attempt"] == entry["attempt"]
        ]  # fmt: skip
        return made[0]["holder"] if made else None

    def _truth(self, entry: dict[str, Any]) -> None:
        """Whether what the entry says of the provider is so."""
        render_id, state = entry["render_id"], entry["state"]
        mine = [job for job in self.paid[render_id] if job.attempt == entry["attempt"]]
        if state in DENIALS and mine:
            self.wrong(
                f"{render_id[:6]} attempt {entry['attempt']} is {state}, and {mine[0].request_id} was accepted"
            )
        if state == "unknown" and (render_id, entry["attempt"]) in self.denied:
            self.wrong(
                f"{render_id[:6]} attempt {entry['attempt']} is unknown, and its holder knows that it was not accepted"
            )
        if state != "failed":
            return
        followed = (entry.get("submission") or {}).get("request_id")
        job = next((job for job in self.paid[render_id] if job.request_id == followed), None)
        if job is None:
            return
        if job.script.fate in {"video", "stuck"} and not job.cancelled:
            self.wrong(
                f"{render_id[:6]} is failed ({entry['failure']['kind']}), and {job.request_id} has a video"
            )
        if (entry.get("failure") or {}).get("billed") is False and job.charged:
            self.wrong(f"{render_id[:6]} is failed and not charged, and {job.request_id} is charged")

    # --- the provider

    def accepted(self, job: Accepted, claims: Sequence[str]) -> None:
        """The provider accepted a paid request. `claims`: the keys of its claims and bills."""
        before = self.paid[job.render_id]
        if any(each.attempt == job.attempt for each in before):
            self.wrong(f"{job.render_id[:6]} attempt {job.attempt} was paid twice")
        head = self.head(job.render_id) or {}
        if (head.get("state"), head.get("attempt")) != ("intent", job.attempt):
            now = f"attempt {head.get('attempt')} is {head.get('state')}"
            self.wrong(f"{job.render_id[:6]} attempt {job.attempt} was sent, and {now} by then")
        declared = [each for each in self.journal[job.render_id] if each["state"] == "resolved"]
        charged = sum(each.charged for each in before) + job.charged
        if charged > 1 + len(declared):
            self.wrong(f"{job.render_id[:6]} was paid {charged} times, {len(declared)} declared not charged")
        before.append(job)
        self._budget(job, claims)

    def _budget(self, job: Accepted, claims: Sequence[str]) -> None:
        if self.limit is None:
            return
        intents = [each for each in self.journal[job.render_id] if each["attempt"] == job.attempt]
        claim = (intents[-1].get("claim") or "").split("/") if intents else []
        day = claim[1] if len(claim) > 1 else intents and intents[-1].get("claimed_on")
        if not day:
            self.wrong(f"{job.render_id[:6]} was sent without a claim")
            return
        if not any(key.split("/")[1] == day for key in claims):
            self.wrong(f"{job.render_id[:6]} was sent and its claim on {day} is gone")
        self.days[job.request_id] = day
        jobs = [each for paid in self.paid.values() for each in paid]
        spent = sum(
            self.price
            for each in jobs
            if each.charged and self.days.get(each.request_id) == day and not self._declared(each)
        )
        if spent > self.limit:
            self.wrong(f"${spent} spent on {day}, the limit is ${self.limit}")

    def _declared(self, job: Accepted) -> bool:
        """Whether a person said that it was not charged, rightly or not."""
        entries = self.journal[job.render_id]
        return any(each["state"] == "resolved" and each["attempt"] == job.attempt for each in entries)

    def head(self, render_id: str) -> dict[str, Any] | None:
        history = self.journal.get(render_id)
        return history[-1] if history else None
