"""What a batch is asked for with, and what is kept of each of its rows."""

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from enum import StrEnum
from typing import Any, Self, cast

from pydantic import ConfigDict, Field, model_validator

from avatar.models import LONGEST_ADDRESS, AvatarJob, Label, ModelName, Plan
from avatar.stored_models import Model, ProviderName, Stored


class OnBadRows(StrEnum):
    STOP = "stop"  #: one bad row, and nothing is rendered
    SKIP = "skip"  #: the others are rendered


def _with_one_source(schema: dict[str, Any]) -> None:
    """Have the form itself refuse a batch without rows, where Prefect's server checks parameters by their schema."""
    cast(Callable[[dict[str, Any]], None], Model.model_config["json_schema_extra"])(schema)
    given = {"type": "string", "minLength": 1}
    schema["if"] = {"required": ["portrait"], "properties": {"portrait": given}}
    rows = {"required": ["manifest"], "properties": {"manifest": given}}
    schema["then"] = {"anyOf": [rows, {"required": ["voices"], "properties": {"voices": {"minItems": 1}}}]}
    schema["else"] = {"required": ["manifest"], "properties": {"manifest": given}}


class Batch(Model):
    """Many jobs: the rows of a manifest, or one portrait with many voices."""

    model_config = ConfigDict(json_schema_extra=_with_one_source)

    manifest: str | None = Field(
        None,
        title="Manifest",
        min_length=1,
        max_length=LONGEST_ADDRESS,
        description="A .jsonl or .csv file with a job in each row: a path on the worker's machine, s3://bucket/key, or an "
        "https:// address. Relative paths in it are looked up beside it.",
        examples=["s3://avatar/inbox/may/jobs.csv"],
    )
    portrait: str | None = Field(
        None,
        title="Portrait",
        min_length=1,
        max_length=LONGEST_ADDRESS,
        description="One portrait for all the voices below, or for the rows of the manifest that name none.",
        examples=["s3://avatar/inbox/anna/portrait.jpg"],
    )
    voices: tuple[str, ...] = Field(
        (),
        title="Voices",
        max_length=2000,
        description="One job for each: a file, or a folder (ending in a slash) for all files in it.",
        examples=[["s3://avatar/inbox/anna/voices/"]],
    )
    prompt: str = Field(
        ".",
        title="Prompt",
        min_length=1,
        max_length=2500,
        description="For rows that have none of their own. A single dot means none.",
        examples=["smiling warmly, slight head turn"],
    )
    provider: ProviderName | None = Field(
        None, title="Provider", description="For rows that name none. Empty: the AVATAR_PROVIDER setting."
    )
    model: ModelName | None = Field(
        None,
        title="Model",
        description="For rows that name none. Empty: the AVATAR_MODEL setting.",
        examples=["kling-ai-avatar-v2-standard"],
    )
    on_bad_rows: OnBadRows = Field(
        OnBadRows.STOP,
        title="On bad rows",
        description="`stop` renders nothing while one row is bad, `skip` renders the others.",
    )
    at_once: int | None = Field(
        None,
        title="At once",
        ge=1,
        le=1000,
        description="Renders at the provider at a time. Empty: the AVATAR_BATCH__AT_ONCE setting.",
        examples=[20],
    )
    max_cost: Decimal | None = Field(
        None,
        title="Highest price",
        ge=0,
        le=1_000_000,
        description="Refuse the batch before paying if what is still to be bought costs more, in US dollars.",
        examples=[150],
    )
    language: str = Field(
        "",
        title="Language",
        pattern=AvatarJob.model_fields["language"].metadata[0].pattern,
        description="Of the voices of rows that name none, as in `de` or `pt-BR`.",
        examples=["de"],
    )
    labels: dict[str, Label] = Field(
        default_factory=dict,
        title="Labels",
        max_length=20,
        description="For every row; a row's own stand above them.",
        examples=[{"campaign": "spring"}],
    )
    name: str = Field(
        "",
        title="Name",
        max_length=100,
        description="What people call it, in lists and in the report.",
        examples=["may campaign"],
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.manifest is not None and self.voices:
            raise ValueError("give either a manifest or voices")
        if self.manifest is None and self.portrait is None:
            raise ValueError("give either a manifest, or a portrait with voices")
        if self.manifest is None and not self.voices:
            raise ValueError("a portrait needs voices, or a manifest of them")
        return self

    def of(self, day: date) -> Self:
        """The batch of that day: `{date}` in the manifest's name is its ISO date. Its name is a label of its videos."""
        manifest = self.manifest and self.manifest.replace("{date}", day.isoformat())
        labels = {"batch": self.name, **self.labels} if self.name else self.labels
        return self.model_copy(update={"manifest": manifest, "labels": labels})


class RowState(StrEnum):
    """How a row ended, or that it has not yet."""

    WAITING = "waiting"  #: not begun, or not told of yet; the next run does it
    PUBLISHED = "published"
    ALREADY = "already"  #: was published before; cost nothing now
    DUPLICATE = "duplicate"  #: the same job as an earlier row; done once
    BAD = "bad"  #: cannot be rendered as it is; nothing was spent
    REFUSED = "refused"  #: a limit or a setting stood against it; nothing was spent
    FAILED = "failed"
    REJECTED = "rejected"  #: rendered, did not pass its checks, kept
    UNKNOWN = "unknown"  #: may have been charged; needs a person


#: There is a video, or will be by another row.
SERVED = frozenset({RowState.PUBLISHED, RowState.ALREADY, RowState.DUPLICATE})


class Outcome(Stored):
    """One line of the report."""

    line: int = Field(description="where the row begins in the manifest, from 1")
    state: RowState
    title: str = ""
    portrait: str = ""
    voice: str = ""
    provider: str = ""
    job_id: str = ""
    seconds: float | None = None
    quoted: Decimal | None = Field(None, description="US dollars for the whole job")
    billed: Decimal | None = Field(None, description="US dollars charged for the video, by whichever run")
    at_risk: Decimal | None = Field(None, description="US dollars that may be charged without a video")
    video: str = Field("", description="s3://bucket/key")
    renders: tuple[str, ...] = ()
    requests: tuple[str, ...] = ()
    reason: str = ""
    hint: str = ""
    passes: bool = Field(False, description="whether what stands against it may pass by itself")

    @property
    def may_go_on(self) -> bool:
        """Whether the row stopped at what passes by itself, and not at a limit or at what a person must settle."""
        return self.state is RowState.FAILED and self.passes


class Row(Stored):
    """A row that was read and checked: what it costs, or already how it ended."""

    line: int
    job: AvatarJob | None = None
    plan: Plan | None = None
    plan_key: str = Field("", description="what the plan depends on: equal keys, equal plans")
    owed: dict[str, Decimal] = Field(
        default_factory=dict, description="US dollars by render yet to be bought"
    )
    outcome: Outcome


class Checked(Model):
    """A manifest whose every row was looked at. Nothing has been spent."""

    batch_id: str
    rows: int
    chunks: int
    ready: int = Field(description="rows that are to be rendered")
    bad: int = 0
    quoted: Decimal = Field(Decimal(0), description="US dollars for all rows that can be rendered")
    owed: Decimal = Field(Decimal(0), description="US dollars still to be paid, by the quote")
    paid: bool = Field(False, description="whether a paid provider is among them")


class Summary(Model):
    """How a batch stands."""

    batch_id: str
    name: str = ""
    rows: int = 0
    states: dict[RowState, int] = Field(default_factory=dict)
    quoted: Decimal = Decimal(0)
    billed: Decimal = Field(Decimal(0), description="US dollars charged for the videos published by this run")
    at_risk: Decimal = Decimal(0)
    passing: int = Field(0, description="rows without a video that another run may find nothing against")
    troubles: tuple[Outcome, ...] = Field((), description="the first rows without a video, the worst first")
    report_key: str = ""
    page_key: str = ""

    def count(self, *states: RowState) -> int:
        return sum(self.states.get(state, 0) for state in states)
