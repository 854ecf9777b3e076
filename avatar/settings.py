"""Settings, read from the environment (prefix `AVATAR_`, nested by `__`) and from one file, `.env`."""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from avatar.models import KLING_AVATAR
from avatar.settings_sections import (
    BatchSettings,
    BridgeSettings,
    BudgetSettings,
    C2paSettings,
    DownloadSettings,
    EventSettings,
    FalSettings,
    FormSettings,
    GallerySettings,
    InboxSettings,
    JournalSettings,
    LimitSettings,
    ModelSettings,
    NotifySettings,
    PixazoSettings,
    PollingSettings,
    PreviewSettings,
    RecoverySettings,
    RetentionSettings,
    StoreSettings,
)
from avatar.stored_models import ProviderName


def default_state_dir() -> Path:
    """Where local data lives: the XDG data directory, since videos are kept in it."""
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "avatar-flows"


def start_directory() -> Path:
    """Where the command, `avatar up` or the worker was started. A worker's run itself begins in an empty directory."""
    started = os.environ.get("PWD") if "PREFECT__FLOW_RUN_ID" in os.environ else None
    return Path(started or Path.cwd())


def env_file() -> Path:
    """The one file that settings are read from: AVATAR_ENV_FILE, else `.env` in the start directory."""
    return start_directory() / Path(os.environ.get("AVATAR_ENV_FILE", ".env")).expanduser()


def from_env_file(
    settings_cls: type[BaseSettings], default: PydanticBaseSettingsSource
) -> PydanticBaseSettingsSource:
    """The source of that file; `default` where `_env_file=` was given."""
    if isinstance(default, DotEnvSettingsSource) and default.env_file == ".env":
        return DotEnvSettingsSource(settings_cls, env_file=env_file())
    return default


class AvatarSettings(BaseSettings):
    """All settings. `AVATAR_FAL__KEY=…` sets `fal.key`."""

    model_config = SettingsConfigDict(
        env_prefix="AVATAR_",
        env_nested_delimiter="__",
        env_file=".env",
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,  # a worker's log would have it
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - asked for by this name
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, from_env_file(settings_cls, dotenv_settings)

    provider: ProviderName = Field(
        ProviderName.PREVIEW, description="Who renders: preview (free, local), fal or pixazo."
    )
    failover: ProviderName | None = Field(
        None,
        description="Provider to ask when the first one refuses, or fails without charging. Unset: none.",
    )
    env_file: Path | None = Field(
        None,
        description="File that settings are read from, after the environment. Unset: `.env` in the directory where the command, `avatar up` or the worker was started.",
    )
    model: str = Field(KLING_AVATAR, description="The model that jobs are made with: docs/models.md.")
    models: dict[str, ModelSettings] = Field(
        {}, description="Other prices, limits or endpoints of models, and further models: docs/models.md."
    )
    state_dir: Path = Field(
        default_factory=default_state_dir, description="Where local data and running services live."
    )
    warnings: Literal["show", "refuse"] = Field(
        "show",
        description="What warnings about a portrait or voice do before it is paid for: show, or refuse the job.",
    )
    consent: Literal["off", "required"] = Field(
        "off",
        description="Whether a portrait needs a recorded consent before anything is paid for it: docs/consent.md.",
    )
    input_folders: str | None = Field(
        None,
        description="Folders, parted by `:`, that jobs may take files of this machine from; a relative path in a job means a file in one of them. Unset: any, and relative to where the worker was started.",
    )
    fal: FalSettings = FalSettings()
    pixazo: PixazoSettings = PixazoSettings()
    preview: PreviewSettings = PreviewSettings()
    store: StoreSettings = StoreSettings()
    budget: BudgetSettings = BudgetSettings()
    limits: LimitSettings = LimitSettings()
    download: DownloadSettings = DownloadSettings()
    journal: JournalSettings = JournalSettings()
    polling: PollingSettings = PollingSettings()
    recovery: RecoverySettings = RecoverySettings()
    batch: BatchSettings = BatchSettings()
    gallery: GallerySettings = GallerySettings()
    inbox: InboxSettings = InboxSettings()
    bridge: BridgeSettings = BridgeSettings()
    notify: NotifySettings = NotifySettings()
    events: EventSettings = EventSettings()
    forms: FormSettings = FormSettings()
    c2pa: C2paSettings = C2paSettings()
    retention: RetentionSettings = RetentionSettings()
