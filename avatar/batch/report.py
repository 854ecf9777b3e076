"""How every row of a batch ended: a table for spreadsheets, a page for people, a summary for the run."""

import asyncio
import csv
import itertools
import re
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from decimal import Decimal
from html import escape
from pathlib import Path
from typing import Any

from avatar.batch.chunks import read_outcomes, read_rows
from avatar.batch.manifest import batch_prefix
from avatar.batch.models import SERVED, Checked, Outcome, RowState, Summary
from avatar.errors import (
    BatchIncomplete,
    BatchInterrupted,
    InvalidInput,
    OutcomeUnknown,
    ProviderFailure,
    Refused,
)
from avatar.events import player_url
from avatar.option_names import named
from avatar.settings import AvatarSettings
from avatar.store.objects import hash_file
from avatar.workspace import Workspace

# What a batch comes to as a whole: good, not begun because of bad rows, or with rows left over.
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
        first = [each for each in summary.troubles if each.state is RowState.BAD]
        raise InvalidInput(
            f"{bad} of {summary.rows} rows cannot be rendered, so none was. Nothing was sent or spent. {_name(first, bad)}"
            f" All are in {summary.report_key}.",
            hint=f"Correct them, or render the others: {named('on_bad_rows')} skip.",
            summary=summary,
        )


def require_videos(summary: Summary) -> Summary:
    """The summary of a batch that was carried out. Bad rows were told before, and count only if there are no others.

    Raises:
        BatchIncomplete: a row that could be rendered has no video; `BatchInterrupted` if some may go on by themselves.
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
    # Rows that wait were stopped for what a person must look at: no run goes on with them by itself.
    goes_on = summary.passing and not summary.count(RowState.WAITING)
    raise (BatchInterrupted if goes_on else BatchIncomplete)(
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


#: Columns of report.csv: those of an outcome, and the link to the video.
HEAD = (*Outcome.model_fields, "link")
#: Rows without a video that the summary tells.
TOLD = 50
#: Rows that need a person come first.
WORST_FIRST = (
    RowState.UNKNOWN,
    RowState.REJECTED,
    RowState.FAILED,
    RowState.REFUSED,
    RowState.BAD,
    RowState.WAITING,
)
#: What begins so, in a cell or after what may part cells in another country, is a formula to a spreadsheet
#: (OWASP, "CSV Injection"; the wide signs are those of East Asian keyboards).
SIGNS = "=+\\-@\uff1d\uff0b\uff0d\uff20"
FORMULA = re.compile(rf"^(?=\s*[{SIGNS}]|[\t\r\n])|(?<=[;\t\r\n])(?=[{SIGNS}\t\r])")

Write = Callable[[Outcome, str], None]


async def write_report(workspace: Workspace, checked: Checked, run: str, *, name: str = "") -> Summary:
    """Write `report.csv`, `report.html` and `summary.json` of a batch as far as it is in `run`, and sum it up."""
    prefix = batch_prefix(checked.batch_id)
    totals = _Totals(checked.batch_id, name)
    with tempfile.TemporaryDirectory(dir=workspace.scratch) as folder:
        table, page = Path(folder) / "report.csv", Path(folder) / "report.html"
        with ExitStack() as stack:
            writers = (_csv_writer(table, stack), _html_writer(page, stack, name or checked.batch_id))
            async for outcome in each_outcome(workspace, checked, run):
                totals.add(outcome)
                for write in writers:
                    write(outcome, _link(workspace.settings, outcome))
        for path, kind in ((table, "text/csv"), (page, "text/html")):
            sha256 = await asyncio.to_thread(hash_file, path)
            await workspace.store.put_file(
                prefix + path.name, path, content_type=kind, sha256=sha256, overwrite=True
            )
    summary = totals.summary(report_key=f"{prefix}report.csv", page_key=f"{prefix}report.html")
    brief = summary.model_copy(update={"troubles": ()}).model_dump_json().encode()
    await workspace.store.put(summary_key(checked.batch_id), brief, content_type="application/json")
    return summary


def summary_key(batch_id: str) -> str:
    """Where the sum of a batch is kept, as its last report had it."""
    return f"{batch_prefix(batch_id)}summary.json"


async def each_outcome(workspace: Workspace, checked: Checked, run: str) -> AsyncIterator[Outcome]:
    """Every row in the order of the manifest, as it ended in `run`, or as it was checked."""
    for chunk in range(checked.chunks):
        found = await read_outcomes(workspace, checked.batch_id, chunk, run)
        if found is None:
            found = [row.outcome for row in await read_rows(workspace, checked.batch_id, chunk)]
        for outcome in found:
            yield outcome


class _Totals:
    """Counts and sums, and the first rows without a video."""

    def __init__(self, batch_id: str, name: str) -> None:
        self.batch_id, self.name = batch_id, name
        self.states: Counter[RowState] = Counter()
        self.money = {"quoted": Decimal(0), "billed": Decimal(0), "at_risk": Decimal(0)}
        self.passing = 0
        self.troubles: dict[RowState, list[Outcome]] = {state: [] for state in WORST_FIRST}

    def add(self, outcome: Outcome) -> None:
        self.states[outcome.state] += 1
        self.passing += outcome.may_go_on
        self.money["quoted"] += outcome.quoted or 0
        self.money["at_risk"] += outcome.at_risk or 0
        if outcome.state is RowState.PUBLISHED:
            self.money["billed"] += outcome.billed or 0
        told = self.troubles.get(outcome.state)
        if told is not None and outcome.reason and len(told) < TOLD:
            told.append(outcome)

    def summary(self, **keys: str) -> Summary:
        return Summary(
            batch_id=self.batch_id,
            name=self.name,
            rows=self.states.total(),
            states=dict(self.states),
            passing=self.passing,
            troubles=tuple(itertools.chain.from_iterable(self.troubles.values()))[:TOLD],
            **self.money,
            **keys,
        )


def _link(settings: AvatarSettings, outcome: Outcome) -> str:
    """Where the video plays, if there is one; else where it lies."""
    if not outcome.video and outcome.state not in {RowState.DUPLICATE, RowState.REJECTED}:
        return ""
    return player_url(settings, outcome.job_id) or outcome.video


def _csv_writer(path: Path, stack: ExitStack) -> Write:
    writer = csv.writer(stack.enter_context(path.open("w", encoding="utf-8", newline="")))
    writer.writerow(HEAD)

    def write(outcome: Outcome, link: str) -> None:
        writer.writerow([safe_cell(text) for text in (*_texts(outcome), link)])

    return write


def safe_cell(text: str) -> str:
    """What a spreadsheet shows as text, and does not run: manifests are written by others."""
    return FORMULA.sub("'", text)


def _texts(outcome: Outcome) -> list[str]:
    return [_text(getattr(outcome, name)) for name in Outcome.model_fields]


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3f}"
    return " ".join(value) if isinstance(value, tuple) else str(value)


PAGE_HEAD = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Batch {title}</title>
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; }}
table {{ border-collapse: collapse; width: 100%; }}
td, th {{ border-bottom: 1px solid #8884; padding: .35rem .6rem; text-align: left; vertical-align: top; }}
td {{ overflow-wrap: anywhere; }}
.published, .already, .duplicate {{ color: #17803d; }} .waiting {{ color: #777; }}
.bad, .failed, .refused, .rejected, .unknown {{ color: #b3261e; font-weight: 600; }}
</style>
<h1>Batch {title}</h1>
<table><thead><tr><th>Line<th>State<th>Title<th>Portrait<th>Voice<th>Seconds<th>Cost<th>Video<th>Reason</tr></thead><tbody>
"""


def _html_writer(path: Path, stack: ExitStack, title: str) -> Write:
    file = stack.enter_context(path.open("w", encoding="utf-8"))
    file.write(PAGE_HEAD.format(title=escape(title)))
    stack.callback(file.write, "</tbody></table>\n</html>\n")

    def write(outcome: Outcome, link: str) -> None:
        cost = outcome.billed if outcome.billed is not None else outcome.quoted
        cells = (
            str(outcome.line),
            f'<span class="{outcome.state}">{outcome.state}</span>',
            escape(outcome.title),
            escape(outcome.portrait),
            escape(outcome.voice),
            f"{outcome.seconds:.2f}" if outcome.seconds is not None else "",
            f"${cost:.2f}" if cost is not None else "",
            f'<a href="{escape(link)}">play</a>' if link.startswith("http") else escape(link),
            escape(f"{outcome.reason} {outcome.hint}".strip()),
        )
        file.write(f"<tr>{''.join(f'<td>{cell}' for cell in cells)}</tr>\n")

    return write


def as_markdown(summary: Summary, uri: str, page: str | None = None) -> str:
    """The summary as a page for the Prefect UI. `uri` is where the report lies, `page` where people look at it."""
    counts = "".join(
        f"| {state} | {summary.states[state]} |\n" for state in RowState if state in summary.states
    )
    text = (
        f"## Batch {_cell(summary.name) or summary.batch_id[:12]}\n\n| | |\n| --- | --- |\n"
        f"| rows | {summary.rows} |\n{counts}"
        f"| quoted | ${summary.quoted:.2f} |\n| billed by this run | ${summary.billed:.2f} |\n"
    )
    if summary.at_risk:
        text += f"| **may have been charged without a video** | ${summary.at_risk:.2f} |\n"
    text += f"\n[The videos and the report]({page})\n" if page else ""
    text += f"\nEvery row with its state and link: `{uri}`\n"
    if not summary.troubles:
        return text
    lines = "".join(
        f"| {each.line} | {each.state} | {_cell(each.reason)} | {_cell(each.hint)} |\n"
        for each in summary.troubles
    )
    return f"{text}\n### Rows without a video (the first {TOLD})\n\n| line | state | reason | next |\n| --- | --- | --- | --- |\n{lines}"


def _cell(text: str) -> str:
    """One line of a Markdown table that cannot be left."""
    return escape(" ".join(text.split()), quote=False).replace("|", "\\|")


def as_result(summary: Summary) -> dict[str, Any]:
    """The JSON object of `avatar batch --json`."""
    return {
        "batch_id": summary.batch_id,
        "name": summary.name,
        "rows": summary.rows,
        "states": {str(state): count for state, count in summary.states.items()},
        "cost": {
            "quoted": str(summary.quoted),
            "billed": str(summary.billed),
            "at_risk": str(summary.at_risk),
            "currency": "USD",
        },
        "troubles": [
            each.model_dump(
                mode="json", include={"line", "state", "title", "job_id", "renders", "reason", "hint"}
            )
            for each in summary.troubles
        ],
        "report": summary.report_key,
        "page": summary.page_key,
    }
