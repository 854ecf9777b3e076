"""The Prefect REST API over httpx: importing Prefect costs more than a second, and this needs none of it."""

import base64
import json
import os
import re
import threading
import tomllib
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from ssl import PROTOCOL_TLS_CLIENT, SSLContext
from typing import Any, cast
from uuid import uuid4

import httpx
from pydantic import SecretStr
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from avatar.errors import Transient
from avatar.settings import from_env_file

#: Seconds to wait for an answer before a server counts as not there.
PATIENCE = 3.0
#: Seconds between tries of a call that the server could not take just now: a locked database, a restart, a full queue.
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)
NOT_NOW = frozenset({408, 429, 500, 502, 503, 504})
_ending = threading.Event()


def lose_patience() -> None:
    """This process was told to end: no call is tried again, and those that wait to be fail now."""
    _ending.set()


class PrefectAccess(BaseSettings):
    """How the user reaches a Prefect server of their own, in Prefect's own settings and where Prefect looks for them.

    That is the environment, then our `.env`, then the active profile (`prefect cloud login`, `prefect config set`).
    """

    model_config = SettingsConfigDict(
        env_prefix="PREFECT_", env_file=".env", extra="ignore", frozen=True, hide_input_in_errors=True
    )

    api_url: str | None = None
    api_key: SecretStr | None = None
    api_auth_string: SecretStr | None = None
    api_ssl_cert_file: str | None = None
    client_custom_headers: dict[str, SecretStr] = {}
    ui_url: str | None = None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - asked for by this name
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        profile = InitSettingsSource(settings_cls, active_profile())
        return init_settings, env_settings, from_env_file(settings_cls, dotenv_settings), profile

    def headers(self) -> dict[str, str]:
        """What every request carries; a Prefect Cloud key wins over basic authentication, as in Prefect."""
        found = {name: value.get_secret_value() for name, value in self.client_custom_headers.items()}
        if self.api_key:
            found["Authorization"] = f"Bearer {self.api_key.get_secret_value()}"
        elif self.api_auth_string:
            token = base64.b64encode(self.api_auth_string.get_secret_value().encode()).decode()
            found["Authorization"] = f"Basic {token}"
        return found

    def variables(self) -> dict[str, str]:
        """These settings as environment variables, for child processes that read neither our `.env` nor the profile."""
        named = {"PREFECT_API_KEY": self.api_key, "PREFECT_API_AUTH_STRING": self.api_auth_string}
        found = {name: secret.get_secret_value() for name, secret in named.items() if secret}
        if self.client_custom_headers:
            given = {name: value.get_secret_value() for name, value in self.client_custom_headers.items()}
            found["PREFECT_CLIENT_CUSTOM_HEADERS"] = json.dumps(given)
        if self.api_ssl_cert_file:
            found["PREFECT_API_SSL_CERT_FILE"] = self.api_ssl_cert_file
        return found

    def verify(self, url: str) -> SSLContext:
        """How the server's certificate is checked. No setting of Prefect turns that off here."""
        if url.startswith(
            "http://"
        ):  # reading the certificates of all authorities takes longer than the request
            return SSLContext(PROTOCOL_TLS_CLIENT)
        return httpx.create_ssl_context(verify=self.api_ssl_cert_file or True)


def active_profile() -> dict[str, Any]:
    """The settings of Prefect's active profile, by our fields' names; empty if there is none."""
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    path = Path(os.environ.get("PREFECT_PROFILES_PATH", home / "profiles.toml"))
    try:
        kept = tomllib.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    name = os.environ.get("PREFECT_PROFILE") or kept.get("active")
    profile = kept.get("profiles", {}).get(name)
    if not isinstance(profile, dict):
        return {}
    found = {key.removeprefix("PREFECT_").lower(): value for key, value in profile.items()}
    headers = found.get("client_custom_headers")
    with suppress(ValueError):  # what is no JSON is refused with the setting's name
        found["client_custom_headers"] = json.loads(headers) if isinstance(headers, str) else headers or {}
    return {key: value for key, value in found.items() if key in PrefectAccess.model_fields}


def healthy(api_url: str) -> bool:
    """Whether a Prefect API answers at `api_url`."""
    try:
        with _client(api_url, PATIENCE) as client:
            if "/workspaces/" in api_url:  # Prefect Cloud has no such page in a workspace
                return client.post("/flows/count", content="{}").is_success
            return client.get("/health").is_success
    except (httpx.HTTPError, httpx.InvalidURL):
        return False


def read(api_url: str, path: str) -> Mapping[str, Any] | None:
    """GET a JSON object from the API, with patience; None if there is no such thing.

    Raises:
        httpx.HTTPError: the API did not answer, or refused.
    """
    answer = _patiently(api_url, "GET", path)
    if answer.status_code == httpx.codes.NOT_FOUND:
        return None
    return cast("Mapping[str, Any]", answer.raise_for_status().json())


def online_workers(api_url: str, pool: str) -> frozenset[str]:
    """Names of the workers that poll the pool, as far as the API knows; it notices a dead one late.

    Raises:
        httpx.HTTPError: the API did not answer, or refused.
    """
    answer = _patiently(api_url, "POST", f"/work_pools/{pool}/workers/filter", "{}")
    if answer.status_code == httpx.codes.NOT_FOUND:
        return frozenset()
    workers = answer.raise_for_status().json()
    return frozenset(worker["name"] for worker in workers if worker["status"] == "ONLINE")


def emit(api_url: str, events: str) -> None:
    """POST a JSON list of events, once; returns when the API has taken them. The same id again changes nothing.

    Raises:
        httpx.HTTPError: the API did not answer, or refused, or it is no Prefect API that answers there.
    """
    answer = _send(api_url, "POST", "/events", events)
    if answer.raise_for_status().status_code != httpx.codes.NO_CONTENT:
        raise httpx.HTTPStatusError(
            f"{api_url}/events answered {answer.status_code}", request=answer.request, response=answer
        )


def ask(api_url: str, path: str, body: Mapping[str, Any]) -> Any:
    """POST what may be repeated (a filter, or what has an idempotency key), with patience; returns the answer's JSON.

    Raises:
        httpx.HTTPError: the API did not answer, or refused.
    """
    return _patiently(api_url, "POST", path, json.dumps(dict(body))).raise_for_status().json()


def create(api_url: str, path: str, body: Mapping[str, Any]) -> None:
    """POST what is to be made, with patience. Nothing changes if there is one of its name.

    Raises:
        httpx.HTTPError: the API did not answer, or refused.
    """
    answer = _patiently(api_url, "POST", path, json.dumps(dict(body)))
    if answer.status_code != httpx.codes.CONFLICT:
        answer.raise_for_status()


def change(api_url: str, path: str, body: Mapping[str, Any]) -> None:
    """PATCH, with patience.

    Raises:
        httpx.HTTPError: the API did not answer, or refused.
    """
    _patiently(api_url, "PATCH", path, json.dumps(dict(body))).raise_for_status()


def _patiently(api_url: str, method: str, path: str, body: str = "") -> httpx.Response:
    """A request that may be repeated, while the server cannot take it just now."""
    for pause in PAUSES:
        with suppress(httpx.TransportError):
            answer = _send(api_url, method, path, body)
            if answer.status_code not in NOT_NOW:
                return answer
        if _ending.wait(pause):
            break
    return _send(api_url, method, path, body)


def _send(api_url: str, method: str, path: str, body: str) -> httpx.Response:
    """A JSON request, with the user's credentials and whatever else the server wants to see."""
    with _client(api_url, PATIENCE * 3) as client:
        if method == "GET":
            return client.get(path)
        return client.request(method, path, content=body, headers=_csrf_token(client))


def _client(api_url: str, seconds: float) -> httpx.Client:
    access = PrefectAccess()
    headers = access.headers() | {"Content-Type": "application/json"}
    return httpx.Client(base_url=api_url, headers=headers, timeout=seconds, verify=access.verify(api_url))


def _csrf_token(client: httpx.Client) -> dict[str, str]:
    """What a server with CSRF protection wants to see in a POST; nothing for one without."""
    name = str(uuid4())
    answer = client.get("/csrf-token", params={"client": name})
    with suppress(ValueError, KeyError, TypeError):  # a page of something that is no Prefect
        if answer.is_success:
            return {"Prefect-Csrf-Token": answer.json()["token"], "Prefect-Csrf-Client": name}
    return {}


# What the bridge, over plain HTTP, and `tasks.flow_runs`, by Prefect's client, go by when they look for runs to mend.
#: The tag of our deployments and their runs: a server may have others. And the tags of those that spend money.
TAG, JOBS = "avatar", frozenset({"video", "batch"})
#: A run that began, or ended, longer ago is history, not an accident to be mended.
FORGOTTEN_AFTER = timedelta(days=2)


def heartbeat_query(run_id: str, since: datetime, until: datetime) -> dict[str, Any]:
    """Asks /events/filter whether a run gave a sign of life in a time."""
    wanted = {
        "occurred": {"since": since.isoformat(), "until": until.isoformat()},
        "event": {"name": ["prefect.flow-run.heartbeat"]},
        "resource": {"id": [f"prefect.flow-run.{run_id}"]},
    }
    return {"filter": wanted, "limit": 1}


def failed_for_now(tags: Collection[str], parameters: Collection[str], message: str | None) -> bool:
    """Whether a failed run of a job or a batch ended in an error which may pass by itself, as its state's message names it.

    What a shard left undone is done by the run of its batch; what the inbox and upkeep did not do, by their next run.
    """
    return bool(JOBS & set(tags)) and "shard" not in parameters and bool(_PASSING.search(message or ""))


def _kinds_of(error: type[Exception]) -> list[str]:
    return [error.__name__, *(name for kind in error.__subclasses__() for name in _kinds_of(kind))]


_PASSING = re.compile(rf"\b(?:{'|'.join(_kinds_of(Transient))}): ")
