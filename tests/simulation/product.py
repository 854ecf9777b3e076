"""Everything of the product that is simulated, by name, and the media work that is stubbed."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from avatar import workspace as workspaces
from avatar.batch import chunks
from avatar.batch import run as batch_run
from avatar.batch.models import Checked, Outcome, Row, RowState
from avatar.errors import AvatarError, VideoRejected
from avatar.events import about_error
from avatar.job import produce, publish
from avatar.job import reconcile as reconciling
from avatar.media.facts import Stills, VideoFacts
from avatar.models import KLING_AVATAR, AvatarJob, Plan
from avatar.models import job_id as name_job
from avatar.models import render_id as identify
from avatar.money import collect
from avatar.money import settle as settling
from avatar.money.collect import collect_render
from avatar.money.commit import still_to_buy
from avatar.money.entries import Entry, IllegalTransition, Record, RenderState
from avatar.money.state import read_current
from avatar.money.submit import hold_turn, submit_render
from avatar.money.webhooks import WebhookNote, keep_note
from avatar.providers import open_provider
from avatar.providers.base import Provider
from avatar.settings import AvatarSettings
from avatar.store import store_id
from avatar.stored_models import Asset, Check, Portrait, ProviderName, Quote, Segment, Voice
from avatar.waiting import patiently
from avatar.workspace import Workspace
from tests.simulation.provider import BROKEN, Accepted

SECONDS, PROMPT = 8.0, "She smiles."
#: Where a store's id is kept, and that of the one that the runs belong to.
IDENTITY_KEY, IDENTITY = store_id.KEY, "ours"
PRICE = Decimal("0.9200")
#: Errors that a worker may end with; of these, those that show a defect.
EXPECTED = (AvatarError,)
DEFECTS = (IllegalTransition,)


#: Whether every machine's media library writes other bytes.
SALTED = [False]


# --- what stands in for media work


_FACTS = VideoFacts(
    width=640, height=640, fps=25, frames=200, video_start=0, video_seconds=SECONDS, audio_start=0,
    audio_seconds=SECONDS, has_audio=True, video_codec="h264", audio_codec="aac", container="mp4", faststart=True,
)  # fmt: skip


def _probe(path: Path) -> VideoFacts:
    if path.read_bytes().startswith(BROKEN):
        raise VideoRejected("it does not decode")
    return _FACTS


async def _assemble(workspace: Workspace, plan: Plan, renders: Sequence[Any], folder: Path) -> Any:
    pieces = [folder / f"part-{number}.mp4" for number in range(len(plan.segments))]
    for piece, render in zip(pieces, renders, strict=True):
        await workspace.store.download(render.key, piece)
    target = pieces[0]
    if len(pieces) > 1 or SALTED[0]:
        target = folder / "video.mp4"
        salt = workspace.settings.state_dir.name.encode() if SALTED[0] else b""
        target.write_bytes(b"".join(piece.read_bytes() for piece in pieces) + salt)
    still = workspace.settings.state_dir / "still.jpg"
    check = Check(name="stub", value="1", bound="1", passed=True)
    return publish.Assembled(target, _probe(target), (check,), Stills(still, still))


def stub_media() -> None:
    """Put the stubs in place, once for the program."""
    replaced = [
        (collect, "probe_video", _probe),
        (publish, "assemble", _assemble),
        (publish, "_versions", dict),
    ]
    for module, name, instead in replaced:
        getattr(module, name)  # still there
        setattr(module, name, instead)
    for model, parsed in (
        (Plan, 64),
        (Entry, 512),
    ):  # frozen, and most texts of them are read again and again
        model.model_validate_json = lru_cache(parsed)(model.model_validate_json)  # type: ignore[method-assign]


# --- what is made once and used by every schedule


@cache
def plan(number: int, segments: int, take: int = 0) -> Plan:
    """The plan of one job. Jobs of other numbers, or in other parts, have another voice."""
    name = f"{number} in {segments}"
    portrait, voice = _asset(f"portrait {name}", "png"), _asset(f"voice {name}", "mp3")
    pieces = tuple(
        Segment(index=n, start=SECONDS * n, seconds=SECONDS, asset=asset, sha256=asset.sha256)
        for n in range(segments)
        for asset in [_asset(f"voice {name} {n}", "mp3")]
    )
    job = _job().model_copy(update={"take": take})
    return Plan(
        job_id=name_job(job, portrait_sha256=portrait.sha256, voice_sha256=voice.sha256, model=KLING_AVATAR),
        take=take,
        prompt=job.prompt,
        model=KLING_AVATAR,
        provider=ProviderName.FAL,
        portrait=Portrait(source=portrait, asset=portrait, sha256=portrait.sha256, width=512, height=512),
        voice=Voice(
            source=voice, seconds=SECONDS * segments, samples=48000, sample_rate=48000, channels=1, codec="mp3",
            container="mp3", peak=0.5, loudness=-20,
        ),
        segments=pieces,
        quote=Quote(
            provider=ProviderName.FAL, seconds=SECONDS * segments, price_per_second=Decimal("0.115"),
            amount=PRICE * segments,
        ),
    )  # fmt: skip


def _asset(name: str, extension: str) -> Asset:
    sha256 = hashlib.sha256(name.encode()).hexdigest()
    return Asset(key=f"assets/{sha256}.{extension}", sha256=sha256, size=100, content_type="audio/mpeg")


def render_ids(plan: Plan) -> list[str]:
    return [
        identify(
            portrait=plan.portrait, segment=segment, prompt=plan.prompt, model=plan.model, take=plan.take
        )
        for segment in plan.segments
    ]


@cache
def settings(state_dir: Path, limit: Decimal | None, *, webhooks: bool) -> AvatarSettings:
    state_dir.mkdir(parents=True, exist_ok=True)
    (state_dir / "still.jpg").write_bytes(b"jpg")
    bridge = {"public_url": "https://bridge.example", "secret": "s" * 32} if webhooks else {}
    return AvatarSettings(
        _env_file=None,
        provider="fal",
        state_dir=state_dir,
        fal={"key": "k" * 32},
        store={"endpoint": "memory.invalid", "access_key": "a", "secret_key": "s"},
        budget={"per_day": limit},
        bridge=bridge,
        polling={"deadline_seconds": 1800, "min_interval": 2, "max_interval": 30},
    )


_stores: list[Any] = []
_providers: dict[int, dict[tuple[ProviderName, str], Provider]] = {}


def take_stores() -> None:
    """Have workspaces made on the store that is given to them, once for the program."""
    workspaces.Store = lambda _: _stores[0]


def workspace(given: AvatarSettings, store: Any, told: Callable[[Any], None], turns: Any) -> Workspace:
    """A workspace as a process makes it."""
    _stores[:] = [store]
    made = Workspace(given, deliver=told, turns=turns)
    made.scratch = given.state_dir
    if id(given) not in _providers:
        opened = {name: open_provider(name, given, store) for name in ProviderName}
        _providers[id(given)] = {(name, given.model): provider for name, provider in opened.items()}
    made._providers.update(_providers[id(given)])
    return made


# --- what workers do


@cache
def _job() -> AvatarJob:
    return AvatarJob(portrait="portrait.png", voice="voice.mp3", provider=ProviderName.FAL, prompt=PROMPT)


async def another_take(workspace: Workspace, plan: Plan) -> int:
    """The take that `--force` chooses."""
    return (await produce.next_take(workspace, _job(), plan.portrait.source, plan.voice.source)).take


def names_what_is_seen(error: Exception, plan: Plan) -> bool:
    """Whether a text about an unknown outcome names what the provider's own pages show."""
    segments = [segment.asset.key.rsplit("/")[-1] for segment in plan.segments]
    told = str(error)
    known = (PROMPT, "fal-ai/kling-video", plan.portrait.asset.key.rsplit("/")[-1], "UTC")
    return all(part in told for part in known) and any(name in told for name in segments)


async def command(workspace: Workspace, plans: Sequence[Plan]) -> None:
    """`avatar generate`, or a run of its flow, for one job after another."""
    await patiently(lambda: store_id.require_store(workspace.store, IDENTITY))
    failed: AvatarError | None = None
    for plan in plans:
        try:
            await _one(workspace, plan)
        except AvatarError as error:
            notice = about_error(error, run=f"{plan.job_id}", job_id=plan.job_id)
            if notice is not None:
                workspace.notify(notice)
            failed = error
    if failed is not None:
        raise failed


async def _one(workspace: Workspace, plan: Plan) -> None:
    if await patiently(lambda: produce.find_made(workspace, _job(), plan.job_id)):
        return
    renders = await produce.render_all(workspace, _job(), plan, _render(workspace))
    video = await patiently(lambda: publish.publish_video(workspace, plan, renders))
    publish.require_published(video)


def _render(workspace: Workspace) -> Any:
    async def render(plan: Plan, segment: Segment, claim: str | None) -> Any:
        async with hold_turn(workspace, plan, segment):
            record = await submit_render(workspace, plan, segment, claim=claim)
            await produce.wait_until_done(workspace, record.entry.render_id)
        return await patiently(lambda: collect_render(workspace, record.entry.render_id))

    return render


async def batch(workspace: Workspace, plans: Sequence[Plan], part: chunks.Part | None = None) -> None:
    """A batch of all jobs, or of those of one part, in this process: checked before, now carried out."""
    await patiently(lambda: store_id.require_store(workspace.store, IDENTITY))
    part = part or chunks.Part(0, 0, rows=len(plans), at_once=4)
    batch_id = hashlib.sha256(plans[0].job_id.encode()).hexdigest()[:32]
    rows = [await _row(workspace, plan, line) for line, plan in enumerate(plans, start=1)]
    await patiently(lambda: chunks.write_rows(workspace, batch_id, part.first, rows))
    runner = batch_run.RowRunner(
        workspace, batch_id=batch_id, run="run", at_once=part.at_once, rows=part.rows
    )
    stopped: list[str] = []

    async def run_row(runner: batch_run.RowRunner, row: Row, claim: Any) -> Outcome:
        outcome = await batch_run.run_row(runner, row, claim)
        if outcome.state not in {RowState.PUBLISHED, RowState.ALREADY}:
            stopped.append(outcome.reason or outcome.state)
        return outcome

    await batch_run.run_chunk(runner, part.first, run_row)
    if stopped:
        raise AvatarError("; ".join(stopped))


def shared(plans: Sequence[Plan], turns: int) -> list[tuple[Sequence[Plan], chunks.Part]]:
    """The jobs of each of two runs that share a batch, and their part of its turns."""
    half = len(plans) // 2
    rows = 2 * chunks.CHUNK_ROWS
    checked = Checked(batch_id="0" * 32, rows=rows, chunks=2, ready=rows)
    parts = chunks.split_rows(checked, turns, parts=2)
    return list(zip((plans[:half], plans[half:]), parts, strict=True))


async def _row(workspace: Workspace, plan: Plan, line: int) -> Row:
    owed = await patiently(lambda: still_to_buy(workspace, plan))
    outcome = Outcome(line=line, state=RowState.WAITING, job_id=plan.job_id)
    return Row(line=line, job=_job(), plan=plan, owed=owed, outcome=outcome)


async def reconcile(workspace: Workspace) -> None:
    await reconciling.reconcile_renders(workspace)


async def webhook(workspace: Workspace, job: Accepted) -> None:
    """A delivery for `job` came in at the bridge."""
    address = str(job.webhook).rsplit("/", 4)
    note = WebhookNote(
        render_id=address[2],
        attempt=int(address[3]),
        provider=ProviderName.FAL,
        request_id=job.request_id,
        received_at=datetime.now(UTC),
    )
    record = await keep_note(workspace.store, workspace.journal, note)
    if record is not None and record.state in {RenderState.UNKNOWN, RenderState.RESOLVED, RenderState.INTENT}:
        with suppress(AvatarError):
            await read_current(workspace, note.render_id)


async def waiting_for_a_person(workspace: Workspace) -> list[Record]:
    """Renders that are a person's to settle: open ones, as `avatar status` shows them, and failures that were told of."""
    heads = [await workspace.journal.head(render_id) for render_id in await workspace.journal.open_renders()]
    return [head for head in heads if head is not None and (head.state in _PERSONS or head.strays)]


_PERSONS = {RenderState.UNKNOWN, RenderState.STALLED, RenderState.FAILED}


async def resolve(workspace: Workspace, render_id: str, word: str, fact: str = "") -> None:
    """`avatar resolve`: by a request id, a video's address, or the word that nothing was charged."""
    if word == "request":
        await settling.attach_request(workspace, render_id, fact, by="Anna")
    elif word == "video":
        await settling.attach_video(workspace, render_id, fact, by="Anna")
    else:
        await settling.declare_not_charged(workspace, render_id, by="Anna", request_id=fact or None)
    if word != "not charged":
        with suppress(AvatarError):
            await reconciling.finish_render(workspace, render_id)


def tells_of(notice: Any, job: Accepted) -> bool:
    """Whether a notice puts this request in front of a person."""
    if type(notice).__name__ in {"VideoPublished", "BudgetRefusal", "BillDiffers"}:
        return False
    facts = notice.model_dump_json()
    return job.request_id in facts or job.render_id in facts


def tells_of_job(notice: Any, job_id: str) -> bool:
    """Whether a notice tells that this job ended without a video."""
    return type(notice).__name__ in {"VideoFailed", "BudgetRefusal"} and notice.job_id == job_id
