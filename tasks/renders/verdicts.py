"""What a person is told of a render that only a person can move on."""

from typing import NoReturn

from tasks.errors import OutcomeUnknown, RenderFailed
from tasks.storage.journal import Record


def raise_unknown(record: Record) -> NoReturn:
    """Tell a person what may have been charged, and how to find out."""
    entry = record.entry
    why = entry.failure.message if entry.failure else "the answer was lost."
    seen = entry.failure.request_id if entry.failure else None
    raise OutcomeUnknown(
        f"Whether {entry.provider} accepted render {entry.render_id} is not known: {why} Up to ${entry.quoted:.2f} may "
        f"have been charged. It is not sent again. Look for a request made around {entry.at:%Y-%m-%d %H:%M:%S} UTC, "
        f"tagged render={entry.render_id}, on the provider's dashboard.",
        provider=entry.provider,
        render_id=entry.render_id,
        cost_at_risk=entry.quoted,
        request_id=seen,
        hint=f"avatar resolve {entry.render_id} --request-id {seen or 'ID'}, or --not-charged if it is not there.",
    )


def raise_failed(record: Record) -> NoReturn:
    entry, failure = record.entry, record.entry.failure
    kind, message = (failure.kind, failure.message) if failure else ("failed", "no reason given")
    billed = failure.billed if failure else None
    raise RenderFailed(
        f"{entry.provider} failed render {entry.render_id} ({kind}): {message} "
        + ("It was not charged." if billed is False else f"Up to ${entry.quoted:.2f} may have been charged.")
        + " It is not sent again by itself.",
        provider=entry.provider,
        render_id=entry.render_id,
        request_id=entry.submission.request_id if entry.submission else None,
        cost_at_risk=None if billed is False else entry.quoted,
        hint="Change the input, or ask for another take.",
        kind=kind,
        billed=billed,
    )
