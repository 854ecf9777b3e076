"""How an upload ended as a whole, what is told beside it, and its way out of the inbox.

Every file is copied, the copy is verified, and only then the original is removed, if it is still the one that was
copied. Whoever finds it half done goes on with it: the note of the upload says where to.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import accumulate

from avatar.batch.chunks import JSON_LINES, read_rows, write_rows
from avatar.batch.models import SERVED, Batch, Checked, OnBadRows, Outcome, RowState
from avatar.batch.report import each_outcome
from avatar.errors import AvatarError, BatchIncomplete, ObjectNotFound, Refused, StoreUnavailable
from avatar.events import BudgetRefusal, player_url
from avatar.inbox.upload_owner import Ending, Filed, Taken, note_end, note_waiting, remove_notes
from avatar.inbox.uploads import DONE, FAILED, ROWS, File, Inbox, file_of, in_turns
from avatar.store.by_day import UPLOADS, note_day
from avatar.workspace import Workspace

# The jobs of the uploads that a run has taken, as one batch.
Outcomes = Mapping[str, Sequence[Outcome]]


async def write_manifest(inbox: Inbox, taken: Sequence[Taken], owner: str) -> Batch:
    """Keep the rows of all uploads as a manifest in the store, in an order that is the same for the same uploads."""
    lines = [json.dumps(row, sort_keys=True) + "\n" for each in taken for row in each.rows]
    key = manifest_key(inbox, owner)
    await inbox.store.put(key, "".join(lines).encode(), content_type=JSON_LINES)
    names = [each.name for each in taken if each.rows]
    name = names[0] if len(names) == 1 else f"{len(names)} uploads"
    return Batch(manifest=inbox.address(key), on_bad_rows=OnBadRows.SKIP, name=f"inbox: {name}"[:100])


async def discard_manifest(inbox: Inbox, taken: Sequence[Taken], owner: str) -> None:
    """Remove the manifest, once all is filed; the batch has a copy of its own."""
    if any(each.rows for each in taken):
        await inbox.store.remove(manifest_key(inbox, owner))


def manifest_key(inbox: Inbox, owner: str) -> str:
    return f"{inbox.prefix}{ROWS}{owner}.jsonl"


def lines_of(taken: Sequence[Taken]) -> dict[str, range]:
    """The lines of the manifest, from 1, that belong to each upload, by signature."""
    ends = list(accumulate(len(each.rows) for each in taken))
    return {
        each.signature: range(end - len(each.rows) + 1, end + 1)
        for each, end in zip(taken, ends, strict=True)
    }


async def keep_to_limit(workspace: Workspace, checked: Checked, taken: Sequence[Taken]) -> Checked:
    """Take out the rows of uploads that would cost more than AVATAR_BUDGET__PER_BATCH: each is a batch of its own."""
    limit = workspace.settings.budget.per_batch
    if limit is None:
        return checked
    owed = await _owed(workspace, checked)
    for lines in lines_of(taken).values():
        amount = sum((owed.get(line, Decimal(0)) for line in lines), Decimal(0))
        if amount > limit:
            reason = (
                f"What is still to be bought of this upload is quoted at ${amount:.2f}, above the limit of ${limit:.2f} "
                "set by AVATAR_BUDGET__PER_BATCH. Nothing was sent or spent."
            )
            checked = await _take_out(workspace, checked, lines, reason)
            key = f"{checked.batch_id}:{lines.start}"
            workspace.notify(BudgetRefusal(key=key, batch_id=checked.batch_id, reason=reason))
    return checked


async def _owed(workspace: Workspace, checked: Checked) -> dict[int, Decimal]:
    return {
        row.line: sum(row.owed.values(), Decimal(0))
        for chunk in range(checked.chunks)
        for row in await read_rows(workspace, checked.batch_id, chunk)
    }


async def _take_out(workspace: Workspace, checked: Checked, lines: range, reason: str) -> Checked:
    facts = {"state": RowState.BAD, "reason": reason, "hint": "Raise it, or upload fewer voices at once."}
    ready, owed = checked.ready, checked.owed
    for chunk in range(checked.chunks):
        rows = await read_rows(workspace, checked.batch_id, chunk)
        out = [row for row in rows if row.line in lines and row.plan is not None]
        ready, owed = ready - len(out), owed - sum((sum(row.owed.values()) for row in out), Decimal(0))
        refused = {
            row.line: row.model_copy(
                update={"plan": None, "owed": {}, "outcome": row.outcome.model_copy(update=facts)}
            )
            for row in out
        }
        await write_rows(workspace, checked.batch_id, chunk, [refused.get(row.line, row) for row in rows])
    return checked.model_copy(update={"ready": ready, "owed": owed, "bad": checked.rows - ready})


async def read_outcomes(workspace: Workspace, checked: Checked, run: str, taken: Sequence[Taken]) -> Outcomes:
    """How the rows of each upload ended, by signature. A row that is done by another's stands as that one does."""
    ended = {outcome.line: outcome async for outcome in each_outcome(workspace, checked, run)}
    firsts = {each.job_id: each for each in ended.values() if each.state is not RowState.DUPLICATE}
    return {
        signature: [_own(ended[line], firsts) for line in lines if line in ended]
        for signature, lines in lines_of(taken).items()
    }


def _own(outcome: Outcome, firsts: Mapping[str, Outcome]) -> Outcome:
    first = firsts.get(outcome.job_id) if outcome.state is RowState.DUPLICATE else None
    return first.model_copy(update={"line": outcome.line, "voice": outcome.voice}) if first else outcome


def refuse_rows(outcomes: Outcomes, error: AvatarError, *, passes: bool) -> Outcomes:
    """The outcomes after what was still to be done was refused as a whole."""
    facts = {
        "state": RowState.REFUSED, "reason": str(error), "hint": error.hint or "", "passes": passes,
    }  # fmt: skip
    return {
        signature: [
            each.model_copy(update=facts) if each.state is RowState.WAITING else each for each in rows
        ]
        for signature, rows in outcomes.items()
    }


#: Rows told one by one.
TOLD = 50


def decide_ending(
    inbox: Inbox, taken: Taken, outcomes: Sequence[Outcome], stopped: AvatarError | None = None
) -> Taken:
    """The note of an upload with its end.

    It stays in the inbox while anything may still pass by itself, or waits for a person who settles it; it has failed
    if something stands against it for good; else it is done.

    Args:
        inbox: where it lies.
        taken: the note without an end.
        outcomes: how its rows ended.
        stopped: what stopped the run before all rows were reached.
    """
    troubles = [each for each in outcomes if each.state not in SERVED]
    if taken.fault:
        return _failed(inbox, taken, outcomes, taken.fault)
    if len(outcomes) < len(taken.rows):
        why = str(stopped or "Not all of its rows were reached.")
        return _stay(inbox, taken, outcomes, why, blameless=isinstance(stopped, Refused))
    blameless = any(_is_blameless(each) for each in troubles)
    if blameless or any(each.passes or each.state is RowState.WAITING for each in troubles):
        return _stay(inbox, taken, outcomes, _in_lines(inbox, taken, troubles), blameless=blameless)
    if troubles:
        return _failed(inbox, taken, outcomes, _in_lines(inbox, taken, troubles))
    return taken.model_copy(update={"ending": Ending.DONE, "told": _result(inbox, taken, outcomes)})


def _stay(inbox: Inbox, taken: Taken, outcomes: Sequence[Outcome], why: str, *, blameless: bool) -> Taken:
    """Put off, or failed if that was done too often."""
    stays = note_waiting(taken, why, blameless=blameless)
    return stays if stays.ending is Ending.LATER else _failed(inbox, stays, outcomes, stays.told)


def _is_blameless(outcome: Outcome) -> bool:
    """Whether it waits for something to happen elsewhere: a render to be settled, the budget of another day."""
    return outcome.state is RowState.UNKNOWN or (outcome.state is RowState.REFUSED and outcome.passes)


def label_file(inbox: Inbox, taken: Taken, source: str) -> str:
    """A file of the upload by the name it has there."""
    return source.removeprefix(inbox.address(inbox.folder(taken.name))).replace("%25", "%")


def _in_lines(inbox: Inbox, taken: Taken, troubles: Sequence[Outcome]) -> str:
    lines = [
        f"{label_file(inbox, taken, each.voice) or taken.name}: {each.state}. {label_files(inbox, taken, each.reason)}"
        for each in troubles[:TOLD]
    ]
    if len(troubles) > TOLD:
        lines.append(f"… and {len(troubles) - TOLD} more.")
    return "\n".join(lines)


def label_files(inbox: Inbox, taken: Taken, text: str) -> str:
    """A text with the upload's own files by the names they have there."""
    return text.replace(inbox.address(inbox.folder(taken.name)), "")


def billed(outcomes: Sequence[Outcome]) -> Decimal:
    """US dollars charged for the videos of an upload, by whichever run; once for rows that are the same job."""
    prices = {each.job_id: each.billed or Decimal(0) for each in outcomes if each.state in SERVED}
    return sum(prices.values(), Decimal(0))


def _result(inbox: Inbox, taken: Taken, outcomes: Sequence[Outcome]) -> str:
    """result.json."""
    settings = inbox.workspace.settings
    videos = [
        {
            "title": each.title,
            "voice": label_file(inbox, taken, each.voice),
            "portrait": label_file(inbox, taken, each.portrait),
            "job_id": each.job_id,
            "video": each.video,
            "link": player_url(settings, each.job_id),
            "seconds": each.seconds,
            "provider": each.provider,
            "cost": {"quoted": str(each.quoted), "billed": str(each.billed), "currency": "USD"},
            "requests": list(each.requests),
        }
        for each in outcomes
    ]
    result = {
        "upload": taken.name,
        "state": "published",
        "filed_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "cost": {"billed": str(billed(outcomes)), "currency": "USD"},
        "videos": videos,
        "flow_run_id": taken.owner,
    }
    return json.dumps(result, indent=2, ensure_ascii=False) + "\n"


def _failed(inbox: Inbox, taken: Taken, outcomes: Sequence[Outcome], why: str) -> Taken:
    made = [each for each in outcomes if each.state in SERVED]
    hints = list(dict.fromkeys(each.hint for each in outcomes if each.hint and each.state not in SERVED))
    home = inbox.folder(taken.name)
    parts = [
        f"{taken.name}: not finished ({datetime.now(UTC):%Y-%m-%d %H:%M} UTC, flow run {taken.owner})",
        f"What happened\n{why}",
        f"What it cost\n{_cost(outcomes)}",
        "What was kept\nThe files as they were uploaded, in this folder."
        + "".join(f"\n{label_file(inbox, taken, each.voice)}: published as {each.video}" for each in made),
        "What to do next\n"
        + "".join(f"{hint}\n" for hint in hints[:TOLD])
        + f"Then upload the corrected files to {home} (or copy these back there). What is published already costs nothing.",
    ]
    told = "\n\n".join(parts) + "\n"
    return taken.model_copy(update={"ending": Ending.FAILED, "told": told})


def _cost(outcomes: Sequence[Outcome]) -> str:
    charged = billed(outcomes)
    risk = sum((each.at_risk or Decimal(0) for each in outcomes), Decimal(0))
    lines = [
        f"${charged:.2f} for what is published." if charged else "Nothing was charged for a published video."
    ]
    if risk:
        lines.append(f"Up to ${risk:.2f} may have been charged for what is not.")
    return "\n".join(lines)


def as_filed(taken: Taken, where: str, *, changed: bool = False) -> Filed:
    return Filed(taken.name, taken.ending or Ending.LATER, where, taken.told, changed=changed)


def require_done(filed: Sequence[Filed]) -> None:
    """Raise `BatchIncomplete` if an upload has no video, so that the run is seen to have failed."""
    left = [each for each in filed if each.ending is not Ending.DONE]
    if not left:
        return
    states = {each.ending for each in left}
    named = "; ".join(f"{each.name} ({each.ending}: {each.where})" for each in left[:TOLD])
    raise BatchIncomplete(
        f"{len(left)} of {len(filed)} uploads have no video: {named}. Nothing that was paid for is lost.",
        hint="Read reason.txt beside each that failed."
        if Ending.FAILED in states
        else "They stay in the inbox and are taken again by a later sweep.",
    )


# Filing: every file is copied, verified, and then removed.
_PLACES = {Ending.DONE: (DONE, "result.json"), Ending.FAILED: (FAILED, "reason.txt")}
_TYPES = {"result.json": "application/json", "reason.txt": "text/plain; charset=utf-8"}


async def write_end(inbox: Inbox, ended: Taken) -> Taken | None:
    """Write the end of an upload down, and where it will be filed. None: another run has taken it over."""
    if ended.ending in _PLACES:
        ended = ended.model_copy(update={"folder": await _free_folder(inbox, ended)})
    return ended if await note_end(inbox, ended) else None


async def _free_folder(inbox: Inbox, taken: Taken) -> str:
    """`.done/<name>/`; if something was filed there before, a folder in it that nobody else has."""
    place = _PLACES[taken.ending or Ending.FAILED][0]
    folder = f"{inbox.prefix}{place}{taken.name}/"
    if not await inbox.store.list(folder):
        return folder
    return f"{folder}{datetime.now(UTC):%Y%m%d-%H%M%S}-{taken.signature[:6]}/"


async def file_away(inbox: Inbox, taken: Taken) -> Filed:
    """Move an upload to where its note says. May be repeated.

    A folder that has changed since it was taken is copied as far as it is still the same, and stays as it is: it is
    taken again as it is now, and what is published already costs nothing then.
    """
    if taken.ending not in _PLACES:
        return as_filed(taken, inbox.folder(taken.name))
    here = [
        file_of(stat)
        for stat in await inbox.store.list(inbox.folder(taken.name))
        if not stat.key.endswith("/")
    ]
    ours = [file for file in here if file in taken.files]
    place = f"{inbox.prefix}{_PLACES[taken.ending or Ending.FAILED][0]}{taken.name}"
    await note_day(inbox.store, UPLOADS, place)
    copied = await in_turns(lambda file: _copy(inbox, taken, file), ours)
    await _tell(inbox, taken)
    changed = len(ours) < len(here) or not all(copied) or not await _remove(inbox, taken, ours)
    await remove_notes(inbox, [taken.signature])
    return as_filed(taken, taken.folder, changed=changed)


async def _copy(inbox: Inbox, taken: Taken, file: File) -> bool:
    """Whether a verified copy of the file is in place. False: it has been changed or removed meanwhile."""
    target = _target(inbox, taken, file)
    there = await inbox.store.exists(target)
    if there is not None and (there.size, there.etag) == (file.size, file.etag):
        return True
    try:
        copy = await inbox.store.copy(file.key, target)
        source = await inbox.store.stat(file.key)
    except ObjectNotFound:
        return False
    if file_of(source) != file:
        # Of what was written over it a copy has been made: it is no part of this upload.
        await inbox.store.remove(target)
        return False
    # The ETag of an upload in parts does not survive a copy.
    alike = "-" in file.etag or "-" in copy.etag or copy.etag == file.etag
    if copy.size != file.size or not alike:
        await inbox.store.remove(target)
        raise StoreUnavailable(f"The store did not copy {file.key} as it is. It was not removed.")
    return True


def _target(inbox: Inbox, taken: Taken, file: File) -> str:
    return taken.folder + file.key.removeprefix(inbox.folder(taken.name))


async def _tell(inbox: Inbox, taken: Taken) -> None:
    """Write what is told beside the files, under a name that none of them has."""
    name = _PLACES[taken.ending or Ending.FAILED][1]
    kind, used = _TYPES[name], {_target(inbox, taken, file) for file in taken.files}
    while taken.folder + name in used:
        name = f"_{name}"
    key = taken.folder + name
    await inbox.store.put(key, taken.told.encode(), content_type=kind, like=inbox.folder(taken.name))


async def _remove(inbox: Inbox, taken: Taken, files: Sequence[File]) -> bool:
    """Remove the originals. False, and nothing more is removed, once one of them is found changed.

    What is no voice goes first: a folder without its portrait is taken by nobody meanwhile.
    """
    voices = {row.get("voice") for row in taken.rows}
    for file in sorted(files, key=lambda file: inbox.address(file.key) in voices):
        now = await inbox.store.exists(file.key)
        if now is None:
            continue
        if file_of(now) != file:
            return False
        await inbox.store.remove(file.key)
    return True
