"""`avatar approve` and `avatar refuse`: answer a run that waits for a person. Its price is shown before it is paid."""

import argparse
import asyncio
import getpass
import json
import sys
from collections.abc import Sequence
from typing import Any

from starlette.exceptions import HTTPException

from avatar.errors import InvalidInput, NotConfigured
from avatar.local import find
from avatar.local.prefect_client import TAG
from avatar.settings import AvatarSettings
from avatar.web.runs import Question, Runs

#: Waiting runs that are looked through.
MOST = 200


def run(arguments: argparse.Namespace) -> int:
    api_url = find(AvatarSettings()).api_url
    if not api_url:
        raise NotConfigured(
            "No Prefect API answers, so there is no run to answer.",
            hint="Set PREFECT_API_URL, or start `avatar up`.",
        )
    try:
        return asyncio.run(_run(Runs(api_url), arguments))
    except HTTPException as error:
        raise NotConfigured(
            f"{api_url}: {error.detail} Ask again: an answer counts once.",
            hint="`avatar doctor` says whether it answers.",
        ) from error


async def _run(runs: Runs, arguments: argparse.Namespace) -> int:
    waiting = [run for run in await runs.suspended(TAG, most=MOST) if _asks(run)]
    if not arguments.run:
        return _list(waiting, as_json=arguments.json)
    one = _the_one(waiting, arguments.run)
    if (question := await runs.question(one)) is None:
        raise InvalidInput(f"The run {one['name']} asks nothing. Nothing was changed.")
    return await _answer(runs, one, question, arguments)


def _asks(run: dict[str, Any]) -> bool:
    return bool((run["state"]["state_details"] or {}).get("run_input_keyset"))


def _the_one(waiting: Sequence[dict[str, Any]], wanted: str) -> dict[str, Any]:
    """The run of this id, of which the beginning is enough, or of this name."""
    found = [row for row in waiting if row["id"].startswith(wanted) or row["name"] == wanted]
    if len(found) != 1:
        text = f"{len(found)} runs go by {wanted!r}" if found else f"No run {wanted!r} waits for an answer"
        raise InvalidInput(
            f"{text}. Nothing was changed.", hint="`avatar approve` without a run lists those that wait."
        )
    return found[0]


def _list(waiting: Sequence[dict[str, Any]], *, as_json: bool) -> int:
    rows = [
        {"run": row["id"], "name": row["name"], "state": row["state"]["message"] or ""} for row in waiting
    ]
    if as_json:
        print(json.dumps({"waiting": rows}))
    else:
        print(
            "\n".join(f"{row['run']}  {row['name']}  {_in_words(row['state'], row['run'])}" for row in rows)
            or "No run waits for an answer."
        )
    return 0


def _in_words(state: str, run: str) -> str:
    """The state's message with the next step as it is done here: the state names that of the UI."""
    said = state.partition(" Next:")[0]
    return f"{said} Next: avatar approve {run[:8]}, or avatar refuse {run[:8]}"


async def _answer(
    runs: Runs, waiting: dict[str, Any], question: Question, arguments: argparse.Namespace
) -> int:
    approves, amount = arguments.command == "approve", question.amount
    if approves:
        _require_price(arguments.price, question)
    await runs.answer(waiting["id"], question, approve=approves, who=arguments.who or getpass.getuser())
    said = "approved" if approves else "refused"
    if arguments.json:
        print(json.dumps({"run": waiting["id"], "name": waiting["name"], "answer": said, "amount": amount}))
    else:
        print(f"{said} ${amount}: {waiting['name']} ({waiting['id']})")
    return 0


def _require_price(price: str | None, question: Question) -> None:
    """Nobody approves a price that was not shown: by --price, or by an answer at the terminal."""
    amount = question.amount
    if price is not None:
        if price.strip().lstrip("$") != amount:
            raise InvalidInput(f"The run asks for ${amount}, not {price}. Nothing was approved.")
        return
    if not sys.stdin.isatty():
        raise InvalidInput(
            f"The run asks for ${amount}. Nothing was approved.", hint=f"Approve it with --price {amount}."
        )
    print(question.text, file=sys.stderr)
    if input(f"Approve ${amount}? [y/N] ").strip().lower() not in {"y", "yes"}:
        raise InvalidInput(
            "Nothing was approved; the run goes on waiting.", hint="`avatar refuse RUN` ends it."
        )
