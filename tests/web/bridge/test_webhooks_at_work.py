"""A listening bridge, and the sandbox calling it: from the submit to the end of the wait."""

import asyncio

import pytest

from avatar.errors import OutcomeUnknown
from avatar.models import RemoteState
from avatar.money.entries import RenderState
from avatar.money.follow import follow_render
from avatar.money.submit import submit_render
from avatar.providers import fal_webhooks
from avatar.stored_models import ProviderName
from avatar.web.bridge import Bridge, build_app
from avatar.web.server import Server, listen
from avatar.workspace import Workspace
from tests.money.hooked import kept
from tests.web.bridge.conftest import TOKEN


@pytest.fixture
async def at_work(make_settings, sandbox):
    """A workspace whose provider is the sandbox, and a listening bridge that the sandbox can call."""
    with listen("bridge", "127.0.0.1", 0) as listener:
        public_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        bridge = {"public_url": public_url, "jwks_url": f"{sandbox.url}/.well-known/jwks.json"}
        workspace = Workspace(
            make_settings(
                bridge=bridge,
                fal={"key": sandbox.key, "queue_url": sandbox.url, "rest_url": sandbox.url},
                pixazo={"key": sandbox.key, "base_url": sandbox.url},
                polling={"min_interval": 60, "max_interval": 60},
            )
        )
        server = Server(build_app(Bridge(workspace, frozenset({TOKEN}), lambda _: None)))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        yield workspace
        server.should_exit = True
        await serving
        await workspace.aclose()


async def ignore(snapshot, age):
    return None


async def test_a_webhook_ends_the_wait(at_work, sandbox, plan, caplog):
    """The stream is refused and the next look is a minute away: fal's webhook brings it forward."""
    caplog.set_level("DEBUG")
    sandbox.reset(render_seconds=1.0)
    sandbox.behave("stream", "answer", times=100, status=404)
    record = await submit_render(at_work, plan, plan.segments[0])
    look = await follow_render(at_work, record.entry.render_id, ignore)
    state = sandbox.state()
    assert (look.state, state["counts"]["status"]) == (RemoteState.DONE, 2)
    (told,) = state["webhooks"]
    assert told["status"] == 204
    assert told["url"].rsplit("/", 1)[1] not in caplog.text


async def test_a_rotated_key_is_followed(at_work, sandbox, plan, monkeypatch):
    """fal signs with a new key: the next webhook is taken as the last was."""
    monkeypatch.setattr(fal_webhooks, "FETCH_PAUSE", 0.0)
    for take in range(2):
        asked = plan.model_copy(update={"take": take})
        await submit_render(at_work, asked, asked.segments[0])
        await asyncio.to_thread(sandbox.wait_for, "webhooks_sent", take + 1)
        sandbox.rotate_webhook_key()
    assert [told["status"] for told in sandbox.state()["webhooks"]] == [204, 204]
    assert len(await kept(at_work)) == 2


@pytest.mark.parametrize("provider", ["fal", "pixazo"])
async def test_a_lost_answer_is_made_good(at_work, sandbox, plan, provider):
    """Accepted, the answer lost, the webhook twice and late: the request is found without a person; paid once."""
    sandbox.behave("submit", "drop", fate={"webhooks": 2, "webhook_delay": 0.5})
    asked = plan.model_copy(update={"provider": ProviderName(provider)})
    with pytest.raises(OutcomeUnknown) as caught:
        await submit_render(at_work, asked, asked.segments[0])
    while (head := await at_work.journal.head(caught.value.render_id)).state is not RenderState.SUBMITTED:
        await asyncio.sleep(0.02)
    (job,) = sandbox.state()["accepted"]
    assert head.entry.submission.request_id == job["request_id"]
    again = await submit_render(at_work, asked, asked.segments[0])
    assert again.entry.submission.request_id == job["request_id"]
    assert sandbox.state()["posts"] == 1
