"""`avatar approve` and `avatar refuse`: answer a run that waits for a person. Its price is shown before it is paid."""

import argparse
import getpass
import json
import sys
from collections.abc import Mapping
from typing import Any

import httpx

from avatar.errors import InvalidInput, NotConfigured
from avatar.local import find, prefect_api
from avatar.settings import AvatarSettings
from avatar.web.runs import Question


def run(arguments: argparse.Namespace) -> int:
    api_url = find(AvatarSettings()).api_url
    if not api_url:
        raise NotConfigured(
            "No Prefect API answers, so there is no run to answer.",
            hint="Set PREFECT_API_URL, or start `avatar up`.",
        )
    try:
        waiting = _waiting(api_url)
        if not arguments.run:
            return _list(waiting, as_json=arguments.json)
        return _answer(api_url, _the_one(waiting, arguments.run), arguments)
    except httpx.HTTPError as error:
        raise NotConfigured(
            f"{api_url} did not take it ({type(error).__name__}). Ask again: an answer counts once.",
            hint="`avatar doctor` says whether it answers.",
        ) from error


def _waiting(api_url: str) -> list[Mapping[str, Any]]:
    """Our runs that are suspended."""
    wanted = {"state": {"type": {"any_": ["PAUSED"]}}, "tags": {"all_": ["avatar"]}}
    found = prefect_api.ask(
        api_url, "/flow_runs/filter", {"flow_runs": wanted, "sort": "EXPECTED_START_TIME_ASC"}
    )
    return [row for row in found if (row["state"]["state_details"] or {}).get("run_input_keyset")]


def _the_one(waiting: list[Mapping[str, Any]], wanted: str) -> Mapping[str, Any]:
    """The run of this id, of which the beginning is enough, or of this name."""
    found = [row for row in waiting if row["id"].startswith(wanted) or row["name"] == wanted]
    if len(found) != 1:
        text = f"{len(found)} runs go by {wanted!r}" if found else f"No run {wanted!r} waits for an answer"
        raise InvalidInput(
            f"{text}. Nothing was changed.", hint="`avatar approve` without a run lists those that wait."
        )
    return found[0]


def _list(waiting: list[Mapping[str, Any]], *, as_json: bool) -> int:
    rows = [
        {"run": row["id"], "name": row["name"], "state": row["state"]["message"] or ""} for row in waiting
    ]
    if as_json:
        print(json.dumps({"waiting": rows}))
    else:
        print(
            "\n".join(f"{row['run']}  {row['name']}  {row['state']}" for row in rows)
            or "No run waits for an answer."
        )
    return 0


def _answer(api_url: str, waiting: Mapping[str, Any], arguments: argparse.Namespace) -> int:
    approves, keys = arguments.command == "approve", waiting["state"]["state_details"]["run_input_keyset"]
    path = f"/flow_runs/{waiting['id']}/input"
    schema = prefect_api.read(api_url, f"{path}/{keys['schema']}") or {}
    text = (
        str(prefect_api.read(api_url, f"{path}/{keys['description']}") or "")
        if keys.get("description")
        else ""
    )
    question = Question(text, schema)
    amount = question.amount
    if approves:
        _require_price(arguments.price, amount, text)
    given = question.answer(approve=approves) | {"who": arguments.who or getpass.getuser()}
    told = prefect_api.ask(api_url, f"/flow_runs/{waiting['id']}/resume", {"run_input": given})
    if told.get("status") != "ACCEPT":
        raise InvalidInput(f"Prefect did not take the answer: {(told.get('details') or {}).get('reason')}.")
    said = "approved" if approves else "refused"
    if arguments.json:
        print(json.dumps({"run": waiting["id"], "name": waiting["name"], "answer": said, "amount": amount}))
    else:
        print(f"{said} ${amount}: {waiting['name']} ({waiting['id']})")
    return 0


def _require_price(price: str | None, amount: str, text: str) -> None:
    """Nobody approves a price that was not shown: by --price, or by an answer at the terminal."""
    if price is not None:
        if price.strip().lstrip("$") != amount:
            raise InvalidInput(f"The run asks for ${amount}, not {price}. Nothing was approved.")
        return
    if not sys.stdin.isatty():
        raise InvalidInput(
            f"The run asks for ${amount}. Nothing was approved.", hint=f"Approve it with --price {amount}."
        )
    print(text, file=sys.stderr)
    if input(f"Approve ${amount}? [y/N] ").strip().lower() not in {"y", "yes"}:
        raise InvalidInput(
            "Nothing was approved; the run goes on waiting.", hint="`avatar refuse RUN` ends it."
        )
