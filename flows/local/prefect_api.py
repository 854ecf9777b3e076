"""The Prefect REST API over httpx: importing Prefect costs more than a second, and this needs none of it."""

import base64
from collections.abc import Mapping
from typing import Any

import httpx
from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

#: Seconds to wait for an answer before a server counts as not there.
PATIENCE = 3.0


class PrefectAccess(BaseSettings):
    """How the user reaches a Prefect server of their own, in Prefect's own settings."""

    model_config = SettingsConfigDict(env_prefix="PREFECT_", env_file=".env", extra="ignore", frozen=True)

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


def worker_online(api_url: str, pool: str) -> bool:
    """Whether the pool exists and a worker polls it, as far as the API knows."""
    found = read(api_url, f"/work_pools/{pool}")
    return bool(found) and found.get("status") == "READY"
