"""A provider's key goes to the address it was set up for, and to no other, whatever answers lead elsewhere."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from avatar.errors import AvatarError, OutcomeUnknown, RenderFailed
from avatar.models import RemoteState, Submission
from avatar.providers.base import Provider, RenderInputs
from avatar.providers.fal import Fal
from avatar.providers.fal_webhooks import FalSignatures
from tests.providers.conftest import KEY, make_inputs
from tests.providers.test_fal_storage import uploading
from tests.sandbox.running import Sandbox

Open = Callable[..., Provider]
Accepted = Callable[[str], Awaitable[tuple[Provider, Submission]]]
WORDS = f"the key {KEY} may not do this"
REDIRECTS = pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
BOTH = pytest.mark.parametrize("name", ["fal", "pixazo"])


def assert_only_at_home(sandbox: Sandbox, *steps: str) -> None:
    """The sandbox answered these steps by leading elsewhere, and saw the key nowhere but where it belongs."""
    seen = sandbox.state()
    assert {each["on"] for each in seen["misdeeds"]} >= set(steps)
    assert seen["leaks"] == []
    assert {entry["host"] for entry in seen["credentials"]} <= {sandbox.url.removeprefix("http://")}


@pytest.fixture
def accepted(open_sandboxed: Open, inputs: RenderInputs) -> Accepted:
    """Opens a provider by its name and has it accept a request."""

    async def submit(name: str) -> tuple[Provider, Submission]:
        provider = open_sandboxed(name)
        return provider, await provider.submit(inputs)

    return submit


async def go_through(provider: Provider, submission: Submission) -> None:
    """All that is done with a request once it is accepted, and again, whatever comes of each step."""
    for _ in range(2):
        with suppress(AvatarError):
            await provider.poll(submission)
        with suppress(AvatarError):
            video = await provider.collect(submission)
            with TemporaryDirectory() as folder:
                await provider.download(video, Path(folder) / "video.mp4")
        with suppress(AvatarError):
            async for _ in provider.watch(submission, 0.5):
                pass
        with suppress(AvatarError):
            await provider.cancel(submission)


@BOTH
@REDIRECTS
async def test_a_submit_is_not_redirected(
    sandbox: Sandbox,
    open_sandboxed: Open,
    inputs: RenderInputs,
    name: str,
    status: int,
) -> None:
    """A redirect in place of an answer is no answer: not followed, not repeated."""
    sandbox.behave("submit", "redirect", status=status)
    with pytest.raises(OutcomeUnknown):
        await open_sandboxed(name).submit(inputs)
    assert_only_at_home(sandbox, "submit")
    assert sandbox.state()["posts"] == 1


@BOTH
@REDIRECTS
async def test_no_later_step_follows_with_the_key(
    sandbox: Sandbox, accepted: Accepted, name: str, status: int
) -> None:
    """Status, stream, result, cancel and download, each once redirected abroad."""
    provider, submission = await accepted(name)
    steps = ("status", "stream", "result", "cancel") if name == "fal" else ("status",)
    for step in (*steps, "media"):
        sandbox.behave(step, "redirect", status=status)
    await go_through(provider, submission)
    assert_only_at_home(sandbox, *steps)


@BOTH
async def test_addresses_in_answers_are_not_trusted(sandbox: Sandbox, accepted: Accepted, name: str) -> None:
    """`status_url`, `response_url`, `cancel_url` and `polling_url` on another host get no key."""
    sandbox.behave("submit", "foreign_urls")
    provider, submission = await accepted(name)
    abroad = dict.fromkeys(
        ("status_url", "response_url", "cancel_url"), sandbox.state()["foreign_url"] + "/x"
    )
    # The second as from a journal that was written under other settings, or by somebody else.
    for kept in (submission, submission.model_copy(update=abroad)):
        await go_through(provider, kept)
    assert_only_at_home(sandbox, "submit")


@REDIRECTS
async def test_an_upload_takes_the_key_to_fal_only(sandbox: Sandbox, status: int) -> None:
    """Neither the storage nor a redirect of it sees the key."""
    for step in ("upload_initiate", "upload_put"):
        sandbox.behave(step, "redirect", status=status)
    for _ in range(3):
        with suppress(AvatarError):
            await uploading(sandbox.url).deliver(make_inputs())
    assert_only_at_home(sandbox, "upload_initiate", "upload_put")


async def test_webhook_keys_are_fetched_without_one(sandbox: Sandbox) -> None:
    """fal's public keys are asked for by anybody, and not from where a redirect leads."""
    sandbox.behave("jwks", "redirect", times=10)
    headers = {f"x-fal-webhook-{part}": "1" * 128 for part in ("signature",)} | {
        "x-fal-webhook-request-id": "r", "x-fal-webhook-user-id": "u", "x-fal-webhook-timestamp": "0",
    }  # fmt: skip
    signatures = FalSignatures(f"{sandbox.url}/.well-known/jwks.json", wall=lambda: 0.0)
    with pytest.raises(AvatarError, match="keys could not be fetched"):
        await signatures.accepts(headers, b"{}")
    assert_only_at_home(sandbox, "jwks")
    assert sandbox.state()["counts"]["jwks"] == 1


@BOTH
async def test_a_key_in_a_refusal_is_not_passed_on(
    sandbox: Sandbox, open_sandboxed: Open, inputs: RenderInputs, name: str
) -> None:
    """A provider that quotes the key when it says no is quoted without it."""
    sandbox.behave("submit", "forbidden", message=WORDS)
    with pytest.raises(AvatarError) as caught:
        await open_sandboxed(name).submit(inputs)
    assert KEY not in f"{caught.value!r} {caught.value.describe()}"


@BOTH
async def test_a_key_in_a_status_is_not_passed_on(sandbox: Sandbox, accepted: Accepted, name: str) -> None:
    """Nor is one in a status, which is kept as a result of the flow run, nor in the failure that follows."""
    sandbox.behave("submit", "fail", message=WORDS, name="error")
    provider, submission = await accepted(name)
    snapshots = [snapshot async for snapshot in provider.watch(submission, 5)]
    assert snapshots[-1].state in {RemoteState.FAILED, RemoteState.DONE}
    with pytest.raises(RenderFailed, match="may not do this") as caught:
        await provider.collect(submission)
    assert KEY not in f"{snapshots!r} {caught.value!r} {caught.value.describe()}"


@pytest.mark.parametrize("key", ["k", "queue"])
async def test_what_is_too_short_for_a_key_stays(sandbox: Sandbox, open_sandboxed: Open, key: str) -> None:
    """A key that is a word of every answer does not make answers unreadable."""
    provider = open_sandboxed("fal", fal={"key": key, "queue_url": sandbox.url, "rest_url": sandbox.url})
    assert isinstance(provider, Fal)
    assert (
        provider._queue.without_key(b'{"status": "IN_QUEUE", "queue": "ok"}')
        == b'{"status": "IN_QUEUE", "queue": "ok"}'
    )
