"""The Prefect REST API over httpx: importing Prefect costs more than a second, and this needs none of it."""

import base64
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from uuid import uuid4

import httpx
from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

#: Seconds to wait for an answer before a server counts as not there.
PATIENCE = 3.0


class PrefectAccess(BaseSettings):
    """How the user reaches a Prefect server of their own, in Prefect's own settings."""

    model_config = SettingsConfigDict(
        env_prefix="PREFECT_", env_file=".env", extra="ignore", frozen=True, hide_input_in_errors=True
    )

    api_url: str | None = None
    api_key: SecretStr | None = None
    api_auth_string: SecretStr | None = None
    ui_url: str | None = None

    def headers(self) -> dict[str, str]:
        """What every request carries; a Prefect Cloud key wins over basic authentication, as in Prefect."""
        if self.api_key:
            return {"Authorization": f"Bearer {self.api_key.get_secret_value()}"}
        if self.api_auth_string:
            token = base64.b64encode(self.api_auth_string.get_secret_value().encode()).decode()
            return {"Authorization": f"Basic {token}"}
        return {}

    def variables(self) -> dict[str, str]:
        """These settings as environment variables, for child processes that do not read our `.env`."""
        named = {"PREFECT_API_KEY": self.api_key, "PREFECT_API_AUTH_STRING": self.api_auth_string}
        return {name: secret.get_secret_value() for name, secret in named.items() if secret}


def healthy(api_url: str) -> bool:
    """Whether a Prefect API answers at `api_url` (open to all, so no credentials are sent)."""
    try:
        return httpx.get(f"{api_url}/health", timeout=PATIENCE, headers=PrefectAccess().headers()).is_success
    except (httpx.HTTPError, httpx.InvalidURL):
        return False


def read(api_url: str, path: str) -> Mapping[str, Any] | None:
    """GET a JSON object from the API; None if there is no such thing.

    Raises:
        httpx.HTTPError: the API did not answer, or refused.
    """
    answer = httpx.get(f"{api_url}{path}", timeout=PATIENCE * 3, headers=PrefectAccess().headers())
    if answer.status_code == httpx.codes.NOT_FOUND:
        return None
    found: Mapping[str, Any] = answer.raise_for_status().json()
    return found


def online_workers(api_url: str, pool: str) -> frozenset[str]:
    """Names of the workers that poll the pool, as far as the API knows; it notices a dead one late.

    Raises:
        httpx.HTTPError: the API did not answer, or refused.
    """
    answer = _post(api_url, f"/work_pools/{pool}/workers/filter", "{}")
    if answer.status_code == httpx.codes.NOT_FOUND:
        return frozenset()
    workers = answer.raise_for_status().json()
    return frozenset(worker["name"] for worker in workers if worker["status"] == "ONLINE")


def emit(api_url: str, events: str) -> None:
    """POST a JSON list of events; returns once the API has taken them. The same id again changes nothing.

    Raises:
        httpx.HTTPError: the API did not answer, or refused, or it is no Prefect API that answers there.
    """
    answer = _post(api_url, "/events", events)
    if answer.raise_for_status().status_code != httpx.codes.NO_CONTENT:
        raise httpx.HTTPStatusError(
            f"{api_url}/events answered {answer.status_code}", request=answer.request, response=answer
        )


def create(api_url: str, path: str, body: Mapping[str, Any]) -> None:
    """POST what is to be made. Nothing changes if there is one of its name.

    Raises:
        httpx.HTTPError: the API did not answer, or refused.
    """
    answer = _post(api_url, path, json.dumps(dict(body)))
    if answer.status_code != httpx.codes.CONFLICT:
        answer.raise_for_status()


def _post(api_url: str, path: str, body: str) -> httpx.Response:
    """POST JSON, with the user's credentials and whatever else the server wants to see."""
    headers = PrefectAccess().headers() | {"Content-Type": "application/json"}
    with httpx.Client(base_url=api_url, headers=headers, timeout=PATIENCE * 3) as client:
        return client.post(path, content=body, headers=_csrf_token(client))


def _csrf_token(client: httpx.Client) -> dict[str, str]:
    """What a server with CSRF protection wants to see in a POST; nothing for one without."""
    name = str(uuid4())
    answer = client.get("/csrf-token", params={"client": name})
    with suppress(ValueError, KeyError, TypeError):  # a page of something that is no Prefect
        if answer.is_success:
            return {"Prefect-Csrf-Token": answer.json()["token"], "Prefect-Csrf-Client": name}
    return {}
