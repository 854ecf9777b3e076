"""What the project speaks of as frozen models, and the identities of jobs and renders, made of their content."""

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import Field, StringConstraints, field_validator

from avatar.stored_models import (
    Caption,
    Check,
    Consent,
    Cost,
    Form,
    InputWarning,
    Model,
    Portrait,
    ProviderName,
    Quote,
    Render,
    Segment,
    Sha256,
    Stored,
    Voice,
)

# The nouns of the project as frozen models (their meanings: README, "How it runs").
#: The model of those who name none, and of what was bought before there were others.
KLING_AVATAR = "kling-ai-avatar-v2-pro"
#: The free local stand-in.
PREVIEW = "preview"

#: Longest path or address of an input, in characters. Presigned links with a session's token take some 2,000.
LONGEST_ADDRESS = 4096

#: The value of a label.
Label = Annotated[str, StringConstraints(max_length=200, strip_whitespace=True)]


#: A form of a video, `9:16/crop`: its shape, and how the picture gets there.
FORMAT = r"^(same|[1-9]\d?:[1-9]\d?|[1-9]\d{1,3}x[1-9]\d{1,3})(/(blur|plain|crop))?$"
#: A path or address of a further input.
Source = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_ADDRESS)]
ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


class Continuity(StrEnum):
    CUT = "cut"  #: every segment starts from the portrait; segments render at the same time
    CHAIN = "chain"  #: each segment starts from the last frame of the one before; one after another


class VideoState(StrEnum):
    PUBLISHED = "published"  #: passed its checks, or was accepted by a person
    REJECTED = "rejected"  #: did not pass; kept and shown with the reason


def parted(given: Any) -> Any:
    """Several sources in one cell of a table are parted by semicolons."""
    return [part.strip() for part in given.split(";") if part.strip()] if isinstance(given, str) else given


class AvatarJob(Model):
    """What a user asks for: a portrait, a voice, and how to render them."""

    portrait: str = Field(
        title="Portrait",
        min_length=1,
        max_length=LONGEST_ADDRESS,
        description="The image: a path on the worker's machine, s3://bucket/key, or an https:// address. "
        "JPEG, PNG, or what Pillow reads.",
        examples=["examples/portrait.png", "s3://avatar/inbox/anna/portrait.jpg"],
    )
    voice: str = Field(
        title="Voice track",
        min_length=1,
        max_length=LONGEST_ADDRESS,
        description="The speech: a path on the worker's machine, s3://bucket/key, or an https:// address. "
        "MP3, WAV, or what FFmpeg reads.",
        examples=["examples/speech.mp3", "s3://avatar/inbox/anna/voice.mp3"],
    )
    prompt: str = Field(
        ".",
        title="Prompt",
        min_length=1,
        max_length=2500,
        description="Guides expression and motion. A single dot means none.",
        examples=["smiling warmly, slight head turn"],
    )
    provider: ProviderName | None = Field(
        None,
        title="Provider",
        description="Who renders; preview is free. Empty: the AVATAR_PROVIDER setting.",
    )
    model: ModelName | None = Field(
        None,
        title="Model",
        description="Which model renders: docs/models.md lists them. Empty: the AVATAR_MODEL setting.",
        examples=["kling-ai-avatar-v2-standard"],
    )
    max_cost: Decimal | None = Field(
        None,
        title="Highest price",
        ge=0,
        le=100_000,
        description="Refuse the job before paying if its quote is above this, in US dollars. Empty: no limit here.",
        examples=[7],
    )
    continuity: Continuity = Field(
        Continuity.CUT,
        title="Continuity",
        description="How a voice above the provider's limit is joined: `cut` starts every segment from the portrait "
        "(all at once), `chain` from the last frame of the one before (smoother, one after another).",
    )
    trim: bool = Field(
        False,
        title="Trim",
        description="Leave out the silence before and after the speech, which is paid for like speech.",
    )
    accept: bool = Field(
        False,
        title="Accept",
        description="Publish the video although it did not pass its checks. Buys nothing.",
    )
    title: str = Field(
        "",
        title="Title",
        max_length=200,
        description="What the video is called, in lists and as a file. Empty: the name of the voice track.",
        examples=["Welcome"],
    )
    language: str = Field(
        "",
        title="Language",
        pattern=r"^([A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*)?$",
        description="The language of the voice, as in `de` or `pt-BR`.",
        examples=["de"],
    )
    labels: dict[str, Label] = Field(
        default_factory=dict,
        title="Labels",
        max_length=20,
        description="Words of your own to find and count videos by, such as campaign or client.",
        examples=[{"campaign": "spring"}],
    )
    captions: tuple[Source, ...] = Field(
        (),
        title="Captions",
        max_length=40,
        description="Files with captions (.srt, .vtt) or with the text alone (.txt), given like portrait and voice. "
        "The name tells the language, as in `welcome.de.srt`.",
        examples=[["welcome.de.srt", "welcome.en.vtt"]],
    )
    formats: tuple[Annotated[str, StringConstraints(pattern=FORMAT)], ...] = Field(
        (),
        title="Forms",
        max_length=20,
        description="Further forms of the video, made here from what was bought: `9:16`, `1:1`, `16:9`, `4:5`, a size such "
        "as `1080x1920`, or `same`; `/plain` or `/crop` after it, in place of a blurred background.",
        examples=[["9:16", "1:1/crop"]],
    )
    take: int = Field(
        0,
        title="Take",
        ge=0,
        le=9999,
        description="0 returns the published video if there is one. A new number buys a new rendition of the same job.",
        examples=[1],
    )

    @field_validator("captions", "formats", mode="before")
    @classmethod
    def _parted(cls, given: Any) -> Any:
        return parted(given)


class Named(Stored):
    """What people call a job. Not part of its identity: it costs nothing to change.

    Records written before there were names have none.
    """

    title: str = ""
    language: str = Field("", description="of the voice, as in `de` or `pt-BR`")
    labels: dict[str, str] = Field(default_factory=dict, description="such as campaign, cost centre, client")
    files: dict[str, str] = Field(
        default_factory=dict, description="what the files of portrait and voice were called"
    )


@dataclass(frozen=True)
class Limits:
    """What a provider accepts. Sizes in bytes, lengths in seconds and pixels."""

    min_seconds: float = 2.0
    max_seconds: float = 60.0
    max_audio_bytes: int = 5 * 1000 * 1000
    max_image_bytes: int = 10 * 1000 * 1000
    min_image_side: int = 300
    max_aspect: float = 2.5
    audio_containers: tuple[str, ...] = ("mp3", "wav")
    image_formats: tuple[str, ...] = ("JPEG", "PNG")


class Plan(Named):
    """Everything decided about a job before money is spent."""

    format: int = 1
    job_id: str
    prompt: str
    model: str
    provider: ProviderName
    portrait: Portrait
    voice: Voice
    segments: tuple[Segment, ...] = Field(min_length=1)
    quote: Quote
    take: int = 0
    continuity: Continuity = Continuity.CUT
    warnings: tuple[InputWarning, ...] = ()
    captions: tuple[Caption, ...] = ()
    formats: tuple[str, ...] = ()
    consent: Consent | None = None


class Submission(Stored):
    """The provider's receipt for a render."""

    render_id: str
    provider: ProviderName
    model: str = Field(KLING_AVATAR, description="its name in ids")
    endpoint: str = Field("", description="what was asked, as the provider's own pages name it")
    request_id: str = Field(min_length=1)
    submitted_at: datetime
    status_url: str | None = None
    response_url: str | None = None
    cancel_url: str | None = None
    generation: str = Field(
        "", description="which of the provider's polling contracts this submit was answered by"
    )
    queue_position: int | None = None


class RemoteState(StrEnum):
    QUEUED = "queued"  #: accepted, not started
    RUNNING = "running"  #: being rendered
    DONE = "done"  #: ended; whether well or badly is told by `collect`
    FAILED = "failed"  #: ended badly, and the provider said so in the status
    LOST = "lost"  #: the provider does not know the request (any more)


class Snapshot(Model):
    """One look at a render in progress."""

    state: RemoteState
    position: int | None = None
    progress: float | None = Field(None, ge=0, le=1)
    eta_seconds: float | None = None
    message: str = Field("", description="the provider's words on a failure, or its last log line")
    kind: str = Field("", description="the provider's error type on a failure")
    billed: bool | None = Field(None, description="on a failure: whether it is charged, None if not known")
    word: str = Field("", description="the status word as the provider wrote it")


class RemoteVideo(Stored):
    """A finished render at the provider."""

    url: str
    content_type: str | None = None
    size: int | None = None
    seconds: float | None = None
    billed_seconds: Decimal | None = Field(None, description="what the provider says it charges for")
    payload: dict[str, Any] = Field(default_factory=dict, description="the raw result, verbatim")


class CancelOutcome(StrEnum):
    REQUESTED = "requested"  #: told to stop; may still finish and be charged
    REMOVED = "removed"  #: taken out of the queue; not rendered
    TOO_LATE = "too_late"  #: already ended
    UNSUPPORTED = "unsupported"  #: the provider documents no cancel


class Video(Named):
    """The published result of a job."""

    format: int = 1
    job_id: str
    state: VideoState = VideoState.PUBLISHED
    provider: ProviderName
    model: str
    uri: str = Field(description="s3://bucket/key")
    key: str
    poster_key: str
    contact_key: str | None = None
    manifest_key: str
    sha256: Sha256
    size: int
    seconds: float
    width: int
    height: int
    cost: Cost
    segments: tuple[Segment, ...] = ()
    renders: tuple[Render, ...]
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[InputWarning, ...] = Field(
        (), description="what was told of the inputs before it was paid for"
    )
    continuity: Continuity = Continuity.CUT
    timings: dict[str, float] = Field(default_factory=dict, description="seconds by stage")
    portrait: Portrait
    voice: Voice
    consent: Consent | None = Field(None, description="what it covered when the video was planned")
    captions: tuple[Caption, ...] = ()
    disclosure: str = Field("", description="that it is AI-made, in its language, for whoever shows it")
    forms: tuple[Form, ...] = ()
    credentials: str = Field("", description="who signed its content credentials (C2PA), or why nobody did")
    provider_marks: tuple[str, ...] = Field((), description="what the provider's files say of themselves")
    prompt: str
    take: int = 0
    published_at: datetime
    flow_run_url: str | None = Field(None, description="the Prefect run that published it, if one did")
    versions: dict[str, str] = Field(default_factory=dict)


#: Raise when the meaning of a job's inputs changes, so that published videos are made anew.
JOB_VERSION = 1
#: Raise when what is sent for a render changes, so that renders are bought anew.
RENDER_VERSION = 1


def job_id(job: AvatarJob, *, portrait_sha256: str, voice_sha256: str, model: str) -> str:
    """Identity of a job: 32 hexadecimal digits. The provider is no part of it, the model is."""
    # A job that trims nothing has the name it had before there was a choice.
    return _digest(
        **({"trim": True} if job.trim else {}),
        version=JOB_VERSION,
        portrait=portrait_sha256,
        voice=voice_sha256,
        prompt=job.prompt,
        model=model,
        continuity=job.continuity,
        take=job.take,
    )


def render_id(*, portrait: Portrait, segment: Segment, prompt: str, model: str, take: int) -> str:
    """Identity of a render: the same model behind two doors is the same render, bought once."""
    return _digest(
        version=RENDER_VERSION,
        portrait=portrait.sha256,
        segment=segment.sha256,
        prompt=prompt,
        model=model,
        take=take,
    )


def _digest(**parts: Any) -> str:
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def title_for(job: AvatarJob) -> str:
    """The job's title, or the name of its voice track without folder and ending."""
    return job.title.strip() or PurePosixPath(shown(job.voice)).stem


def is_link(source: str) -> bool:
    """Whether the source is an address on the web, in any spelling of its scheme."""
    return source.lower().startswith(("https://", "http://"))


def shown(source: str) -> str:
    """The source as it may be told: a link without its query, which may be a signature, and without a user."""
    if not is_link(source):
        return source
    scheme, _, rest = source.partition("://")
    return f"{scheme}://{re.split(r'[?#]', rest, maxsplit=1)[0].rpartition('@')[2]}"


#: Names how the last frame of a render is taken. It is part of the identity of what is rendered from it.
CHAIN_SPEC = "f1"


def chained(plan: Plan, render: Render) -> Plan:
    """The plan of what follows `render` in a chain, as far as names go: its portrait is the last frame of `render`."""
    identity = hashlib.sha256(f"{render.sha256}:{CHAIN_SPEC}".encode()).hexdigest()
    portrait = plan.portrait.model_copy(
        update={"sha256": identity, "width": render.width, "height": render.height, "notes": (), "face": None}
    )
    return plan.model_copy(update={"portrait": portrait})
