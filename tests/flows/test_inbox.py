"""The inbox through Prefect: what a sweep leaves in the bucket and on the server, and what it pays."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from typing import Any

import httpx
import pytest

from avatar.errors import BatchIncomplete
from avatar.inbox import upload_owner as taking
from avatar.settings_sections import RecoverySettings, StoreSettings
from avatar.workspace import Workspace
from tests.batch.conftest import media  # noqa: F401 - a fixture
from tests.flows.conftest import PREFECTS_SOCKETS, Local, Produce
from tests.flows.test_batch import artifacts
from tests.inbox.conftest import Client

pytestmark = [pytest.mark.server, PREFECTS_SOCKETS]
PRICE = 3 * Decimal("0.115")


@pytest.fixture
def user(store_settings: StoreSettings) -> Iterator[Client]:
    client = Client(store_settings)
    yield client
    client.minio._http.clear()


@pytest.fixture
def drop(user: Client, media) -> Callable[..., None]:  # noqa: F811
    """Drops a portrait and a voice of three seconds; the prompt makes it a job of its own."""

    def put(name: str, *, voices: int = 1, prompt: str | None = None) -> None:
        user.drop(f"{name}/portrait.png", (media / "portrait.png").read_bytes())
        for number in range(voices):
            user.drop(f"{name}/voice-{number}.wav", (media / "voice.wav").read_bytes() + bytes(2 * number))
        user.drop(f"{name}/job.json", f'{{"prompt": "{prompt or name}"}}')

    return put


@pytest.fixture
def sweep(produce: Produce, monkeypatch: pytest.MonkeyPatch) -> Produce:
    """Runs `take_uploads`; keywords are environment variables."""
    from flows.inbox import InboxOptions, take_uploads

    monkeypatch.setenv("AVATAR_INBOX__SETTLE_SECONDS", "0")
    monkeypatch.setattr(taking, "DELAY_SECONDS", 0.0)
    return lambda **variables: produce(InboxOptions(), flow=take_uploads, **variables)


async def test_an_empty_sweep_leaves_nothing_behind(sweep, user):
    """No task run, no artifact, no line in the log: it runs 1,920 times a day."""
    run = await sweep()
    assert run.outcome is None
    assert run.task_runs(0) == []
    assert [artifacts(run, kind) for kind in ("markdown", "table", "progress")] == [[], [], []]
    assert user.listing() == []


async def test_what_is_dropped_becomes_a_video(sweep, user, drop, sandbox):
    """Good uploads are rendered and filed with their results, bad ones with the reason; one page tells it all."""
    drop("anna")
    drop("Zoë & co", voices=2)
    user.drop("broken/portrait.png", b"\x89PNG\r\n\x1a\nnothing more")
    user.drop("broken/voice.wav", b"RIFF")
    user.drop("odd/job.json", "{")
    run = await sweep(**sandbox.fal_env())
    assert isinstance(run.outcome, BatchIncomplete)
    assert sandbox.state()["accepts"] == 3
    keys = user.listing()
    assert not [key for key in keys if not key.startswith((".done/", ".failed/"))]
    assert ".done/anna/result.json" in keys
    assert ".done/Zoë & co/result.json" in keys
    assert "cannot be read" in user.read(".failed/odd/reason.txt").decode()
    assert "portrait.png" in user.read(".failed/broken/reason.txt").decode()
    (page,) = [each for each in artifacts(run, "markdown") if each["key"] == "inbox"]
    assert page["description"] == "2 of 4 uploads done, 0 wait"


async def test_the_same_again_costs_nothing(sweep, user, drop, sandbox):
    """Dropped a second time, under another name too, it is filed as done and nothing is sent."""
    drop("anna")
    await sweep(**sandbox.fal_env())
    drop("anna")
    drop("hanna", prompt="anna")
    run = await sweep()
    assert run.outcome is None
    assert sandbox.state()["posts"] == 1
    results = [key for key in user.listing(".done") if key.endswith("result.json")]
    assert len(results) == 3


async def test_overlapping_sweeps_pay_once(sweep, user, drop, sandbox):
    """Three at the same time over four uploads: four payments, and each upload is filed once."""
    sandbox.reset(render_seconds=1)
    for name in "abcd":
        drop(name)
    await asyncio.gather(*(sweep(**sandbox.fal_env()) for _ in range(3)))
    assert sandbox.state()["accepts"] == 4
    assert len([key for key in user.listing() if key.endswith("result.json")]) == 4


async def test_a_lost_answer_leaves_the_upload_where_it_is(sweep, user, drop, sandbox, make_settings):
    """Its outcome unknown it is not sent again, stays, and is published by a later sweep once it is settled."""
    from avatar.money.settle import declare_not_charged

    sandbox.behave("submit", "drop")
    sandbox.behave("history", "forbidden", times=1000)  # else fal's own list settles what was lost
    drop("anna")
    run = await sweep(**sandbox.fal_env())
    assert isinstance(run.outcome, BatchIncomplete)
    assert "anna/portrait.png" in user.listing()
    await sweep()
    assert sandbox.state()["posts"] == 1
    async with Workspace(make_settings()) as workspace:
        (render_id,) = await workspace.journal.open_renders()
        await declare_not_charged(workspace, render_id, by="a test")
    assert (await sweep()).outcome is None
    assert (sandbox.state()["posts"], ".done/anna/result.json" in user.listing()) == (2, True)


async def test_the_budget_of_the_day_is_shared_upload_by_upload(sweep, user, drop, sandbox):
    """What fits is rendered, the rest stays until there is money again."""
    for name in ("anna", "bob"):
        drop(name)
    await sweep(**sandbox.fal_env(), AVATAR_BUDGET__PER_DAY=str(PRICE))
    left = {key.partition("/")[0] for key in user.listing()} - {".done", ".taken"}
    assert (sandbox.state()["accepts"], len(left)) == (1, 1)
    assert (await sweep(AVATAR_BUDGET__PER_DAY="10")).outcome is None
    assert sandbox.state()["accepts"] == 2


async def test_an_upload_is_a_batch_to_its_limit(sweep, user, drop, sandbox):
    """One with too many voices is refused whole, unpaid, with the setting named; the others are rendered."""
    drop("anna", voices=3)
    drop("bob")
    await sweep(**sandbox.fal_env(), AVATAR_BUDGET__PER_BATCH=str(2 * PRICE))
    assert sandbox.state()["accepts"] == 1
    assert "AVATAR_BUDGET__PER_BATCH" in user.read(".failed/anna/reason.txt").decode()


async def test_nobody_to_ask_is_no_reason_to_give_up(sweep, user, drop, sandbox):
    """Above AVATAR_BUDGET__APPROVE_ABOVE, from Python: nothing is sent, and it stays for a run that can ask."""
    drop("anna")
    await sweep(**sandbox.fal_env(), AVATAR_BUDGET__APPROVE_ABOVE="0.10")
    assert (sandbox.state()["posts"], "anna/voice-0.wav" in user.listing()) == (0, True)


@pytest.fixture
async def api(local: Local, produce: Produce) -> AsyncIterator[httpx.AsyncClient]:
    """Prefect's API, which the client library talks to as well."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: local.running.api_url}):
        async with httpx.AsyncClient(base_url=local.running.api_url, timeout=20) as client:
            yield client


@pytest.mark.parametrize(
    ("states", "deployed", "alive"),
    [
        (["RUNNING"], False, True),
        (["RUNNING", "COMPLETED"], True, False),
        (["RUNNING", "FAILED"], True, False),
        (["RUNNING", "CANCELLED"], True, False),
        (["RUNNING", "PAUSED"], True, True),
        (["RUNNING", "CRASHED"], True, True),
        (["RUNNING", "CRASHED"], False, False),
        (["SCHEDULED"], True, True),
    ],
)
async def test_a_run_is_over_when_it_will_not_go_on(api, states, deployed, alive):
    """Crashed is not over where reconcile starts it again; suspended is not over; ended is."""
    from tasks.flow_runs import is_under_way

    run_id = await _create(api, deployed=deployed)
    for state in states:
        asked = {"state": {"type": state}, "force": True}
        await _post(api, f"/flow_runs/{run_id}/set_state", **asked)
    assert await is_under_way(RecoverySettings(), run_id) is alive


async def test_a_run_that_nobody_knows_is_over(api):
    """Its owner was another Prefect server, or somebody wrote the note by hand."""
    from tasks.flow_runs import is_under_way

    for name in ("00000000-0000-0000-0000-000000000000", "not a run"):
        assert not await is_under_way(RecoverySettings(), name)


async def _create(api: httpx.AsyncClient, *, deployed: bool) -> str:
    """A flow run of ours, with or without a deployment to start it again by; its id."""
    flow_id = (await _post(api, "/flows/", name="take-uploads"))["id"]
    given: dict[str, Any] = {"flow_id": flow_id, "tags": ["avatar"]}
    if deployed:
        made = await _post(api, "/deployments/", name="for-a-test", flow_id=flow_id)
        given["deployment_id"] = made["id"]
    return (await _post(api, "/flow_runs/", **given))["id"]


async def _post(api: httpx.AsyncClient, path: str, **given: Any) -> dict[str, Any]:
    """Asked again while SQLite is locked, as Prefect's own client does."""
    for _ in range(50):
        answer = await api.post(path, json=given)
        if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
            break
        await asyncio.sleep(0.2)
    return answer.raise_for_status().json()
