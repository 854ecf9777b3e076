"""`avatar mcp` as an agent meets it: the official client, over stdin and stdout."""

import asyncio
import json
import sys
from contextlib import asynccontextmanager

import pytest

from avatar.commands.mcp import Agent
from avatar.models import AvatarJob
from avatar.workspace import Workspace
from tests.sandbox import samples


@pytest.fixture
def files(tmp_path):
    """A folder with a portrait, a voice of three seconds and captions."""
    samples.make_inputs(tmp_path)
    samples.write_voice(tmp_path / "voice.wav", 3.0)
    (tmp_path / "voice.de.srt").write_text("1\n00:00:00,500 --> 00:00:02,000\nHallo\n")
    return tmp_path


@pytest.fixture
def session(make_settings, store_settings, files, sandbox):
    """Opens a session with a server of its own on this test's bucket, with the sandbox as fal."""
    from mcp import ClientSession, StdioServerParameters, stdio_client

    secrets = {
        name: getattr(store_settings, name).get_secret_value() for name in ("access_key", "secret_key")
    }
    plain = {name: str(getattr(store_settings, name)) for name in ("endpoint", "bucket", "secure")}
    store = {f"AVATAR_STORE__{name.upper()}": value for name, value in (secrets | plain).items()}
    own = {"AVATAR_STATE_DIR": str(files / "state"), "PREFECT_HOME": str(files / "prefect")}
    variables = sandbox.fal_env() | store | own
    server = StdioServerParameters(
        command=sys.executable, args=["-m", "avatar", "mcp"], env=variables, cwd=files
    )

    @asynccontextmanager
    async def open_session():
        async with stdio_client(server) as pipes, ClientSession(*pipes) as opened:
            await opened.initialize()
            yield opened

    return open_session


async def test_an_agent_pays_only_a_price_that_it_was_shown(session, sandbox, files):
    """Quote, generate, look, caption, read the record; nothing is sent before the price was told and given back."""
    asked = {
        "portrait": str(files / "portrait.png"),
        "voice": str(files / "voice.wav"),
        "wishes": {"provider": "fal", "title": "Welcome"},
    }

    async with session() as agent:

        async def call(name, **arguments):
            told = await agent.call_tool(name, arguments)
            text = told.content[0].text if told.content else "[]"
            return (told.is_error, text if told.is_error else json.loads(text))

        tools = {tool.name for tool in (await agent.list_tools()).tools}
        assert tools == {"quote", "generate", "status", "videos", "captions"}
        failed, text = await call("generate", **asked, max_price="0.345")
        assert (failed, "No price was shown" in text) == (True, True)
        failed, quoted = await call("quote", **asked)
        assert (failed, quoted["price_usd"], quoted["still_to_pay_usd"]) == (False, "0.3450", "0.3450")
        for price in ("0.34", "99", "much"):
            failed, text = await call("generate", **asked, max_price=price)
            assert (failed, "Nothing was sent or spent" in text) == (True, True)
        sneaky = asked | {"wishes": asked["wishes"] | {"max_cost": 99}}
        assert (await call("generate", **sneaky, max_price="0.3450"))[0]
        assert sandbox.state()["posts"] == 0
        for _ in range(2):
            failed, told = await call("generate", **asked, max_price="$0.3450")
            assert not failed, told
        async with asyncio.timeout(60):
            while "video" not in told:
                await asyncio.sleep(0.2)
                failed, told = await call("status", job_id=quoted["job_id"])
                assert told.get("run") != "failed", told
        assert (told["video"]["title"], told["video"]["state"]) == ("Welcome", "published")
        assert sandbox.state()["posts"] == 1
        failed, listed = await call("videos")
        assert quoted["job_id"] in json.dumps(listed)
        failed, made = await call("captions", job_id=quoted["job_id"], files=[str(files / "voice.de.srt")])
        assert made["captions"][0]["language"] == "de"
        record = await agent.read_resource(f"avatar://videos/{quoted['job_id']}")
        assert json.loads(record.contents[0].text)["captions"][0]["cues"] == 1
        failed, text = await call("status", job_id="0" * 32)
        assert (failed, "no job and no render" in text) == (True, True)


async def test_a_run_of_a_deployment_gets_its_price_as_a_number(make_settings, monkeypatch):
    """Prefect answers 409 to a text, by the schema of the flow."""
    asked = {}

    async def start(self, deployment, parameters, key):
        asked.update(parameters)
        return "run"

    monkeypatch.setattr("avatar.web.runs.Runs.start", start)
    async with Workspace(make_settings()) as workspace:
        agent = Agent(workspace, "http://127.0.0.1:1/api")
        await agent._start(AvatarJob(portrait="p.png", voice="v.wav", max_cost="0.69"), "0" * 32)
    assert asked == {"job": {"portrait": "p.png", "voice": "v.wav", "max_cost": 0.69}}
