"""Defects that the simulation must notice: each breaks one rule of the money library, in its source text.

`python -m tests.simulation --mutations` carries out schedules with each until one is violated. The numbers are those
of the kinds of faults that the rules were written against.
"""

import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import CodeType, ModuleType

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Mutation:
    """One defect.

    Attributes:
        kind: number of the kind of fault, or letter of the rule.
        module: where it is.
        old: text of the source, there exactly once.
        new: what stands there instead.
        flavour: of the schedules that meet with it; all of them if it is empty.
    """

    kind: str
    name: str
    module: str
    old: str
    new: str
    flavour: str = ""

    @property
    def path(self) -> Path:
        return ROOT / (self.module.replace(".", "/") + ".py")

    def mutated(self) -> str:
        """The module's source with the defect."""
        source = self.path.read_text()
        if source.count(self.old) != 1:
            raise ValueError(f"{self.name}: its text is {source.count(self.old)} times in {self.path}")
        return source.replace(self.old, self.new)


MUTATIONS = (
    Mutation(
        "1", "a 5xx of the result is a failure", "avatar.providers.fal_answers",
        "return ResultKind.BREAKDOWN if status in BREAKDOWN else ResultKind.NOT_YET",
        "return ResultKind.REFUSED if status in BREAKDOWN else ResultKind.NOT_YET",
        flavour="oddly",
    ),
    Mutation(
        "2", "any store will do", "avatar.store.store_id",
        "    if identity == found:\n", "    if found:\n",
        flavour="elsewhere",
    ),
    Mutation(
        "2", "a store that has no id will do", "avatar.store.store_id",
        "    except ObjectNotFound:\n        raise StoreUnfit(", "    except ObjectNotFound:\n        return\n        raise StoreUnfit(",
        flavour="elsewhere",
    ),
    Mutation(
        "a", "the intent is not created but put", "avatar.money.journal",
        "won = await patiently(lambda: self.store.create(key, body), pauses)",
        "won = bool(await self.store.put(key, body, content_type='')) or bool(pauses) or True",
    ),
    Mutation(
        "a", "an unknown request is sent again", "avatar.money.submit",
        "        if record.state is RenderState.UNKNOWN:\n            raise_unknown(record)\n",
        "        if record.state is RenderState.UNKNOWN:\n            return record\n",
        flavour="answers",
    ),
    Mutation(
        "3", "an attempt writes after another's entries", "avatar.money.attempt",
        "            if not self._is_ours(newest):\n                return newest\n", "",
        flavour="sleeper",
    ),
    Mutation(
        "3", "who slept sends all the same", "avatar.money.attempt",
        "return self._seen.passed < self.journal.lease_seconds * SENDS_WITHIN",
        "return True",
        flavour="sleeper",
    ),
    Mutation(
        "4", "a person is not told which files were sent", "avatar.money.failures",
        ' and the files {sent.portrait} and "\n        f"{sent.voice}."', '."',
        flavour="answers",
    ),
    Mutation(
        "5", "another take is the one that failed", "avatar.job.produce",
        "if head.state in {RenderState.FAILED, RenderState.STALLED}:", "if False:",
        flavour="another_take",
    ),
    Mutation(
        "6", "a result of unforeseen shape is a failure", "avatar.providers.fal_answers",
        "return ResultKind.NOT_YET if early else ResultKind.NO_VIDEO",
        "return ResultKind.NOT_YET if early else ResultKind.REFUSED",
        flavour="oddly",
    ),
    Mutation(
        "6", "an unknown word is polled for ever, although the result has the video", "avatar.providers.fal",
        "known = self._words.knows(snapshot.word) or snapshot.state is RemoteState.DONE", "known = True",
        flavour="cured",
    ),
    Mutation(
        "7", "a job is not noted as open", "avatar.money.commit",
        "    await open_job(workspace, plan.job_id)\n    amounts", "    amounts",
        flavour="nobody_again",
    ),
    Mutation(
        "8", "a video that does not play is fetched for ever", "avatar.money.collect",
        "last = entry.tries >= len(FETCH_AGAIN)", "last = False",
        flavour="never",
    ),
    Mutation(
        "9", "what the provider has lost is waited for for ever", "avatar.money.follow",
        "return age_of(submission) > workspace.settings.polling.deadline_seconds", "return False",
        flavour="never",
    ),
    Mutation(
        "10", "a video is not downloaded through the proxy", "avatar.providers.public_hosts",
        "        proxy = proxy_for(str(target))\n", "        proxy = None\n",
        flavour="proxied",
    ),
    Mutation(
        "11", "an empty balance ends a run that only asks", "avatar.providers.wire",
        "if status == KEY_REFUSED:", "if status == KEY_REFUSED or status in ACCOUNT_REFUSED:",
        flavour="cured",
    ),
    Mutation(
        "11", "a link that does not work yet ends a run", "avatar.providers.download",
        'if error.kind in {"unavailable", "expired"}:', 'if error.kind == "unavailable":',
        flavour="cured",
    ),
    Mutation(
        "12", "inputs that were not fetched may have been charged", "avatar.providers.fal_answers",
        " or kind == UNREACHABLE_INPUT else None", " else None",
        flavour="unread",
    ),
    Mutation(
        "13", "claims are given back when they are seconds old", "avatar.money.budget",
        "USABLE_SECONDS, LEAKED_SECONDS = 3600.0, 7200.0", "USABLE_SECONDS, LEAKED_SECONDS = 3600.0, 2.0",
        flavour="hours",
    ),
    Mutation(
        "13", "a claim made hours ago is believed", "avatar.money.budget",
        "return made is not None and made.passed < USABLE_SECONDS", "return made is not None",
        flavour="hours",
    ),
    Mutation(
        "13", "a claim is not looked at again once an intent names it", "avatar.money.submit",
        "    if is_claimed and attempt.is_fresh():", "    if attempt.is_fresh():",
        flavour="asleep",
    ),
    Mutation(
        "13", "who gives back takes the claims of others", "avatar.money.budget",
        "            self._made.pop(key, None)\n            await self.store.remove(key)\n",
        "            self._made.pop(key, None)\n            for stat in await self.store.list(key.split('.')[0]):\n"
        "                await self.store.remove(stat.key)\n",
    ),
    Mutation(
        "13", "the day is counted before the claim is written", "avatar.money.budget",
        "            for claim in ours:\n                await self._write(claim)\n            if self.per_day is None or "
        "total(claims := await self.claims(day)) <= self.per_day:\n                return None\n",
        "            if self.per_day is None or total(claims := await self.claims(day)) + total(ours) <= self.per_day:\n"
        "                for claim in ours:\n                    await self._write(claim)\n                return None\n",
        flavour="purse",
    ),
    Mutation(
        "14", "the bill is what was quoted for a second", "avatar.money.collect",
        "return (seconds * provider.price_per_second).quantize(CENT_FRACTION)",
        "return provider.price_per_second.quantize(CENT_FRACTION)",
    ),
    Mutation(
        "15", "two runs of a batch lose a turn", "avatar.batch.chunks",
        "at_once // parts + (part < at_once % parts)", "at_once // parts",
        flavour="shards",
    ),
    Mutation(
        "16", "one trouble ends reconcile", "avatar.job.reconcile",
        "            except Exception as error:  # noqa: BLE001 - a full disk", "            except KeyError as error:  # a full disk",
        flavour="beside",
    ),
    Mutation(
        "17", "free steps give up at the first trouble", "avatar.waiting",
        "LONG = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 60.0, 60.0, 60.0)", "LONG = ()",
        flavour="outage",
    ),
    Mutation(
        "18", "that it was not sent is tried to be written down once", "avatar.money.attempt",
        "return await seen_through(patiently(lambda: self.write(state, **facts), PERSIST))",
        "return await self.write(state, **facts)",
        flavour="refusals",
    ),
    Mutation(
        "19", "a video put together anew has no place", "avatar.job.record",
        'key = f"{begin}-{sha256[:16]}.mp4"', "pass",
        flavour="again_elsewhere",
    ),
    Mutation(
        "i", "the provider's history is not asked", "avatar.money.state",
        "(settle_by_webhook, settle_by_answer, settle_by_history)", "(settle_by_webhook, settle_by_answer)",
        flavour="answers",
    ),
    Mutation(
        "i", "a request that is named in an odd answer is not looked for", "avatar.money.state",
        "(settle_by_webhook, settle_by_answer, settle_by_history)", "(settle_by_webhook, settle_by_history)",
        flavour="answers",
    ),
    Mutation(
        "h", "an answer that names no video is asked for for ever", "avatar.money.collect",
        'await give_up(workspace, record, "unreadable", str(error), answer=error.answer)', "pass",
        flavour="never",
    ),
)  # fmt: skip


def by_name(name: str) -> Mutation:
    return next(mutation for mutation in MUTATIONS if mutation.name == name)


def forget_product() -> None:
    """Have the product imported anew. What it needs of others stays: that takes longer than all else."""
    for name in list(sys.modules):
        if name.split(".")[0] in {"avatar", "tests"}:
            del sys.modules[name]


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads one module from its mutated source."""

    def __init__(self, mutation: Mutation) -> None:
        super().__init__(mutation.module, str(mutation.path))
        self._source = mutation.mutated()

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._source, self.path, "exec")


class _Finder(MetaPathFinder):
    def __init__(self, mutation: Mutation) -> None:
        self._mutation = mutation

    def find_spec(
        self, fullname: str, _: Sequence[str] | None = None, __: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._mutation.module:
            return None
        return importlib.util.spec_from_loader(fullname, _Loader(self._mutation))


def install(mutation: Mutation) -> None:
    """Have the product imported with the defect. Nothing of it may be imported yet."""
    assert not any(name == "avatar" or name.startswith("avatar.") for name in sys.modules), "imported already"
    sys.meta_path.insert(0, _Finder(mutation))
