"""How an upload ended as a whole, and what is told beside it."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal

from tasks.batches.models import SERVED, Outcome, RowState
from tasks.errors import AvatarError, BatchIncomplete, Refused
from tasks.inbox.models import Ending, Filed, Inbox, Taken
from tasks.inbox.taking import put_off
from tasks.jobs.links import player_url

#: Rows told one by one.
TOLD = 50


def judge(
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
    stays = put_off(taken, why, blameless=blameless)
    return stays if stays.ending is Ending.LATER else _failed(inbox, stays, outcomes, stays.told)


def _is_blameless(outcome: Outcome) -> bool:
    """Whether it waits for something to happen elsewhere: a render to be settled, the budget of another day."""
    return outcome.state is RowState.UNKNOWN or (outcome.state is RowState.REFUSED and outcome.passes)


def label(inbox: Inbox, taken: Taken, source: str) -> str:
    """A file of the upload by the name it has there."""
    return source.removeprefix(inbox.address(inbox.folder(taken.name))).replace("%25", "%")


def _in_lines(inbox: Inbox, taken: Taken, troubles: Sequence[Outcome]) -> str:
    lines = [
        f"{label(inbox, taken, each.voice) or taken.name}: {each.state}. {label_all(inbox, taken, each.reason)}"
        for each in troubles[:TOLD]
    ]
    if len(troubles) > TOLD:
        lines.append(f"… and {len(troubles) - TOLD} more.")
    return "\n".join(lines)


def label_all(inbox: Inbox, taken: Taken, text: str) -> str:
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
            "voice": label(inbox, taken, each.voice),
            "portrait": label(inbox, taken, each.portrait),
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
        + "".join(f"\n{label(inbox, taken, each.voice)}: published as {each.video}" for each in made),
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
