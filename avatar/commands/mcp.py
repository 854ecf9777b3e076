"""`avatar mcp`: quote, generate, look and caption for agents, over the Model Context Protocol on stdin and stdout.

Nothing is spent without a price that was shown: `generate` takes the price that `quote` told in the same session. What
goes on when the agent leaves is fetched by `reconcile`, or by the same call again.
"""

import argparse
import asyncio
import functools
import inspect
import sys
from collections.abc import Awaitable, Callable
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import Field, ValidationError

from avatar.commands.generate import LINK_LIFETIME, absolute_path
from avatar.commands.status import tell_all, tell_one
from avatar.errors import AvatarError, InvalidInput, NotConfigured
from avatar.events import player_url
from avatar.job.captions import caption_video
from avatar.job.generate import generate, quote
from avatar.job.index import newest_first, read_summary, read_video
from avatar.job.publish import find_video
from avatar.local import find, services
from avatar.models import AvatarJob, Plan, Video
from avatar.money.commit import still_to_buy
from avatar.settings import AvatarSettings
from avatar.waiting import in_turns
from avatar.workspace import Workspace

if TYPE_CHECKING:
    from fastmcp import FastMCP

R = TypeVar("R")

INSTRUCTIONS = """Makes talking avatar videos from a portrait and a voice track, by paid providers or as a free preview.
Ask for a `quote` first, show its price to the person, and give exactly that price to `generate` once they agreed.
`generate` returns at once; look at `status` until the job has a video. The same job is never paid for twice."""

_File = "a path on this machine, s3://bucket/key, or an https:// address"
Portrait = Annotated[str, Field(description=f"The image: {_File}")]
Voice = Annotated[str, Field(description=f"The speech: {_File}")]
Wishes = Annotated[
    dict[str, Any] | None,
    Field(
        description="More of the job: provider (preview, fal, pixazo), model, prompt, title, language, labels, captions, "
        "formats, trim, take. Give the same to quote and to generate."
    ),
]


def run(_: argparse.Namespace) -> int:
    try:
        import fastmcp  # noqa: F401 - whether it is there
    except ImportError as error:
        raise NotConfigured(
            "`avatar mcp` needs a library that is not installed.", hint="pip install 'avatar-flows[mcp]'"
        ) from error
    # stdout belongs to the protocol.
    with services(AvatarSettings(), api=False, say=lambda text: print(text, file=sys.stderr)) as running:
        settings = running.for_runs(AvatarSettings())
        asyncio.run(serve(settings, find(settings).api_url))
    return 0


async def serve(settings: AvatarSettings, api_url: str) -> None:
    async with Workspace(settings) as workspace:
        await workspace.store.ensure_bucket()
        agent = Agent(workspace, api_url)
        try:
            await build(agent).run_stdio_async(show_banner=False)
        finally:
            await agent.aclose()


def build(agent: "Agent") -> "FastMCP":
    """The server: five tools, and the videos' records as resources."""
    from fastmcp import FastMCP

    server: FastMCP = FastMCP("avatar-flows", INSTRUCTIONS)
    free = {"readOnlyHint": True, "openWorldHint": False}
    paid = {"destructiveHint": False, "idempotentHint": True, "openWorldHint": True}
    for tool, about in (
        (agent.quote, free),
        (agent.generate, paid),
        (agent.status, free),
        (agent.videos, free),
        (agent.captions, {"destructiveHint": False, "openWorldHint": False}),
    ):
        server.tool(_told(tool), annotations=about)
    server.resource("avatar://videos/{job_id}", mime_type="application/json")(_told(agent.record))
    return server


def _told(tool: Callable[..., Awaitable[R]]) -> Callable[..., Awaitable[R]]:
    """Errors of ours as sentences with the next step."""
    from fastmcp.exceptions import ToolError

    @functools.wraps(tool)
    async def call(*args: Any, **kwargs: Any) -> R:
        try:
            return await tool(*args, **kwargs)
        except AvatarError as error:
            raise ToolError(f"{error} Next: {error.hint}" if error.hint else str(error)) from error
        except ValidationError as error:
            fault = error.errors(include_input=False, include_url=False)[0]
            name = ".".join(map(str, fault["loc"]))
            raise ToolError(f"{name}: {fault['msg']}. Nothing was sent or spent.") from error

    call.__signature__ = inspect.signature(tool)  # type: ignore[attr-defined]
    return call


class Agent:
    """What the tools share.

    Args:
        workspace: settings and store.
        api_url: the Prefect API whose deployment makes the videos; empty: they are made in this process.
    """

    def __init__(self, workspace: Workspace, api_url: str) -> None:
        self.workspace, self._api_url = workspace, api_url
        self._shown: dict[tuple[str, str], Decimal] = {}
        self._work: dict[str, asyncio.Task[Video]] = {}
        self._runs: dict[str, str] = {}

    async def quote(self, portrait: Portrait, voice: Voice, wishes: Wishes = None) -> dict[str, Any]:
        """Tell price, length and cuts of a video, and what is wrong with its inputs. Spends nothing."""
        plan = await quote(_job(portrait, voice, wishes), self.workspace.settings)
        self._shown[plan.job_id, plan.provider] = plan.quote.amount
        owed = sum((await still_to_buy(self.workspace, plan)).values(), Decimal(0))
        made = await find_video(self.workspace, plan.job_id)
        return {
            "job_id": plan.job_id,
            "price_usd": str(plan.quote.amount),
            "still_to_pay_usd": "0" if made else str(owed),
            "made_already": made is not None,
            "provider": plan.provider,
            "model": plan.model,
            "seconds": round(plan.voice.seconds, 3),
            "segments": len(plan.segments),
            "warnings": [f"{each.text} {each.hint}".strip() for each in plan.warnings],
        }

    async def generate(
        self,
        portrait: Portrait,
        voice: Voice,
        max_price: Annotated[
            str, Field(description="the price_usd that `quote` told and the person agreed to")
        ],
        wishes: Wishes = None,
    ) -> dict[str, Any]:
        """Make the video, for no more than the price that was quoted. Returns at once: look at `status`."""
        job = _job(portrait, voice, wishes)
        plan = await quote(job, self.workspace.settings)
        price = self._agreed(plan, max_price)
        if plan.job_id not in self._runs and plan.job_id not in self._work:
            await self._start(job.model_copy(update={"max_cost": price}), plan.job_id)
        return await self.status(plan.job_id)

    def _agreed(self, plan: Plan, max_price: str) -> Decimal:
        """Raises `InvalidInput` unless it is the price that was shown for this very job, and still is."""
        shown = self._shown.get((plan.job_id, plan.provider))
        if shown is None:
            raise InvalidInput(
                "No price was shown for this job. Nothing was sent or spent.",
                hint="Call quote with the same inputs.",
            )
        try:
            given = Decimal(max_price.strip().removeprefix("$"))
        except InvalidOperation:
            given = Decimal(-1)
        if given != shown or plan.quote.amount > shown:
            raise InvalidInput(
                f"The price of this job is ${plan.quote.amount}, and max_price is {max_price[:40]!r}. Nothing was sent or "
                "spent.",
                hint="Show the price of quote, and give it as max_price.",
            )
        return shown

    async def _start(self, job: AvatarJob, job_id: str) -> None:
        if not self._api_url:
            self._work[job_id] = asyncio.create_task(generate(job, self.workspace.settings))
            return
        from avatar.web.drafts import as_parameters
        from avatar.web.runs import GENERATE, Runs

        self._runs[job_id] = await Runs(self._api_url).start(
            GENERATE, {"job": as_parameters(job)}, f"mcp-{job_id}"
        )

    async def status(
        self, job_id: Annotated[str, Field(description="a job or a render; empty for all that is open")] = ""
    ) -> dict[str, Any]:
        """How a job stands: its video with links once there is one, what its run says, the journal of its renders."""
        if not job_id:
            return await tell_all(self.workspace)
        state = await self._state(job_id)
        try:
            told = await tell_one(self.workspace, job_id) | state
        except InvalidInput:
            if not state:
                raise
            return {"job_id": job_id} | state
        if "video" in told:
            video = await read_video(self.workspace.store, told["video"]["job_id"])
            told["video"]["url"] = await self.workspace.store.presign(video.key, expires=LINK_LIFETIME)
            told["video"]["disclosure"] = video.disclosure
        return told

    async def _state(self, job_id: str) -> dict[str, Any]:
        """What is known of the work that this session started."""
        if task := self._work.get(job_id):
            if not task.done():
                return {"run": "running"}
            if error := task.exception():
                del self._work[job_id]  # another call goes on where it stopped
                return {"run": "failed", "reason": str(error), "hint": getattr(error, "hint", None)}
            return {"run": "completed"}
        if run_id := self._runs.get(job_id):
            from avatar.web.runs import FINAL, Runs

            run = await Runs(self._api_url).read(run_id)
            state = run.get("state") or {}
            if state.get("type") in FINAL - {"COMPLETED"}:
                del self._runs[job_id]
            told = {"run": str(state.get("name", "")).lower(), "run_id": run_id}
            return told | ({"reason": state["message"]} if state.get("message") else {})
        return {}

    async def videos(
        self, limit: Annotated[int, Field(ge=1, le=200, description="how many, the newest first")] = 20
    ) -> list[dict[str, Any]]:
        """The newest videos: title, state, length, cost, and the page they play on."""
        found: list[dict[str, Any]] = []
        async for day in newest_first(self.workspace.store):
            newest = day[: limit - len(found)]
            for each in await in_turns(lambda stat: read_summary(self.workspace.store, stat.key), newest):
                if each is not None:
                    told = each.model_dump(mode="json", include=_LISTED)
                    found.append(told | {"link": player_url(self.workspace.settings, each.job_id)})
            if len(found) >= limit:
                break
        return found

    async def captions(
        self,
        job_id: Annotated[str, Field(description="of a published video")],
        files: Annotated[list[str], Field(description=f".srt, .vtt or .txt, as in welcome.de.srt: {_File}")],
    ) -> dict[str, Any]:
        """Give a video captions, in place of those it has in the same language. Costs nothing."""
        video = await find_video(self.workspace, job_id)
        if video is None:
            raise InvalidInput(f"There is no video of job {job_id!r}.")
        made = await caption_video(self.workspace, video, [absolute_path(source) for source in files])
        return made.model_dump(mode="json", include={"job_id", "uri", "captions"})

    async def record(self, job_id: str) -> str:
        """A video's record: everything that is known of it, as JSON."""
        return (await read_video(self.workspace.store, job_id)).model_dump_json(indent=2)

    async def aclose(self) -> None:
        """What is under way at a provider goes on there, and is fetched later."""
        for task in self._work.values():
            task.cancel()
        await asyncio.gather(*self._work.values(), return_exceptions=True)


_LISTED = {"job_id", "at", "title", "language", "labels", "state", "provider", "seconds", "billed"}


def _job(portrait: str, voice: str, wishes: dict[str, Any] | None) -> AvatarJob:
    given = dict(wishes or {})
    if "max_cost" in given or "accept" in given:
        raise InvalidInput("max_cost and accept are not among the wishes. Nothing was sent or spent.")
    captions = [absolute_path(source) for source in given.pop("captions", None) or ()]
    files = {"portrait": absolute_path(portrait), "voice": absolute_path(voice), "captions": captions}
    return AvatarJob.model_validate(given | files)
