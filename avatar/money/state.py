"""Where a render stands, after what can be told without sending anything that is paid for."""

import asyncio
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from avatar.errors import AvatarError, InvalidInput, StoreUnavailable, Transient
from avatar.events import about_stray, about_unknown
from avatar.models import RemoteState, Submission
from avatar.money import local_receipts
from avatar.money.entries import TRANSITIONS, Entry, Failure, Record, RenderState, Stray
from avatar.money.journal import EntryUnreadable, Journal, is_indexed
from avatar.money.webhooks import OPEN_ENDED, WebhookNote, notes_for, request_ids, valid_request_id
from avatar.providers.answers import parse_object
from avatar.providers.polling import NOT_FOUND
from avatar.stored_models import ProviderName
from avatar.workspace import Workspace


# A request id that did not come as an answer to the paid request: the provider is asked whether it knows it.
async def confirm_request(workspace: Workspace, record: Record, request_id: str) -> Submission:
    """The receipt that a lost answer would have been, once the provider says that it knows the request.

    Raises:
        InvalidInput: the provider does not know it.
        ProviderUnavailable: the provider could not be asked; try again.
    """
    submission = Submission(
        render_id=record.entry.render_id,
        provider=record.entry.provider,
        request_id=request_id,
        submitted_at=record.entry.at,
        **({"model": sent.model, "endpoint": sent.endpoint} if (sent := record.entry.sent) else {}),
    )
    snapshot = await workspace.provider(submission.provider, submission.model).poll(submission)
    # Soon after a submit, "not found" is read as "not there yet": here it confirms nothing.
    if snapshot.state is RemoteState.LOST or snapshot.word == NOT_FOUND:
        raise InvalidInput(
            f"{submission.provider} does not know a request {request_id!r}. Nothing was changed.",
            render_id=submission.render_id,
            hint="Copy the request id from the provider's dashboard; check the key and the base URL.",
        )
    return submission


# Settling a render by what webhooks brought: a request id that its lost answer did not.
#
# Confirmed by the provider's API and held by no other render, the id is attached as a person would do it with
# `avatar resolve`.
log = logging.getLogger("avatar.webhooks")

#: Heads of the journal read together when a request id is looked for.
ABREAST = 64


async def settle_by_webhook(workspace: Workspace, record: Record) -> Record:
    """The render, submitted if a webhook brought the request id that it lacks, and the provider confirms it.

    Asked about a render that nobody moves on: one in `OPEN_ENDED`, or an intent whose holder is gone. Never sends a
    paid request. What cannot be proved now leaves the record as it is, and the note stays.

    Raises:
        StoreUnavailable: the store failed.
        ProviderUnavailable: a person declared the render not charged, and whether that was wrong cannot be asked now.
    """
    named = [note for note in await notes_for(workspace.store, record) if note.request_id]
    checked = [(note, await _confirmed(workspace, record, note)) for note in named]
    proved = [(note, submission) for note, submission in checked if submission is not None]
    if len(proved) > 1:
        log.error(
            "Webhooks name several requests for render %s: %s. A person must choose (`avatar resolve`).",
            record.entry.render_id, ", ".join(submission.request_id for _, submission in proved),
        )  # fmt: skip
    if len(proved) != 1:
        return record
    return await _attach(workspace, record, *proved[0])


async def _confirmed(workspace: Workspace, record: Record, note: WebhookNote) -> Submission | None:
    """The receipt for the note's request, if the provider knows it under our key and no other render holds it.

    Neither provider's API tells a request's inputs or tags by its id: that it is this render's is proved by the
    address it came to, and for fal by the signature over the body that names it.
    """
    try:
        submission = await confirm_request(workspace, record, str(note.request_id))
    except AvatarError as error:
        # Before a person's word lets it be paid for anew, the provider must have answered.
        freed = record.state is RenderState.RESOLVED and isinstance(error, Transient)
        if freed or isinstance(error, StoreUnavailable):
            raise
        log.warning("A webhook named request %s for render %s. %s", note.request_id, note.render_id, error)
        return None
    holder = await find_holder(workspace, note.render_id, note.provider, str(note.request_id))
    if holder is None:
        return submission
    log.error(
        "A webhook for render %s named request %s, which render %s holds: it is dropped.",
        note.render_id, note.request_id, holder,
    )  # fmt: skip
    await workspace.store.remove(note.key)
    return None


async def _attach(workspace: Workspace, record: Record, note: WebhookNote, submission: Submission) -> Record:
    settled_by = f"{note.provider} webhook received {note.received_at:%Y-%m-%d %H:%M:%S} UTC"
    return await attach(workspace, record, submission, settled_by) or record


async def attach(
    workspace: Workspace, record: Record, submission: Submission, settled_by: str
) -> Record | None:
    """Follow a request that did not come as an answer. What was given back for it is set aside again first.

    Returns:
        Where the render stands then: others may have written at the same moment.
    """
    render_id = record.entry.render_id
    if RenderState.SUBMITTED not in TRANSITIONS[record.state]:
        return record
    await workspace.journal.keep_open(render_id)
    await workspace.budget.restore(record.entry.claim)
    written = await workspace.journal.append(
        record, RenderState.SUBMITTED, submission=submission, settled_by=settled_by, failure=None, remote=None
    )
    if written is not None:
        log.warning("Render %s is request %s: %s.", render_id, submission.request_id, settled_by)
    return written or await workspace.journal.head(render_id)


async def find_holder(
    workspace: Workspace, render_id: str, provider: ProviderName, request_id: str
) -> str | None:
    """The render that holds a request already: another one, or this one in an earlier attempt.

    Told by the index of requests, and by the renders that are open, whose request may not be indexed yet. A store
    with renders of before the index (`avatar repair` has not run) has the newest entry of every render read.
    """
    journal = workspace.journal
    if request_id in await request_ids(journal, render_id):
        return render_id
    holder = await journal.render_of_request(provider, request_id)
    if holder not in {None, render_id}:
        return holder
    if await is_indexed(workspace.store):
        others = set(await journal.open_renders())
    else:
        others = {stat.key.split("/")[1] for stat in await workspace.store.list("journal/")}
    return await _holder_among(journal, sorted(others - {render_id}), (provider, request_id))


async def _holder_among(
    journal: Journal, renders: Sequence[str], request: tuple[ProviderName, str]
) -> str | None:
    for start in range(0, len(renders), ABREAST):
        some = renders[start : start + ABREAST]
        holds = await asyncio.gather(*(_holds(journal, render_id, request) for render_id in some))
        if any(holds):
            return some[holds.index(True)]
    return None


async def _holds(journal: Journal, render_id: str, request: tuple[ProviderName, str]) -> bool:
    """Whether the newest entry of a render names a request. One that cannot be read is searched as it is."""
    try:
        head = await journal.head(render_id)
    except EntryUnreadable as error:
        return request[1].encode() in error.data
    held = head.entry.submission if head else None
    return held is not None and (held.provider, held.request_id) == request


async def read_current(workspace: Workspace, render_id: str) -> Record | None:
    """Where a render stands, after what can be told without sending anything that is paid for.

    A receipt on this machine, a webhook that the provider confirms, or the provider's own history settles an unknown
    render; an intent whose holder is gone and that none of them settles becomes unknown. A request that was accepted
    late is followed if no other was.

    Raises:
        StoreUnavailable: the store failed.
        ProviderUnavailable: a person declared the render not charged, a webhook says otherwise, and the provider
            cannot be asked now.
    """
    record = await workspace.journal.head(render_id)
    if record is None or (record.state is RenderState.INTENT and not record.lease_expired):
        return record
    record = await _use_receipt(workspace, record)
    if record.strays:
        record = await _use_stray(workspace, record)
    if record.state not in OPEN_ENDED | {RenderState.INTENT}:
        return record
    for settle in (settle_by_webhook, settle_by_answer, settle_by_history):
        settled = await settle(workspace, record)
        if settled is not record:
            return settled
    return await _declare_unknown(workspace, record) if record.state is RenderState.INTENT else record


async def _declare_unknown(workspace: Workspace, record: Record) -> Record:
    written = await workspace.journal.append(record, RenderState.UNKNOWN, failure=_silent_holder(record))
    if written is not None:
        workspace.notify(about_unknown(written))
    return written or await workspace.journal.head(record.entry.render_id) or record


async def _use_receipt(workspace: Workspace, record: Record) -> Record:
    """Follow a receipt that this machine wrote down and the journal lacks. One of an earlier attempt is a stray.

    One that the journal holds was left by a process that died before it could drop it.
    """
    entry, folder = record.entry, workspace.settings.state_dir
    receipt = local_receipts.find_receipt(folder, entry.render_id)
    if receipt is None:
        return record
    submission = receipt.submission
    if submission.request_id not in await request_ids(workspace.journal, entry.render_id):
        ours = receipt.attempt in {None, entry.attempt}
        if ours and record.state in OPEN_ENDED | {RenderState.INTENT}:
            written = await workspace.journal.append(record, RenderState.SUBMITTED, submission=submission)
            if written is None:  # somebody wrote at the same moment; the receipt still holds
                newest = await workspace.journal.head(entry.render_id)
                return await _use_receipt(workspace, newest) if newest else record
            record = written
        else:
            stray = stray_of(entry, submission, attempt=receipt.attempt or entry.attempt)
            await workspace.journal.keep_stray(stray)
            workspace.notify(about_stray(stray))
            record = replace(record, strays=True)
    local_receipts.drop_receipt(folder, entry.render_id)
    return record


#: States after which nothing is charged or under way, so that a request that was accepted late can be followed.
_NOTHING_ELSE = {RenderState.NOT_SENT, RenderState.REFUSED, RenderState.RESOLVED}


async def _use_stray(workspace: Workspace, record: Record) -> Record:
    """Follow a request that was accepted for an attempt which had lost its turn, if nothing else was charged."""
    for stray in await workspace.journal.strays(record.entry.render_id):
        if stray.submission.request_id in await request_ids(workspace.journal, record.entry.render_id):
            await workspace.journal.settle_stray(stray, "the journal follows it")
            continue
        failure = record.entry.failure
        unbilled = record.state is RenderState.FAILED and failure is not None and failure.billed is False
        if record.state not in _NOTHING_ELSE and not unbilled:
            return record
        settled_by = f"accepted late, for attempt {stray.attempt}"
        followed = await attach(workspace, record, stray.submission, settled_by)
        if followed is None or followed.entry.submission != stray.submission:
            return followed or record
        await workspace.journal.settle_stray(stray, settled_by)
        record = followed
    return record


#: Names under which an answer may hold the id of the request that it answers; and where a link to it has the id.
_ID_NAMES = {"requestid", "id", "taskid", "predictionid"}
_ID_IN_LINK = re.compile(r"https?://[^?#]*/requests/(?:status/)?([^/?#]+)")
#: Ids in one answer that the provider is asked about.
_MOST_IDS = 8


def possible_request_ids(value: Any, name: str = "") -> Iterator[str]:
    """Whatever in an answer may be the id of the request, wherever it stands."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from possible_request_ids(inner, key.lower().replace("_", "").replace("-", ""))
    elif isinstance(value, list):
        for inner in value:
            yield from possible_request_ids(inner, name)
    elif isinstance(value, str | int) and name in _ID_NAMES:
        yield str(value)
    elif isinstance(value, str) and (found := _ID_IN_LINK.match(value)):
        yield unquote(found[1])


async def settle_by_answer(workspace: Workspace, record: Record) -> Record:
    """The render, submitted if the answer that could not be understood names one request that the provider knows.

    An id in an unexpected place or shape is none that can be relied on, until the provider's queue knows it.
    """
    failure = record.entry.failure
    if record.state is not RenderState.UNKNOWN or failure is None:
        return record
    named = {*possible_request_ids(parse_object((failure.answer or "").encode())), failure.request_id}
    known = sorted(filter(None, map(valid_request_id, named)))[:_MOST_IDS]
    confirmed = [found for one in known if (found := await _known_as_ours(workspace, record, one))]
    if len(confirmed) != 1:
        return record
    return await attach(workspace, record, confirmed[0], "named in the answer to the paid request") or record


async def _known_as_ours(workspace: Workspace, record: Record, request_id: str) -> Submission | None:
    """The receipt for a request that the provider knows and no other render holds."""
    entry = record.entry
    if await find_holder(workspace, entry.render_id, entry.provider, request_id) is not None:
        return None
    try:
        return await confirm_request(workspace, record, request_id)
    except StoreUnavailable:
        raise
    except AvatarError as error:
        log.info("Request %s is not known to be render %s. %s", request_id, entry.render_id, error)
        return None


#: Seconds by which the clocks of this machine and of the provider may differ.
CLOCKS_DIFFER = 300.0


async def settle_by_history(workspace: Workspace, record: Record) -> Record:
    """The render, submitted if the provider's own list of requests shows exactly one that is this render's.

    It must have our two files and our prompt, and have been sent while the intent was alive, by clocks that may
    differ; and the queue must know it. None, or two: the record stays as it is. Absence proves nothing.
    """
    found = await look_in_history(workspace, record)
    if found is None or len(found) != 1:
        return record
    submission = await _known_as_ours(workspace, record, found[0])
    if submission is None:
        return record
    settled_by = f"{record.entry.provider}'s list of requests, read {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
    return await attach(workspace, record, submission, settled_by) or record


async def look_in_history(workspace: Workspace, record: Record) -> list[str] | None:
    """Ids of the listed requests that may be this render's; None where the list cannot tell."""
    entry, sent = record.entry, record.entry.sent
    provider = workspace.provider(entry.provider)
    if sent is None or not provider.capabilities.history:
        return None
    margin = timedelta(seconds=CLOCKS_DIFFER)
    since, until = sent.at - margin, max(sent.at, entry.at) + timedelta(seconds=entry.lease_seconds) + margin
    try:
        listed = await provider.history(since, until, sent.endpoint)
    except AvatarError as error:
        log.info("%s's list of requests cannot be read: %s", entry.provider, error)
        return None
    if listed is None:
        return None
    alike = {
        one.request_id
        for one in listed
        if one.prompt == sent.prompt
        and names_file(one.image_url, sent.portrait)
        and names_file(one.audio_url, sent.voice)
        and (one.sent_at is None or since <= one.sent_at <= until)
    }
    # Another take of the same job has the same files and the same prompt.
    holders = [await find_holder(workspace, entry.render_id, entry.provider, one) for one in sorted(alike)]
    return [one for one, holder in zip(sorted(alike), holders, strict=True) if holder is None]


def file_name(url: str) -> str:
    """The last part of an address's path: what a person sees of it. What follows the path may be a signature."""
    return unquote(PurePosixPath(urlsplit(url).path).name)


#: What an asset's name ends in: its content's hash, and what kind of file it is.
_BY_CONTENT = re.compile(r"[0-9a-f]{64}[^/]*$")


def names_file(url: str, name: str) -> bool:
    """Whether an address is that of the file by that name. A copy at fal may have something before the name of ours."""
    shown, ours = file_name(url), _BY_CONTENT.search(name)
    return shown == name or (ours is not None and unquote(shown).endswith(ours[0]))


def stray_of(entry: Entry, submission: Submission, *, attempt: int) -> Stray:
    return Stray(
        render_id=entry.render_id,
        job_id=entry.job_id,
        attempt=attempt,
        holder=entry.holder,
        at=datetime.now(UTC),
        quoted=entry.quoted,
        submission=submission,
    )


def _silent_holder(record: Record) -> Failure:
    return Failure(
        kind="holder_gone",
        message=f"{record.entry.holder} wrote its intent and gave no sign of life for {record.age or 0:.0f} s.",
    )
