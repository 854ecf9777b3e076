"""(b) The provider and the way to it, at their worst."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from tests.chaos.case import Case
from tests.chaos.gate import Rule
from tests.chaos.person import recover
from tests.chaos.trial import Trial
from tests.chaos.victims import Shown

ROW = "provider misbehaves"
Deed = dict[str, Any]


def deed(on: str, do: str, **how: Any) -> Deed:
    return {"on": on, "do": do, **how}


#: Answers to the paid request.
SUBMITS: dict[str, list[Deed]] = {
    "answer lost after accept": [deed("submit", "drop")],
    "connection closed unread": [deed("submit", "drop", accept=False)],
    "connection reset after accept": [deed("submit", "rst")],
    "half an answer": [deed("submit", "half")],
    "429 with Retry-After": [deed("submit", "rate_limited", retry_after=1, times=2)],
    "429 without": [deed("submit", "rate_limited", times=2)],
    "500 after accept": [deed("submit", "server_error", accept=True)],
    "500 before": [deed("submit", "server_error")],
    "502 in HTML after accept": [deed("submit", "bad_gateway", accept=True)],
    "502 in HTML before": [deed("submit", "bad_gateway")],
    "503 in HTML after accept": [deed("submit", "unavailable", accept=True)],
    "504 in HTML after accept": [deed("submit", "gateway_timeout", accept=True)],
    "time-out before the body was read": [deed("submit", "hang", seconds=4)],
    "time-out after accept": [deed("submit", "delay", seconds=4)],
    "HTML with 200 after accept": [deed("submit", "html", accept=True)],
    "HTML with 200 before": [deed("submit", "html")],
    "nonsense with 200 after accept": [deed("submit", "nonsense", accept=True)],
    "nothing with 200 after accept": [deed("submit", "empty", accept=True)],
    "no request id": [deed("submit", "no_request_id")],
    "redirected after accept": [deed("submit", "redirect", accept=True)],
    "409 after accept": [deed("submit", "conflict", accept=True)],
    "an id of 10 kB of odd characters": [deed("submit", "odd_id")],
}
#: Looks, results and downloads: free calls, of which none may lead to a second paid one.
AFTERWARDS: dict[str, list[Deed]] = {
    "unknown status word": [deed("stream", "unknown", times=9), deed("status", "unknown_word", times=3)],
    "404 on the first polls": [deed("stream", "unknown", times=9), deed("status", "unknown", times=4)],
    "HTML on the first polls": [deed("stream", "html", times=9), deed("status", "html", times=3)],
    "stream of garbage, then 502": [
        deed("stream", "garbage", times=3),
        deed("status", "bad_gateway", times=3),
    ],
    "stream cut": [deed("stream", "drop_after", times=2)],
    "result 502, then HTML": [deed("result", "bad_gateway", times=2), deed("result", "html")],
    "result 500": [deed("result", "server_error", times=2)],
    "video cut": [deed("media", "cut", times=3), deed("media", "cut", rst=True)],
    "video truncated": [deed("media", "truncated", after=9000, times=2)],
    "video URL expired": [deed("media", "gone")],
    "video URL refused": [deed("media", "forbidden", times=2)],
    "a page instead of the video": [deed("media", "wrong_content")],
    "zeros instead of the video": [deed("media", "wrong_content", content="zeros", times=2)],
    "502 instead of the video": [deed("media", "bad_gateway", times=2)],
}


def cases() -> Iterator[Case]:
    for name, deeds in (SUBMITS | AFTERWARDS).items():
        yield Case(ROW, name, partial(misbehaving, deeds=deeds))
    for name in ("answer lost after accept", "429 with Retry-After"):
        yield Case(ROW, f"Pixazo: {name}", partial(misbehaving, deeds=SUBMITS[name], provider="pixazo"))
    yield Case(ROW, "connection refused", unreachable)
    yield Case(ROW, "never-ending job", never_ending, published=False)
    hidden = partial(misbehaving, deeds=[deed("submit", "fail")], final={"RenderFailed"})
    yield Case(ROW, "COMPLETED that hides a 422", hidden, published=False)
    lost = [deed("submit", "drop", fate={"failure": {"kind": "face_detection_error"}})]
    found = partial(misbehaving, deeds=lost, final={"RenderFailed"})
    yield Case(ROW, "answer lost of one that fails", found, published=False)


def misbehaving(trial: Trial, *, deeds: list[Deed], provider: str = "fal", **how: Any) -> Shown:
    """Arm the sandbox, then run, again and again; nobody is killed."""
    trial.provider = provider
    for one in deeds:
        trial.sandbox.behave(**one)
    shown = recover(trial, **how)
    done = {(one["on"], one["do"]) for one in trial.sandbox.state()["misdeeds"]}
    idle = {(one["on"], one["do"]) for one in deeds} - done
    assert not idle, f"never came to {idle}"
    return shown


def unreachable(trial: Trial) -> Shown:
    """Nobody listens where the provider should be; given up in the second try, and run where somebody does."""
    trial.gated(Rule("PUT journal-not_sent", "kill_done", skip=1))
    trial.run(more={"AVATAR_FAL__QUEUE_URL": "http://127.0.0.1:9"})
    return recover(trial)


def never_ending(trial: Trial) -> Shown:
    """The wait ends by its deadline and names the request; a second run sends nothing either."""
    trial.settings |= {"AVATAR_POLLING__DEADLINE_SECONDS": "10", "AVATAR_POLLING__WINDOW_SECONDS": "2"}
    trial.sandbox.behave("submit", "never")
    recover(trial, final={"ProviderFailure"})
    return recover(trial, final={"ProviderFailure"})
