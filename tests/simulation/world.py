"""One schedule: workers on machines, a store, a provider, a person, and the troubles of its scenario."""

import asyncio
import json
import os
from collections import defaultdict
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from avatar.errors import OutcomeUnknown, StoreUnavailable
from avatar.store.objects import Stat
from tests.simulation import disguise, product, wires
from tests.simulation.end import End
from tests.simulation.judge import Judge
from tests.simulation.loop import Process, VirtualLoop
from tests.simulation.provider import Accepted, Answer, Fal
from tests.simulation.scenario import Scenario
from tests.simulation.surroundings import BUCKET, Reached, Server, Turns
from tests.store.memory import Kept, MemoryServer

DAY0 = datetime(2026, 1, 2, tzinfo=UTC).timestamp()
#: Seconds that a run waits at least for a video that is done and cannot be had.
PATIENCE = 250.0
#: Once troubles have ended, `reconcile` runs after so many seconds.
SETTLING = (0, 200, 600, 1200, 2400, 4800, 9600, 20_000, 40_000, 80_000, 160_000, 320_000)


class World:
    """Carries out one schedule. `judge.violations` says what came of it."""

    def __init__(self, scenario: Scenario, home: Path) -> None:
        self.scenario, self.home = scenario, home
        self.random = scenario.random
        self.loop = VirtualLoop(scenario.seed + 1)
        self.epoch = DAY0 + scenario.hour * 3600
        self.judge = Judge(scenario.limit)
        self.server, self.other = Server(self), Server(self)
        self.fal = Fal(scenario.random, lambda: self.loop.now, scenario.script, scenario.history)
        self.fal.on_accept, self.fal.who, self.fal.stamp = self._accepted, self._who, self._stamp
        self.plans: list[Any] = []
        self.renders: dict[str, Any] = {}  # plans, by the ids of their renders
        self.by_voice: dict[str, list[str]] = defaultdict(
            list
        )  # ids of renders, by the files of their voices
        for number in range(scenario.jobs):
            self._know(product.plan(number, scenario.segments))
        self.judge.price = product.PRICE
        self.settings = [
            product.settings(home / f"m{n}", scenario.limit, webhooks=scenario.webhooks)
            for n in range(scenario.machines)
        ]
        self.told: list[Any] = []
        self.ended: list[str] = []
        self.processes: list[Process] = []
        self.calm = False
        self._sender = ""
        self.end = End(self)
        self._doomed: tuple[Process, int] | None = None  # who dies, and at which step
        self._tired: tuple[Process, int] | None = None  # who falls asleep, and at which step

    def _know(self, plan: Any) -> None:
        self.plans.append(plan)
        for segment, render_id in zip(plan.segments, product.render_ids(plan), strict=True):
            self.renders[render_id] = plan
            self.by_voice[segment.asset.key].append(render_id)

    # --- running

    def carry_out(self) -> None:
        """Run the schedule to its end, or to the first violation."""
        for n in range(self.scenario.machines):
            disguise.empty(f"{self.home}/m{n}/receipts")
        disguise.take_the_stage(self.loop, self.epoch, self._disk_is_full)
        wires.STAGE[:], product.SALTED[:] = [self], [self.scenario.salted]
        os.environ.pop("HTTPS_PROXY", None)
        if self.scenario.proxy:
            os.environ["HTTPS_PROXY"] = "http://proxy.example:3128"
        self.loop.after_step = self._after_step
        self._arrange()
        bad = self.judge.violations
        try:
            self.loop.run(lambda: bool(bad) or self.loop.now > self.scenario.span)
            self._settle()
        finally:
            self.loop.close()

    def _arrange(self) -> None:
        self.server.buckets[BUCKET] = {
            key: Kept(b"?", Stat(key, 1, "", self.server.clock()))
            for key in (stray.replace("%s", "f" * 32) for stray in self.scenario.strays)
        }
        self.server.buckets[BUCKET][product.IDENTITY_KEY] = self._identity(product.IDENTITY)
        self.other.buckets[BUCKET] = {}
        if self.scenario.seed & 1:  # it is not new
            self.other.buckets[BUCKET][product.IDENTITY_KEY] = self._identity("another's")
        for number, (at, kind) in enumerate(self.scenario.runs):
            self._begin_run(at, kind, number, self.scenario.restarts)
        for at in self.scenario.reconciles:
            self.loop.at(at, lambda: self.start("reconcile", product.reconcile))
        for plans, part in product.shared(self.plans, self.scenario.turns) if self.scenario.turns else ():
            self.start(f"batch {part.first}", lambda ws, mine=plans, part=part: product.batch(ws, mine, part))
        for at in self.scenario.looks:
            self.loop.at(at, lambda: self.start("person", self._person))
        if self.scenario.forces:
            self.loop.at(self.scenario.span * 0.7, lambda: self.start("force", self._force))

    def _identity(self, name: str) -> Kept:
        return Kept(json.dumps({"id": name}).encode(), Stat(product.IDENTITY_KEY, 1, "", self.server.clock()))

    def _begin_run(self, at: float, kind: str, number: int, restarts: int) -> None:
        """A run of all jobs, begun again while it dies or fails and restarts are left."""

        def begin() -> None:
            work = product.batch if kind == "batch" else product.command
            elsewhere = self.scenario.other_store and number == len(self.scenario.runs) - 1
            server = self.other if elsewhere else self.server
            turned = number % len(self.plans)
            plans = self.plans[turned:] + self.plans[:turned]
            process = self.start(
                f"{kind} {number}", lambda ws: work(ws, plans), machine=number, server=server
            )
            if restarts and not self.calm:
                self.loop.at(self.loop.now + 180, lambda: again(process))

        def again(process: Process) -> None:
            if self.calm:
                return
            if process.ended and not process.well:
                self._begin_run(self.loop.now + 5, kind, number, restarts - 1)
            elif not process.ended:
                self.loop.at(self.loop.now + 180, lambda: again(process))

        self.loop.at(at, begin)

    def start(
        self,
        name: str,
        work: Callable[[Any], Coroutine[Any, Any, Any]],
        *,
        machine: int = 0,
        server: MemoryServer | None = None,
    ) -> Process:
        """A new process on a machine, with a workspace of its own."""
        number = machine % self.scenario.machines
        process = Process(f"{name} on m{number}", skew=self.scenario.skews[number])
        store = Reached(self, process, server or self.server)
        self.loop.current = process
        turns = Turns(self.random, self.scenario.waits)
        workspace = product.workspace(self.settings[number], store, self.told.append, turns)
        self.loop.current = None
        process.holder = workspace.journal.holder
        self.processes.append(process)
        return self.loop.spawn(process, self._main(process, workspace, work))

    async def _main(
        self, process: Process, workspace: Any, work: Callable[[Any], Coroutine[Any, Any, Any]]
    ) -> Any:
        try:
            return await work(workspace)
        except Exception as error:
            self.ended.append(f"{self.loop.now:.0f} {process.name}: {type(error).__name__}: {error}")
            self._judge_end(process, error)
            raise

    def _judge_end(self, process: Process, error: Exception) -> None:
        """What a process may end with: what a person or the store must mend, and a full disk if the disk is full."""
        scenario = self.scenario
        expected = isinstance(error, product.EXPECTED) and not isinstance(error, product.DEFECTS)
        if isinstance(error, OSError) and scenario.full is not None:
            expected = True
        if process.name.startswith("reconcile") and not isinstance(error, StoreUnavailable):
            expected = False
        if not expected:
            self.judge.wrong(f"{process.name} ended with {type(error).__name__}: {error}")
        if isinstance(error, OutcomeUnknown) and error.request_id is None:
            plan = self.renders[str(error.render_id)]
            if not product.names_what_is_seen(error, plan):
                self.judge.wrong(f"a person is not told what to look for: {error}")
        if scenario.at_once and all(
            job.playable and job.script.delay < PATIENCE for job in self.fal.accepted.values()
        ):
            self.judge.wrong(f"{process.name} gave up: {error}")
        self._judge_patience(process, error)

    def _judge_patience(self, process: Process, error: Exception) -> None:
        """A run does not end because a request of it to the store failed, nor because the store was away for a while."""
        scenario = self.scenario
        a_while = all(end - begin <= 120 for begin, end in scenario.away)
        # Its patience is for whatever fails: a video that cannot be had takes it all, and the last try may meet the store.
        if any(not job.playable or job.script.delay >= PATIENCE for job in self.fal.accepted.values()):
            return
        if (
            not isinstance(error, StoreUnavailable)
            or not a_while
            or scenario.strays
            or scenario.store_rate > 0.02
        ):
            return
        if process.name.startswith(("command", "batch")) and not scenario.sleeps:
            self.judge.wrong(f"{process.name} gave up: {error}")

    def _after_step(self) -> None:
        scenario, steps = self.scenario, self.loop.steps
        while scenario.deaths and scenario.deaths[0] <= steps:
            scenario.deaths.pop(0)
            if (victim := self._victim()) is not None:
                self.loop.kill(victim)
        if self._doomed is not None and self._doomed[1] <= steps:
            if not self._doomed[0].ended:
                self.loop.kill(self._doomed[0])
            self._doomed = None
        if self._tired is not None and self._tired[1] <= steps and scenario.naps_after:
            if not self._tired[0].ended:
                self.loop.sleep(self._tired[0], scenario.nap[0], stopped_clock=scenario.nap[1])
            self._tired = scenario.naps_after = None
        while scenario.naps and scenario.naps[0][0] <= steps:
            _, seconds, stopped = scenario.naps.pop(0)
            if (victim := self._victim()) is not None:
                self.loop.sleep(victim, seconds, stopped_clock=stopped)

    def wrote(self, process: Process, key: str, data: bytes) -> None:
        """A process wrote an object: it may be the last thing that it does, or the last for a long time."""
        naps = self.scenario.naps_after
        if (
            naps
            and not self._tired
            and not self.calm
            and (naps[0] in key or (":" in naps[0] and naps[0].encode() in data))
        ):
            self.scenario.naps_skipped -= 1
            if self.scenario.naps_skipped < 0:
                self._tired = process, self.loop.steps + naps[1]
        if self.scenario.dies_after and not self.calm:
            what, steps = self.scenario.dies_after
            if what in key or what.encode() in data:
                self.scenario.dies_after, self._doomed = None, (process, self.loop.steps + steps)

    def _disk_is_full(self) -> bool:
        process, full = self.loop.current, self.scenario.full
        if process is None or full is None or self.calm:
            return False
        return process.name.endswith(f"m{full[0]}") and full[1] <= self.loop.now < full[2]

    def _victim(self) -> Process | None:
        living = [each for each in self.processes if not each.ended and not each.asleep]
        return self.random.choice(living) if living and not self.calm else None

    # --- the end

    def _settle(self) -> None:
        """Troubles are over: `reconcile` alone, and the person, bring everything to where it must be."""
        self.calm = True
        bad = self.judge.violations
        start = self.loop.now
        for after in SETTLING:
            self.loop.run(lambda after=after: bool(bad) or self.loop.now >= start + after)
            self.loop.now = max(self.loop.now, start + after)
            if bad or not self.end.left():
                return
            self._tick()
        self.judge.violations += self.end.left()

    def _tick(self) -> None:
        """One `reconcile`, and one look of the person, to their ends."""
        looks: list[tuple[str, Any]] = [("reconcile", product.reconcile)]
        if self.scenario.person != "away":
            looks.append(("person", self._person))
        for name, work in looks:
            process = self.start(name, work)
            limit = self.loop.now + 3600
            self.loop.run(lambda p=process, limit=limit: p.ended or self.loop.now > limit)

    # --- the person

    async def _person(self, workspace: Any) -> None:
        """Looks at `status`, then at the provider's dashboard, and settles what only a person can."""
        for record in await product.waiting_for_a_person(workspace):
            render_id = record.entry.render_id
            for word, fact in self._words(render_id, str(record.state), record.entry.attempt):
                try:
                    await product.resolve(workspace, render_id, word, fact)
                except product.EXPECTED as error:
                    self.ended.append(f"{self.loop.now:.0f} person ({word}): {type(error).__name__}: {error}")

    def _words(self, render_id: str, state: str, attempt: int) -> list[tuple[str, str]]:
        """What the person tells `avatar resolve` about a render."""
        history = self.judge.journal[render_id]
        held = {(each.get("submission") or {}).get("request_id") for each in history}
        mine = [job for job in self.fal.accepted.values() if job.render_id == render_id]
        if self.scenario.person == "wrong":
            return [("not charged", "")] if state == "unknown" else []
        if state == "unknown":
            found = [job for job in mine if job.request_id not in held and job.attempt == attempt]
            return [("request", found[0].request_id) if found else ("not charged", "")]
        followed = next((job for job in mine if job.request_id in held and job.attempt == attempt), None)
        if state == "stalled" and followed is not None:
            if followed.playable:
                return [("video", self.fal.link(followed))]
            return [] if followed.charged else [("not charged", "")]
        return []

    async def _force(self, workspace: Any) -> None:
        """Asks for another take of what has no video, as `--force` does."""
        for plan in [plan for plan in self.plans if not self.end.record(plan)]:
            take = await product.another_take(workspace, plan)
            other = product.plan(0, self.scenario.segments, take)
            heads = [self.judge.head(render_id) or {} for render_id in product.render_ids(other)]
            if any(head.get("state") in {"failed", "stalled"} for head in heads):
                self.judge.wrong(f"another take was asked for, and take {take} is spent")
            if other not in self.plans:
                self._know(other)
            await product.command(workspace, [other])

    # --- the provider's side

    def _who(self, body: dict[str, Any], headers: Any) -> tuple[str, int, str]:
        """Whose request this is: by its voice, and by the newest intent of the process that sends it."""
        key = body["audio_url"].partition("?")[0].partition(f"/{BUCKET}/")[2]
        entries = [each for render_id in self.by_voice[key] for each in self.judge.journal[render_id]]
        mine = [each for each in entries if each["holder"] == self._sender]
        newest = max(
            mine, key=lambda each: each["at"], default={"render_id": self.by_voice[key][0], "attempt": 0}
        )
        return newest["render_id"], newest["attempt"], self._sender

    def _accepted(self, job: Accepted) -> None:
        claims = [
            key
            for key in self.server.buckets[BUCKET]
            if key.startswith("budget/") and f"/{job.render_id}." in key
        ]
        self.judge.accepted(job, claims)
        if job.webhook:
            for _ in range(self.random.choice((0, 1, 1, 2))):
                at = job.done_at + self.random.choice((0.1, 5.0, 300.0))
                self.loop.at(at, lambda: self.start("webhook", lambda ws: product.webhook(ws, job)))

    def _stamp(self, moment: float) -> str:
        return datetime.fromtimestamp(self.epoch + moment, UTC).isoformat().replace("+00:00", "Z")

    # --- what wires asks

    def denied(self, request: dict[str, Any]) -> None:
        """The process that runs was told that its paid request was not accepted. It must say so if it lives."""
        process, scenario = self.loop.current, self.scenario
        if scenario.away_after_submit:
            scenario.away = [(self.loop.now, self.loop.now + scenario.away_after_submit)]
            scenario.away_after_submit = 0.0
        troubled = (
            scenario.deaths or scenario.sleeps or scenario.away or scenario.store_rate or scenario.dies_after
        )
        if process is None or (troubled and not self._only_away()):
            return
        body = json.loads(request["content"])
        self._sender = process.holder
        render_id, attempt, _ = self._who(body, {})
        self.judge.denied.add((render_id, attempt))

    def _only_away(self) -> bool:
        """Whether a store that is away for some minutes is all the trouble there is."""
        s = self.scenario
        return (
            not s.deaths
            and not s.sleeps
            and not s.store_rate
            and all(end - begin < 420 for begin, end in s.away)
        )

    def submit_fault(self) -> str:
        if self.calm or self.random.random() >= self.scenario.submit_rate:
            return ""
        return self.random.choice(self.scenario.submit_faults)

    def sleep_now(self) -> None:
        """The machine of the process that runs is put to sleep, long enough to be given up."""
        if self.loop.current is not None:
            self.loop.sleep(self.loop.current, self.random.choice((200.0, 700.0, 1500.0)), stopped_clock=True)

    def call_fault(self) -> str:
        if self.calm or self.random.random() >= self.scenario.call_rate:
            return ""
        return self.random.choice(("reset", "silence", "page", "broken", "throttled", "nonsense"))

    async def ask(self, method: str, url: str, request: dict[str, Any], fault: str, *, paid: bool) -> Answer:
        """One call that has left: what it does at the provider, and what comes back."""
        process = self.loop.current

        def act() -> Answer:
            if not paid:
                return self.fal.answer(method, url)
            self._sender = process.holder if process else ""
            return self._submit(url, request, fault)

        if not paid and fault:
            return await self._spoilt(fault, act)
        if fault in {"lost_unsent", "gateway_unsent"}:
            act = lambda: (502, {"content-type": "text/html"}, b"<html>bad gateway</html>")  # noqa: E731
        answer = await self.loop.request(act)
        if fault == "nested_id" and paid:
            self.fal.accepted[json.loads(answer[2])["data"]["request_id"]].named = True
        if fault in {"lost", "lost_unsent", "cut"}:
            raise httpx.ReadError("reset")
        if fault == "silence":
            await asyncio.sleep(1000)
        return answer

    def _submit(self, url: str, request: dict[str, Any], fault: str) -> Answer:
        json_type = {"content-type": "application/json"}
        refusals = {
            "throttled": (429, json_type | {"retry-after": "5"}, b'{"detail": "Too many"}'),
            "balance": (403, json_type, b'{"detail": "User is locked. Reason: Exhausted balance."}'),
            "invalid": (422, json_type, b'{"detail": [{"loc": [], "msg": "no face", "type": "face_detection_error"}]}'),
        }  # fmt: skip
        if fault in refusals:
            return refusals[fault]
        body = json.loads(request["content"])
        job = self.fal.accept(body, request.get("headers", {}), httpx.URL(url).query.decode())
        if fault == "gateway":
            return 504, {"content-type": "text/html"}, b"<html>gateway timed out</html>"
        if fault == "page":
            return 200, {"content-type": "text/html"}, b"<html>hello</html>"
        if fault == "nested_id":
            return 200, json_type, json.dumps({"code": 0, "data": {"request_id": job.request_id}}).encode()
        return self.fal.receipt(job)

    async def _spoilt(self, fault: str, act: Callable[[], Answer]) -> Answer:
        if fault in {"reset", "silence"}:
            await asyncio.sleep(self.random.uniform(0, 40) if fault == "silence" else 0)
            raise httpx.ReadError("reset")
        if fault == "page":
            return 502, {"content-type": "text/html"}, b"<html>bad gateway</html>"
        if fault == "broken":
            return 503, {"content-type": "application/json"}, b'{"detail": "down"}'
        if fault == "throttled":
            return 429, {"content-type": "application/json", "retry-after": "7"}, b"{}"
        return 200, {"content-type": "text/html"}, b"<html>maintenance</html>"
