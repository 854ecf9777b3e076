"""`avatar doctor`: what it finds, and what it tells a person to do."""

from pathlib import Path
from typing import Any

import pytest

from avatar.commands import doctor
from avatar.models import ProviderName
from avatar.settings import AvatarSettings, StoreSettings


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
