"""`avatar doctor`: what it finds, and what it tells a person to do."""

from pathlib import Path
from typing import Any

import pytest

from avatar.commands import doctor
from avatar.settings import AvatarSettings
from avatar.settings_sections import StoreSettings
from avatar.stored_models import ProviderName
from tests.sandbox.running import Sandbox

#: Nobody listens there.
NOBODY = "http://127.0.0.1:9"


def settings(state_dir: Path, **more: Any) -> AvatarSettings:
    return AvatarSettings(_env_file=None, state_dir=state_dir, **more)


async def test_doctor_says_what_to_start(tmp_path: Path) -> None:
    """With nothing running, store, API and worker fail, each with the command that helps."""
    findings = await doctor.examine(settings(tmp_path))
    failed = {finding.name: finding.hint for finding in findings if finding.status == "fail"}
    assert set(failed) == {"store", "Prefect API", "worker"}
    assert all("avatar up" in hint for hint in failed.values())


async def test_doctor_fails_on_a_missing_key(tmp_path: Path) -> None:
    """A paid provider without its key is a failure that names the setting."""
    findings = await doctor.examine(settings(tmp_path, provider="fal"))
    assert any(f.status == "fail" and "AVATAR_FAL__KEY" in f.detail + f.hint for f in findings)


@pytest.mark.parametrize(
    ("store", "provider", "statuses"),
    [
        ({"endpoint": "s3.example.com"}, "preview", []),
        ({"endpoint": "s3.example.com", "secure": False}, "preview", ["warn"]),
        ({"endpoint": "127.0.0.1:9000", "secure": False}, "preview", []),
        ({"endpoint": "127.0.0.1:9000", "secure": False}, "fal", ["fail"]),
        ({"endpoint": "127.0.0.1:9000", "secure": False}, "pixazo", ["fail"]),
        ({"endpoint": "localhost:9000", "public_endpoint": "https://s3.example.com"}, "fal", []),
    ],
)
def test_doctor_judges_the_stores_addresses(
    tmp_path: Path, store: dict[str, Any], provider: str, statuses: list[str]
) -> None:
    """Plain http off this machine is a warning; a store that the provider cannot reach is a failure."""
    given = settings(tmp_path, store=StoreSettings(**store), provider=provider)
    assert [finding.status for finding in doctor.addresses(given)] == statuses


def test_doctor_warns_of_a_store_without_conditional_create() -> None:
    """Overwriting on create is a warning for the free preview, and a failure for who pays."""
    assert doctor.conditional(honoured=False, provider=ProviderName.PREVIEW).status == "warn"
    assert doctor.conditional(honoured=False, provider=ProviderName.FAL).status == "fail"
    assert doctor.conditional(honoured=True, provider=ProviderName.FAL).status == "ok"


def paid_settings(tmp_path: Path, url: str, **fal: Any) -> AvatarSettings:
    given = {"key": "sandbox-key", "queue_url": url, "rest_url": url, "api_url": f"{url}/v1", **fal}
    return settings(tmp_path, provider="fal", fal=given, download={"allow_private_hosts": True})


async def about(given: AvatarSettings) -> dict[str, tuple[str, str]]:
    """The last finding of each name about the provider, and what to do."""
    return {
        found.name: (found.status, f"{found.detail} {found.hint}")
        for found in await doctor.about_provider(given)
    }


async def test_doctor_asks_the_provider_what_a_job_would(tmp_path: Path, sandbox: Sandbox) -> None:
    """The key is taken, the price is the account's, and what cannot be tried before a render is said. It is free."""
    found = await about(paid_settings(tmp_path, sandbox.url))
    assert {name: status for name, (status, _) in found.items()} == dict.fromkeys(found, "ok")
    assert "takes the key" in found["provider fal"][1]
    assert "as fal's list has it" in found["price"][1]
    assert "not tried" in found["downloads"][1]
    assert sandbox.state()["posts"] == 0


async def test_doctor_compares_the_price_with_the_accounts_own(tmp_path: Path, sandbox: Sandbox) -> None:
    """Another price is a warning that names the setting; one that is not per second is not compared."""
    sandbox.reset(price_factor=0.9)
    status, text = (await about(paid_settings(tmp_path, sandbox.url)))["price"]
    assert status == "warn"
    assert "AVATAR_MODELS__KLING_AI_AVATAR_V2_PRO__FAL__PRICE_PER_SECOND=0.1035" in text
    sandbox.reset(unit="video")
    assert "could not be compared" in (await about(paid_settings(tmp_path, sandbox.url)))["price"][1]
    sandbox.behave("pricing", "server_error")
    assert (await about(paid_settings(tmp_path, sandbox.url)))["price"][0] == "warn"


@pytest.mark.parametrize(
    ("change", "seen"), [({"key": "wrong"}, "refused the key"), ({"queue_url": NOBODY}, "asked")]
)
async def test_doctor_fails_on_a_key_or_a_way_that_does_not_work(
    tmp_path: Path, sandbox: Sandbox, change: dict[str, Any], seen: str
) -> None:
    """A wrong key and an address that nobody answers at are failures, before anything is sent."""
    status, text = (await about(paid_settings(tmp_path, sandbox.url, **change)))["provider fal"]
    assert status == "fail"
    assert seen in text
