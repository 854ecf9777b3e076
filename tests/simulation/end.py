"""What is not as it must be once troubles have ended: judged from the store, the notices, and what was really charged."""

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from tests.simulation import product
from tests.simulation.provider import Accepted
from tests.simulation.surroundings import BUCKET

if TYPE_CHECKING:
    from tests.simulation.world import World

#: States in which a render may stay for ever only in front of a person, and those in which it may not stay at all.
WAITING, RESTLESS = {"unknown", "stalled"}, {"submitted", "rendered"}
#: States in which nothing is charged, or it is billed already.
NOTHING_SET_ASIDE = {None, "not_sent", "refused", "resolved", "collected"}


class End:
    """Looks at one schedule's world."""

    def __init__(self, world: "World") -> None:
        self.world, self.scenario = world, world.scenario
        self.judge, self.fal, self.objects = world.judge, world.fal, world.server.buckets

    def left(self) -> list[str]:
        """What is still to be done, or cannot be put right any more."""
        if any(not process.ended for process in self.world.processes):
            return ["a process does not end"]
        return [*self._jobs(), *self._requests(), *self._set_aside()]

    def record(self, plan: Any) -> dict[str, Any] | None:
        """The published record of a job."""
        kept = self.objects[BUCKET].get(f"videos/{plan.job_id}/manifest.json")
        return json.loads(kept.data) if kept else None

    def _jobs(self) -> Iterator[str]:
        scenario, jobs = self.scenario, self.fal.accepted.values()
        if scenario.ends_well:
            yield from (
                f"job {plan.job_id} is not published" for plan in self.world.plans if not self.record(plan)
            )
        if scenario.turns:
            most = max((sum(one.at <= job.at < one.done_at for one in jobs) for job in jobs), default=0)
            if most != scenario.turns:
                yield f"{most} renders at a time, with {scenario.turns} turns"

    def _requests(self) -> Iterator[str]:
        """Accepted requests that are not followed to their end, not in front of a person, or not billed."""
        billed = {name[0]: Decimal(name[2]) / 10_000 for name in self._books() if name[1] == "settled"}
        for job in self.fal.accepted.values():
            head = self.judge.head(job.render_id) or {}
            state, name = head.get("state"), f"{job.request_id} of {job.render_id[:6]}"
            if not self._is_home(job) and not self._is_told(job, head):
                states = " ".join(each["state"] for each in self.judge.journal[job.render_id]) or "no journal"
                yield f"{name} ({job.script.fate}, {job.script.link}) is neither published nor in front of a person: {states}"
            if state == "unknown" and self._can_be_found(job):
                yield f"{name} could be found, and its render is unknown"
            if _followed(head) != job.request_id:
                continue
            if state in RESTLESS:
                yield f"{name} stays {state} for ever"
            if state == "stalled" and job.playable and not job.script.result_kept:
                yield f"{name} is stalled, and has a video"
            bill, unplayable = (
                billed.get(job.render_id),
                state == "stalled" and head["failure"]["kind"] == "unplayable",
            )
            if (state == "collected" or unplayable) and bill != product.PRICE:
                yield f"{name} is billed {bill}, not {product.PRICE}"

    def _books(self) -> list[list[str]]:
        """The parts of the names of all claims and bills."""
        keys = [key for key in self.objects[BUCKET] if key.startswith("budget/") and key.count("/") == 2]
        return [key.split("/")[2].split(".") for key in keys if key.endswith(".json")]

    def _set_aside(self) -> Iterator[str]:
        for render_id in [name[0] for name in self._books() if name[1] == "open"]:
            state = (self.judge.head(render_id) or {}).get("state")
            if state in NOTHING_SET_ASIDE:
                yield f"money is set aside for {render_id[:6]}, which is {state}"

    def _can_be_found(self, job: Accepted) -> bool:
        """Whether a request whose answer told nothing can be found out without a person."""
        scenario = self.scenario
        if len(self.judge.paid[job.render_id]) > 1 or job.script.fate == "lost":
            return False
        listed = scenario.history == "full" and not any(scenario.skews) and not scenario.sleeps
        died = {process.holder for process in self.world.processes if process.killed}
        return listed or (job.named and job.holder not in died)

    def _is_home(self, job: Accepted) -> bool:
        """Whether a published record names the request."""
        record = self.record(self.world.renders[job.render_id])
        return record is not None and job.request_id in {each["request_id"] for each in record["renders"]}

    def _is_told(self, job: Accepted, head: dict[str, Any]) -> bool:
        """Whether a person sees it: by a notice, by `status`, or because a person settled it."""
        told = any(product.tells_of(notice, job) for notice in self.world.told)
        if head.get("state") in WAITING or job.request_id in self.judge.strays.values() or told:
            return True
        if head.get("state") == "failed" and _followed(head) == job.request_id:
            return not job.charged
        if self._job_is_told(job):
            return True
        entries = self.judge.journal[job.render_id]
        declared = {each["attempt"] for each in entries if each["state"] == "resolved"}
        return job.attempt in declared or not job.charged

    def _job_is_told(self, job: Accepted) -> bool:
        """Whether a person knows that the job lacks another render: it is run again, or left, at their word."""
        plan = self.world.renders[job.render_id]
        heads = [self.judge.head(other) or {} for other in product.render_ids(plan) if other != job.render_id]
        if any(head.get("state") in WAITING | {"resolved"} for head in heads):
            return True
        return any(product.tells_of_job(notice, plan.job_id) for notice in self.world.told)


def _followed(head: dict[str, Any]) -> str | None:
    """The request that the journal follows."""
    request_id: str | None = (head.get("submission") or {}).get("request_id")
    return request_id
