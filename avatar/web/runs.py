"""Runs of the Prefect server, as the gallery's pages start, watch and answer them: through its API, as its own UI would."""

import asyncio
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httpx
from starlette.exceptions import HTTPException

from avatar.errors import NotConfigured
from avatar.local import prefect_client
from avatar.web.pages import run_page

GENERATE, BATCH = "generate-avatar/generate-avatar", "generate-batch/generate-batch"
FINAL = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})
_RUN = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_AMOUNT = re.compile(r"\$([0-9]+\.[0-9]{2})")
_LINK = re.compile(r"\[([^\]]+)\]\((https?://[^)\s]+)\)")
#: Waiting runs on one page.
MOST_WAITING = 50


@dataclass(frozen=True)
class Question:
    """What a waiting run asks: its text, the form of the answer, and the amount in US dollars that it names first."""

    text: str
    schema: Mapping[str, Any]

    @property
    def amount(self) -> str:
        found = _AMOUNT.search(self.text)
        return found[1] if found else ""

    @property
    def lines(self) -> list[list[tuple[str, str]]]:
        """Its sentences as pieces of text with where they lead: Markdown without headings, tables and marks."""
        kept = [line.strip() for line in self.text.splitlines() if line.strip()]
        kept = [line.replace("`", "").replace("**", "") for line in kept if not line.startswith(("#", "|"))]
        return [list(_pieces(line)) for line in kept]

    def answer(self, *, approve: bool) -> dict[str, Any]:
        """In the form that the run asks for: a switch, or a choice of two."""
        for name, asked in (self.schema.get("properties") or {}).items():
            if asked.get("type") == "boolean":
                return {name: approve}
            options = asked.get("enum") or _options(self.schema, asked)
            begins = "approve" if approve else ("refuse", "deny")
            wanted = [each for each in options if str(each).lower().startswith(begins)]
            if wanted:
                return {name: wanted[0]}
        raise HTTPException(
            HTTPStatus.CONFLICT, "This run asks for something else; answer it in the Prefect UI."
        )


def _pieces(line: str) -> Iterator[tuple[str, str]]:
    end = 0
    for link in _LINK.finditer(line):
        yield line[end : link.start()], ""
        yield link[1], link[2]
        end = link.end()
    yield line[end:], ""


def _options(schema: Mapping[str, Any], asked: Mapping[str, Any]) -> list[Any]:
    """The choices of a field that is described by reference."""
    reference = asked.get("$ref") or next((each.get("$ref", "") for each in asked.get("allOf") or ()), "")
    described = (schema.get("definitions") or schema.get("$defs") or {}).get(reference.rpartition("/")[2], {})
    return list(described.get("enum") or ())


@dataclass(frozen=True)
class Runs:
    """The runs behind one API, whose address has its `/api`; empty if there is none."""

    api_url: str

    async def start(self, deployment: str, parameters: Mapping[str, Any], once: str, name: str = "") -> str:
        """Id of the run that was created, now or by an earlier press of the same button."""
        found = await self._ask("GET", f"/deployments/name/{deployment}")
        if found is None:
            raise NotConfigured(
                f"The Prefect server has no deployment {deployment}. Nothing was started.",
                hint="Run `avatar deploy`.",
            )
        body = {"parameters": parameters, "idempotency_key": f"gallery-{once}", "tags": ["gallery"]}
        named = body | ({"name": name} if name else {})
        made = await self._ask("POST", f"/deployments/{found['id']}/create_flow_run", named)
        return str(made["id"])

    async def read(self, run_id: str) -> dict[str, Any]:
        """A run. Raises 404 if there is none."""
        run = await self._ask("GET", f"/flow_runs/{run_id}") if _RUN.fullmatch(run_id) else None
        if run is None:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return dict(run)

    async def progress(self, run_id: str) -> list[dict[str, Any]]:
        body = {"artifacts": {"flow_run_id": {"any_": [run_id]}, "type": {"any_": ["progress"]}}, "limit": 20}
        return [dict(each) for each in await self._ask("POST", "/artifacts/filter", body)]

    async def question(self, run: Mapping[str, Any]) -> Question | None:
        """What a run asks; None if it waits for nothing."""
        state = run.get("state") or {}
        keys = (state.get("state_details") or {}).get("run_input_keyset")
        if state.get("type") != "PAUSED" or not keys:
            return None
        path = f"/flow_runs/{run['id']}/input"
        schema = await self._ask("GET", f"{path}/{keys['schema']}")
        text = await self._ask("GET", f"{path}/{keys['description']}") if keys.get("description") else ""
        return Question(text if isinstance(text, str) else json.dumps(text), schema or {})

    async def answer(self, run_id: str, question: Question, *, approve: bool, who: str = "") -> None:
        """Raises 409 if Prefect does not take it: the run was answered meanwhile, or its form asks for more."""
        given = question.answer(approve=approve) | ({"who": who} if who else {})
        told = await self._ask("POST", f"/flow_runs/{run_id}/resume", {"run_input": given})
        if told.get("status") != "ACCEPT":
            reason = (told.get("details") or {}).get("reason")
            raise HTTPException(HTTPStatus.CONFLICT, f"Prefect did not take the answer: {reason}.")

    async def suspended(self, *tags: str, most: int = MOST_WAITING) -> list[dict[str, Any]]:
        """Runs with these tags that are suspended."""
        wanted = {"state": {"type": {"any_": ["PAUSED"]}}} | ({"tags": {"all_": list(tags)}} if tags else {})
        body = {"flow_runs": wanted, "limit": most, "sort": "EXPECTED_START_TIME_ASC"}
        return [dict(run) for run in await self._ask("POST", "/flow_runs/filter", body)]

    async def waiting(self) -> Sequence[tuple[dict[str, Any], Question | None]]:
        """The runs that wait for a person, with what they ask."""
        return [(run, await self.question(run)) for run in await self.suspended()]

    def page(self, run_id: str) -> str | None:
        """Where the Prefect UI shows a run."""
        base = prefect_client.PrefectAccess().ui_url or self.api_url.removesuffix("/api")
        return run_page(f"{base.rstrip('/')}/runs/flow-run/{run_id}")

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """What Prefect answers. Raises 503 if it does not, 409 if it refuses, with what to do."""
        if not self.api_url:
            raise HTTPException(
                HTTPStatus.SERVICE_UNAVAILABLE, "No Prefect server is configured (PREFECT_API_URL)."
            )
        try:
            if method == "GET":
                return await asyncio.to_thread(prefect_client.read, self.api_url, path)
            return await asyncio.to_thread(prefect_client.ask, self.api_url, path, dict(body or {}))
        except httpx.HTTPError as error:
            raise _refused(error) from error


def _refused(error: httpx.HTTPError) -> HTTPException:
    """What Prefect said to a request that it will not take; else that it may take it later."""
    if isinstance(error, httpx.HTTPStatusError) and error.response.is_client_error:
        said = " ".join(error.response.text.split())[:300]
        return HTTPException(HTTPStatus.CONFLICT, f"Prefect did not take it: {said}. Nothing was started.")
    return HTTPException(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "Prefect does not answer. Try again in a moment: what was started is not started twice.",
    )
