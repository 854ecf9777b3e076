"""What plans and videos are made of, as it is kept in the store; and the base of every model."""

from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


def _one_input(schema: dict[str, Any]) -> None:
    """Give every field that may be None one input in the run form, left empty for None.

    As generated, the Prefect UI asks for a type first (`str` or `None`). Its server accepts null for a field that is
    not required and has no default, whatever its type (prefect/utilities/schema_tools/validation.py of 3.9.1).
    """
    for field in schema.get("properties", {}).values():
        options = [option for option in field.get("anyOf", ()) if option.get("type") != "null"]
        if len(options) < len(field.get("anyOf", ())) and field.get("default", ...) is None:
            del field["anyOf"], field["default"]
            field.update(options[0])


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=_one_input)


class Stored(Model):
    """What is kept in the store. Fields that a later version added are kept when it is read and written again."""

    model_config = ConfigDict(extra="allow")


class ProviderName(StrEnum):
    PREVIEW = "preview"
    FAL = "fal"
    PIXAZO = "pixazo"


class Asset(Stored):
    """An input stored by its content."""

    key: str
    sha256: Sha256
    size: int = Field(ge=0, description="bytes")
    content_type: str


class Portrait(Stored):
    """A portrait, decoded and ready for a provider.

    `sha256` names the source with the preparation applied to it, so that an upgrade of an image library,
    which may write other bytes for the same picture, does not make a paid render look new.
    """

    source: Asset
    asset: Asset = Field(description="what the provider is given")
    sha256: Sha256
    width: int = Field(gt=0, description="pixels, after EXIF rotation")
    height: int = Field(gt=0, description="pixels, after EXIF rotation")
    notes: tuple[str, ...] = ()
    searched: bool = Field(False, description="whether a face was looked for")
    face: tuple[float, float, float, float] | None = Field(
        None, description="left, top, width and height of the largest face, as shares of the picture's sides"
    )


class Speech(Stored):
    """What a listener hears in one channel."""

    head: float = Field(0.0, ge=0, description="seconds of silence before the first sound")
    tail: float = Field(0.0, ge=0, description="seconds of silence after the last")
    loud: float = Field(0.0, ge=0, description="seconds that are loud enough to be speech")
    loudness: float = Field(0.0, description="RMS level of the whole, dBFS")
    liveliness: float = Field(
        0.0,
        ge=0,
        description="standard deviation of the levels where it is loud, dB: speech 5 and more, hum 1",
    )


class Voice(Stored):
    """A voice track, decoded to the end."""

    source: Asset
    alone: Asset | None = Field(
        None, description="the voice by itself, where its file holds more or less than it"
    )
    seconds: float = Field(gt=0, description="decoded samples over sample rate")
    samples: int = Field(gt=0)
    sample_rate: int = Field(gt=0, description="Hz")
    channels: int = Field(gt=0)
    codec: str
    container: str
    peak: float = Field(ge=0, description="highest absolute sample, full scale = 1")
    loudness: float = Field(description="RMS level of the whole, dBFS")
    notes: tuple[str, ...] = ()
    speech: Speech | None = Field(None, description="measured on what is sent")
    clipped: bool = Field(False, description="recorded too loud")

    @property
    def heard(self) -> Asset:
        """What is heard, cut and laid over the video."""
        return self.alone or self.source


class Segment(Stored):
    """A piece of the voice no longer than the provider's limit."""

    index: int = Field(ge=0)
    start: float = Field(ge=0, description="seconds into the voice")
    seconds: float = Field(gt=0)
    asset: Asset = Field(description="what the provider is given")
    sha256: Sha256 = Field(description="identity of the sound, not of its encoding")
    loudness: float | None = Field(None, description="dBFS where it ends; None for the last one")
    pause: float = Field(0.0, ge=0, description="seconds of pause around its end")


class InputWarning(Stored):
    """Something about an input that is likely to be regretted once it is paid for."""

    about: Literal["portrait", "voice"]
    kind: str = Field(
        description="`quiet`, `silence`, `no-speech`, `clipped`, `no-face`, `face-small` and the like"
    )
    text: str
    hint: str = ""
    cost: Decimal | None = Field(None, description="US dollars of the quote that are spent on it")


class Caption(Stored):
    """Captions in one language, as WebVTT."""

    language: str = Field("", description="as in `de` or `pt-BR`; empty if not known")
    key: str
    sha256: Sha256
    cues: int = Field(ge=0)
    approximate: bool = Field(False, description="laid over the voice from the text alone")
    name: str = Field("", description="of the file it came from")


class Consent(Stored):
    """That the person in a portrait agreed to be shown, or does so no more. Kept by the content of the portrait's file."""

    format: int = 1
    portrait: Sha256 = Field(description="of the file as it was given")
    name: str = Field("", description="what that file was called")
    who: str = Field(min_length=1, max_length=200, description="the person, or who speaks for them")
    purpose: str = Field(min_length=1, max_length=1000, description="what they agreed to")
    until: date = Field(description="the last day on which it holds, UTC")
    paper: str = Field(min_length=1, max_length=1000, description="where what they signed is kept")
    written_by: str = ""
    written_at: datetime
    revoked: bool = False


class Quote(Stored):
    """Price of a job before it runs."""

    provider: ProviderName
    seconds: float = Field(description="billable seconds, rounded up per segment")
    price_per_second: Decimal
    amount: Decimal = Field(description="US dollars")
    currency: str = "USD"


class Render(Stored):
    """One paid (or previewed) render, kept in the store."""

    render_id: str
    provider: ProviderName
    request_id: str
    key: str = Field(description="object key of the video as the provider made it")
    sha256: Sha256
    size: int
    seconds: float
    width: int
    height: int
    quoted: Decimal
    billed: Decimal
    submitted_at: datetime
    collected_at: datetime


class Check(Stored):
    """One thing looked at before publishing."""

    name: str
    value: str
    bound: str
    passed: bool


class Cost(Stored):
    quoted: Decimal
    billed: Decimal
    currency: str = "USD"


class Form(Stored):
    """Another form of a published video, made from it at no cost."""

    name: str = Field(description="as it was asked for: `9:16/crop`")
    key: str
    uri: str
    sha256: Sha256
    size: int
    seconds: float
    width: int
    height: int
    loudness_before: float = Field(description="LUFS, EBU R128")
    loudness: float = Field(description="LUFS, EBU R128")
    peak: float = Field(description="true peak, dBTP")
    quality: float = Field(description="SSIM of the picture beside what went into the encoder")
    credentials: str = ""
    made_of: Sha256 = Field(description="the video it was made of")
    checks: tuple[Check, ...] = ()
