"""The sections of the settings: each a group of variables that begin alike, as `AVATAR_STORE__…`."""

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, SecretStr, StringConstraints

Dollars = Annotated[Decimal, Field(ge=0, decimal_places=4)]
BucketName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]


class Section(BaseModel):
    """A group of settings; unknown names are errors, so that a typo is seen. What was given may be a secret: not told."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class FalSettings(Section):
    key: SecretStr | None = Field(None, description="fal API key, from fal.ai/dashboard/keys.")
    queue_url: HttpUrl = Field(HttpUrl("https://queue.fal.run"), description="Base URL of fal's queue API.")
    rest_url: HttpUrl = Field(
        HttpUrl("https://rest.fal.ai"), description="Base URL of fal's storage API (uploads)."
    )
    api_url: HttpUrl = Field(
        HttpUrl("https://api.fal.ai/v1"),
        description="Base URL of fal's Platform API (the account's requests, prices, bills).",
    )
    admin_key: SecretStr | None = Field(
        None, description="fal admin key: only needed to read what renders were really billed at."
    )
    delivery: Literal["presign", "upload"] = Field(
        "presign",
        description="How fal gets the inputs: `presign` links to the store's public endpoint, or `upload` to fal storage.",
    )
    at_once: int = Field(
        40, ge=1, le=10_000, description="Renders of this account at fal at a time, over all runs."
    )
    submits_per_second: float = Field(
        20, gt=0, le=1000, description="Paid requests sent to fal per second, over all runs."
    )


class PixazoSettings(Section):
    key: SecretStr | None = Field(None, description="Pixazo subscription key (Ocp-Apim-Subscription-Key).")
    base_url: HttpUrl = Field(
        HttpUrl("https://gateway.pixazo.ai"), description="Base URL of the Pixazo gateway."
    )
    at_once: int = Field(
        40, ge=1, le=10_000, description="Renders of this account at Pixazo at a time, over all runs."
    )
    submits_per_second: float = Field(
        5, gt=0, le=1000, description="Paid requests sent to Pixazo per second, over all runs."
    )


class StoreSettings(Section):
    endpoint: str | None = Field(
        None, description="host:port of an S3 server. Unset: the embedded store is started."
    )
    access_key: SecretStr | None = Field(None, description="S3 access key.")
    secret_key: SecretStr | None = Field(
        None,
        description="S3 secret key. Neither key set: AWS_… or MINIO_… variables, a profile, or the machine's role.",
    )
    session_token: SecretStr | None = Field(
        None, description="Session token that goes with temporary keys (STS)."
    )
    bucket: BucketName = Field("avatar", description="The one bucket everything is kept in.")
    secure: bool = Field(True, description="Use https. False is for a server on this machine.")
    region: str | None = Field(
        None, description="Region used in signatures. Unset: what the endpoint's name says, else us-east-1."
    )
    addressing: Literal["auto", "path", "virtual"] = Field(
        "auto",
        description="Where the bucket stands: in the `path` of an address or in its host (`virtual`). auto: as AWS and Alibaba want it, else in the path.",
    )
    public_endpoint: str | None = Field(
        None,
        description="host:port (or URL) at which providers and browsers reach the store. Default: the endpoint.",
    )


class BudgetSettings(Section):
    per_job: Dollars | None = Field(None, description="Most that one job may cost, in US dollars.")
    per_day: Dollars | None = Field(
        None, description="Most that may be committed in one UTC day, in US dollars."
    )
    per_batch: Dollars | None = Field(None, description="Most that one batch may cost, in US dollars.")
    approval_seconds: int = Field(
        86_400,
        ge=60,
        le=30 * 86_400,
        description="How long a job waits for approval before it ends, in seconds.",
    )
    approve_above: Dollars | None = Field(
        None, description="A job or batch quoted above this waits for a person's approval."
    )
    preview_first: bool = Field(
        False,
        description="Render a job's free preview before its approval is asked for, and link to it there.",
    )


class LimitSettings(Section):
    """Overrides of the provider's limits; unset means what the provider is known to take."""

    min_seconds: float | None = Field(None, gt=0, description="Shortest voice, in seconds.")
    max_seconds: float | None = Field(None, gt=0, description="Longest voice (or segment), in seconds.")
    max_audio_bytes: int | None = Field(
        None, gt=0, description="Largest audio file sent to the provider, in bytes."
    )
    max_image_bytes: int | None = Field(
        None, gt=0, description="Largest image file sent to the provider, in bytes."
    )
    min_image_side: int | None = Field(None, gt=0, description="Shortest side of the portrait, in pixels.")
    max_aspect: float | None = Field(
        None, gt=1, description="Longest side over shortest side of the portrait."
    )


class OfferSettings(Section):
    """Where a provider has a model, and at what price."""

    endpoint: str | None = Field(None, description="fal's endpoint id, or the path of Pixazo's product.")
    price_per_second: Dollars | None = Field(None, description="US dollars per second of video.")
    source: str = Field("", description="Where that is from, and of when.")


class ModelSettings(Section):
    """A model, or what is changed of one that is known."""

    title: str = ""
    enabled: bool | None = None
    prompt: bool | None = Field(None, description="Whether it takes a prompt.")
    fal: OfferSettings | None = None
    pixazo: OfferSettings | None = None
    limits: LimitSettings | None = None
    parameters: dict[str, str] | None = Field(None, description="Sent beside portrait, voice and prompt.")
    notes: tuple[str, ...] = ()


class DownloadSettings(Section):
    allow_private_hosts: bool = Field(
        False,
        description="Follow links (a provider's to its video, a job's to its inputs) to private addresses, or over plain http. For test stand-ins only.",
    )
    max_bytes: int = Field(2 * 1024**3, gt=0, description="Largest video accepted from a provider, in bytes.")
    attempts: int = Field(
        6, ge=1, le=50, description="How often a cut download is resumed before the step fails."
    )
    max_input_bytes: int = Field(
        1024**3, gt=0, description="Largest input or manifest fetched from an https:// address, in bytes."
    )
    input_seconds: float = Field(
        300, gt=0, description="How long fetching one of those may take in all, in seconds."
    )


class JournalSettings(Section):
    lease_seconds: float = Field(
        120, ge=2, description="How long an intent is believed alive without a sign of life."
    )


class PollingSettings(Section):
    window_seconds: float = Field(
        90, ge=1, le=600, description="How long a render is watched before the journal is looked at again."
    )
    deadline_seconds: float = Field(7200, ge=10, description="How long after the submit polling gives up.")
    min_interval: float = Field(1.0, gt=0, description="Shortest pause between status requests, in seconds.")
    max_interval: float = Field(10.0, gt=0, description="Longest pause between status requests, in seconds.")


class BatchSettings(Section):
    at_once: int = Field(
        20, ge=1, le=1000, description="Renders of one batch that are at the provider at a time."
    )
    shards: int = Field(
        4,
        ge=1,
        le=64,
        description="Most flow runs a large batch is spread over. 1 keeps every batch in one process.",
    )
    shard_rows: int = Field(
        1000, ge=1, description="A batch with more rows than this is spread over several flow runs."
    )
    stop_after_unknown: int = Field(
        5,
        ge=1,
        description="After so many requests in a row whose outcome is unknown, or whose inputs the provider could not "
        "fetch, a batch sends no more.",
    )


class RecoverySettings(Section):
    max_resumes: int = Field(
        3,
        ge=0,
        le=20,
        description="How often a flow run that crashed, or failed of what may have passed, is started again by itself.",
    )
    stale_seconds: float = Field(
        600,
        ge=60,
        description="A running flow run without a heartbeat for this long is taken for dead, in seconds.",
    )


class PreviewSettings(Section):
    frame_rate: int = Field(25, ge=5, le=60, description="Frames per second of the preview.")
    max_side: int = Field(720, ge=128, le=1920, description="Longest side of the preview, in pixels.")


class GallerySettings(Section):
    host: str = Field("127.0.0.1", min_length=1, description="Address the gallery listens on.")
    port: int = Field(4299, ge=0, le=65535, description="Port it listens on; 0 takes any free one.")
    public_url: HttpUrl | None = Field(
        None, description="Where people reach the gallery; links to players begin with it."
    )
    user: str = Field("avatar", min_length=1, description="User name that goes with the password.")
    password: SecretStr | None = Field(
        None, min_length=1, description="Asked for by the gallery (HTTP Basic). Unset: nobody is asked."
    )
    users: str | None = Field(
        None,
        description="File of users, `name:role:password` a line; roles are look, make and spend. `avatar gallery "
        "--add-user NAME:ROLE` writes it.",
    )
    proxy_header: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9-]{1,100}$",
        description="Header in which a proxy that signs people in names them, as in `X-Forwarded-User`.",
    )
    proxies: str = Field(
        "127.0.0.0/8,::1",
        description="Addresses or networks of the proxies whose header is believed, with commas between.",
    )
    desk: bool | None = Field(
        None,
        description="Start, approve and accept from the gallery's pages. Unset: only under `avatar up`, on loopback.",
    )


class InboxSettings(Section):
    prefix: str = Field(
        "inbox/",
        pattern=r"^[a-z0-9][a-z0-9/_-]{0,100}/$",
        description="Where in the bucket files are dropped.",
    )
    settle_seconds: float = Field(
        3, ge=0, le=600, description="An upload is complete when nothing in it changed for this long."
    )
    report_after_seconds: float = Field(
        900, ge=1, description="A half-uploaded job is reported after this long without a change."
    )


class BridgeSettings(Section):
    host: str = Field("127.0.0.1", min_length=1, description="Address the bridge listens on.")
    port: int = Field(4298, ge=0, le=65535, description="Port it listens on; 0 takes any free one.")
    token: SecretStr | None = Field(
        None, min_length=16, description="Shared with the store: asked for in every bucket notification."
    )
    public_url: HttpUrl | None = Field(
        None,
        description="Where providers reach the bridge, with https. Unset: no webhooks are asked for.",
    )
    secret: SecretStr | None = Field(
        None,
        min_length=16,
        description="Signs the webhook addresses. Unset: one is made and kept in the store.",
    )
    jwks_url: HttpUrl = Field(
        HttpUrl("https://rest.fal.ai/.well-known/jwks.json"),
        description="Where fal publishes the keys its webhooks are signed with.",
    )
    max_body_bytes: int = Field(
        1024 * 1024, ge=1024, description="Largest notification or webhook that is read, in bytes."
    )


class NotifySettings(Section):
    apprise_url: SecretStr | None = Field(
        None,
        min_length=4,
        description="Where messages go when something needs a person: an Apprise address. Unset: no automation is made.",
    )


class EventSettings(Section):
    """Events sent on as signed webhooks, by the bridge (docs/events.md)."""

    urls: SecretStr | None = Field(
        None,
        min_length=8,
        description="https addresses that events are sent to, with commas between. Unset: none are sent.",
    )
    secret: SecretStr | None = Field(
        None,
        min_length=16,
        description="Signs them (Standard Webhooks), as in `whsec_…`; two with a space between while one takes the other's place.",
    )
    allow_private_hosts: bool = Field(
        False, description="Send them to private addresses and over plain http, too."
    )


class FormSettings(Section):
    """How further forms of a video are made (docs/forms.md)."""

    loudness: float | None = Field(
        -16, ge=-31, le=-9, description="Loudness of forms, LUFS. Platforms want -14 to -16."
    )
    label: str = Field(
        "", max_length=60, description="Shown all through in every form, such as `AI-generated`."
    )
    logo: str | None = Field(None, description="Picture at the top right: a path, or s3://bucket/key.")
    intro: str | None = Field(None, description="Video before it: a path, or s3://bucket/key.")
    outro: str | None = Field(None, description="Video after it: a path, or s3://bucket/key.")


class C2paSettings(Section):
    """Content credentials in published files, signed with the user's certificate (docs/disclosure.md)."""

    certificate: Path | None = Field(
        None, description="File with the certificate and its chain (PEM). Unset: nothing is signed."
    )
    key: Path | None = Field(None, description="File with its private key (PEM).")
    algorithm: Literal["es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519"] = Field(
        "es256", description="Of the signature; the key must fit."
    )
    timestamp_url: HttpUrl | None = Field(
        None,
        description="Time-stamping service (RFC 3161), so that it holds after the certificate has expired.",
    )


class RetentionSettings(Section):
    """Days after which things are deleted; unset keeps them for ever."""

    uploads_days: int | None = Field(
        None,
        ge=1,
        description="Consumed uploads (`inbox/.done`, `.failed`); files and orders that were brought to the gallery.",
    )
    renders_days: int | None = Field(
        None, ge=1, description="Renders as the provider made them, once published."
    )
    videos_days: int | None = Field(
        None, ge=1, description="Published and rejected videos. They were paid for."
    )
    batches_days: int | None = Field(None, ge=1, description="Reports of batches.")
    results_days: int | None = Field(
        None, ge=1, description="Prefect's cached results. Deleting them costs time, not money."
    )
