"""What a batch comes to as a whole: good, not begun because of bad rows, or with rows left over."""

from tasks.batches.models import SERVED, Outcome, RowState, Summary
from tasks.errors import BatchIncomplete, InvalidInput, OutcomeUnknown, ProviderFailure, Refused

#: Rows told in an error; the report tells all.
NAMED = 5
#: From the worst: states that make a batch incomplete, and what the command then exits with.
_EXITS = (
    (RowState.UNKNOWN, OutcomeUnknown.exit_code),
    (RowState.FAILED, ProviderFailure.exit_code),
    (RowState.REJECTED, ProviderFailure.exit_code),
    (RowState.REFUSED, Refused.exit_code),
    (RowState.WAITING, Refused.exit_code),
)


def refuse_bad_rows(summary: Summary) -> None:
    """Raise `InvalidInput` if there is a bad row: none of the others is rendered."""
    bad = summary.count(RowState.BAD)
    if bad:
        named = [each for each in summary.troubles if each.state is RowState.BAD]
        raise InvalidInput(
            f"{bad} of {summary.rows} rows cannot be rendered, so none was. Nothing was sent or spent. {_name(named, bad)}"
            f" All are in {summary.report_key}.",
            hint="Correct them, or render the others with on_bad_rows=skip (--on-bad-rows skip).",
            summary=summary,
        )


def require_videos(summary: Summary) -> Summary:
    """The summary of a batch that was carried out. Bad rows were told before, and count only if there are no others.

    Raises:
        BatchIncomplete: a row that could be rendered has no video.
        InvalidInput: every row is bad.
    """
    left = [(state, code) for state, code in _EXITS if summary.count(state)]
    if not left:
        if not summary.count(*SERVED):
            refuse_bad_rows(summary)
        return summary
    counts = ", ".join(f"{summary.count(state)} {state}" for state, _ in left)
    number = summary.count(*(state for state, _ in left))
    named = [each for each in summary.troubles if each.state is not RowState.BAD]
    risk = f" Up to ${summary.at_risk:.2f} may have been charged for them." if summary.at_risk else ""
    raise BatchIncomplete(
        f"{number} of {summary.rows} rows have no video ({counts}).{risk} {_name(named, number)} All are in "
        f"{summary.report_key}.",
        cost_at_risk=summary.at_risk or None,
        hint="Run the batch again: it does only what is missing. Rows with an unknown outcome wait for `avatar resolve`.",
        exit_code=left[0][1],
        summary=summary,
    )


def _name(rows: list[Outcome], number: int) -> str:
    told = " ".join(f"Line {row.line}: {row.reason.rstrip('.')}." for row in rows[:NAMED])
    return f"{told} (and {number - NAMED} more)" if number > NAMED else told
