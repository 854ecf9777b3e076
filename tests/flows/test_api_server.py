"""What Prefect's server answers with 503 is asked again at once, and nobody but the server notices."""

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from flows import api_server
from flows.api_server import AskAgain


class Locked:
    """Answers 503 and raises, as Prefect's application does, so many times; then it repeats the request's body."""

    def __init__(self, times: int) -> None:
        self.times, self.bodies = times, list[bytes]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.bodies.append(await Request(scope, receive).body())
        if len(self.bodies) <= self.times:
            await PlainTextResponse("Service Unavailable", 503)(scope, receive, send)
            raise RuntimeError("database is locked")
        await PlainTextResponse(self.bodies[-1], 201)(scope, receive, send)


async def ask(application: Locked) -> httpx.Response:
    transport = httpx.ASGITransport(AskAgain(application), raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        return await client.post("/flow_runs", content=b"ab")


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch):
    monkeypatch.setattr(api_server, "PAUSES", (0.0, 0.0))


async def test_a_locked_database_is_asked_again_with_the_same_body():
    """The client sees the answer that came in the end, and only that one."""
    application = Locked(times=2)
    answer = await ask(application)
    assert (answer.status_code, answer.text) == (201, "ab")
    assert application.bodies == [b"ab"] * 3


async def test_a_database_that_stays_locked_is_told():
    """After the last pause the refusal is the answer, and the error is raised as Prefect raises it."""
    application = Locked(times=9)
    with pytest.raises(RuntimeError, match="locked"):
        await ask(application)
    assert len(application.bodies) == 3


async def test_any_other_error_is_passed_on_at_once():
    """A failure that was answered with something else is not tried again."""
    tried = 0

    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal tried
        tried += 1
        await PlainTextResponse("Internal Server Error", 500)(scope, receive, send)
        raise ValueError("a defect")

    transport = httpx.ASGITransport(AskAgain(broken), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        assert (await client.get("/flows")).status_code == 500
    assert tried == 1
