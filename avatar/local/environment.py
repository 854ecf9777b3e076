"""The environment in which flows find the services."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pydantic import HttpUrl, SecretStr

from avatar.local.prefect_client import PrefectAccess
from avatar.local.state_directory import StateDirectory
from avatar.settings import AvatarSettings, start_directory
from avatar.settings_sections import StoreSettings

#: Defaults for every process that runs flows; a user's own environment wins.
_CLIENT = {
    "DO_NOT_TRACK": "1",
    # Nothing may start a hidden server of its own: it would not run schedules and vanish with its process.
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
    # A directory with a `flows` of its own hides ours otherwise: Python looks there first.
    "PYTHONSAFEPATH": "1",
    # A server that restarts, or whose database is locked, is waited for, some four minutes in all: by default a
    # 500 or 504 ends the run, and a minute is the most.
    "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500,504",
    "PREFECT_CLIENT_MAX_RETRIES": "7",
    # Seconds. The shortest Prefect takes; a dead run is noticed by its missing heartbeats.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
}


@dataclass(frozen=True)
class Services:
    """What a command may use, and where.

    Attributes:
        store: settings of the embedded store; None when the user configured a store of their own.
        api_url: the Prefect API, with its `/api`; empty if none was asked for.
        ui_url: where a person looks at runs; empty if that cannot be told from the API's address.
        started_api: whether the API is the local server, rather than one the user runs.
        gallery_url: where a person looks at videos; empty if no gallery runs.
        bridge_url: where notifications of uploads are taken; empty if no bridge runs.
    """

    store: StoreSettings | None
    api_url: str
    ui_url: str
    started_api: bool
    gallery_url: str = ""
    bridge_url: str = ""

    def applied_to(self, settings: AvatarSettings) -> AvatarSettings:
        """`settings` with the embedded store filled in."""
        return settings.model_copy(update={"store": self.store}) if self.store else settings

    def for_runs(self, settings: AvatarSettings) -> AvatarSettings:
        """`settings` as a flow run needs them: with the embedded store, the gallery's links, and no relative path."""
        more: dict[str, Any] = {"state_dir": StateDirectory(settings.state_dir).path}
        if self.gallery_url and settings.gallery.public_url is None:
            more["gallery"] = settings.gallery.model_copy(update={"public_url": HttpUrl(self.gallery_url)})
        return self.applied_to(settings).model_copy(update=more)


def environment(settings: AvatarSettings, services: Services) -> dict[str, str]:
    """Every variable a flow's process needs to see the same settings and services as this one.

    It includes what came from a `.env` file, since a worker's flows run in another directory, and so it
    holds secrets: pass it on, never print it.
    """
    # For relative paths and the `.env` file, whatever directory a run begins in.
    started = {"PWD": str(start_directory())}
    stated = services.for_runs(settings).model_dump(exclude_unset=True)
    return prefect_variables(settings, services) | started | flatten("AVATAR_", stated)


def prefect_variables(settings: AvatarSettings, services: Services) -> dict[str, str]:
    """Those that Prefect reads when it is imported."""
    variables = {name: value for name, value in _CLIENT.items() if name not in os.environ}
    variables |= PrefectAccess().variables()
    if services.api_url:
        variables["PREFECT_API_URL"] = services.api_url
    if services.started_api:
        variables["PREFECT_HOME"] = str(StateDirectory(settings.state_dir).prefect_home)
    return variables


def flatten(prefix: str, values: Mapping[str, Any]) -> dict[str, str]:
    """Nested settings as the environment variables they would be read from."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        variable = f"{prefix}{name.upper()}"
        if isinstance(value, Mapping):
            flat |= flatten(f"{variable}__", value)
        elif value is not None:
            flat[variable] = _text(value)
    return flat


def _text(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return str(value.value if isinstance(value, Enum) else value)
