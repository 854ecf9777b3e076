"""`avatar doctor` names what is left open to others, once each, with what to do; and nothing where all is well."""

import asyncio
import base64
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from avatar.commands import network_exposure as exposure
from avatar.local.prefect_client import PrefectAccess
from avatar.settings import AvatarSettings
from tests.providers.sockets import Visit, closed_port, serving

Ask = Callable[..., Awaitable[list[exposure.Finding]]]
TOKEN = "0123456789abcdef"
#: What is set, which finding it makes, and a word of what is to be done.
LEFT_OPEN = {
    "a gallery for all without a password": ({"gallery": {"host": "0.0.0.0"}}, "gallery", "AVATAR_GALLERY__PASSWORD"),
    "on IPv6": ({"gallery": {"host": "::"}}, "gallery", "AVATAR_GALLERY__PASSWORD"),
    "a bridge for all without a token": ({"bridge": {"host": "0.0.0.0"}}, "bridge", "AVATAR_BRIDGE__TOKEN"),
    "a gallery on plain http": ({"gallery": {"public_url": "http://videos.example/"}}, "gallery", "https://"),
    "a bridge on plain http": ({"bridge": {"public_url": "http://hooks.example/"}}, "bridge", "https://"),
    "links into the network": ({"download": {"allow_private_hosts": True}}, "downloads", "ALLOW_PRIVATE_HOSTS"),
    "fal without a limit": ({"provider": "fal"}, "budget", "AVATAR_BUDGET__PER_DAY"),
    "Pixazo as the second without a limit": ({"failover": "pixazo"}, "budget", "AVATAR_BUDGET__PER_DAY"),
}  # fmt: skip
#: What looks like it, and is meant.
CLOSED = {
    "as it comes": {},
    "a gallery for all with a password": {"gallery": {"host": "0.0.0.0", "password": "x"}},
    "a bridge for all with a token": {"bridge": {"host": "0.0.0.0", "token": TOKEN}},
    "public addresses with https": {"gallery": {"public_url": "https://v.example"}, "bridge": {"public_url": "https://h.example"}},
    "plain http on this machine": {"bridge": {"public_url": "http://127.0.0.1:4298"}},
    "fal with a limit": {"provider": "fal", "budget": {"per_day": "20"}},
}  # fmt: skip


def look(folder: Path, given: dict[str, Any], env_file: Path | None = None) -> list[exposure.Finding]:
    settings = AvatarSettings(_env_file=None, state_dir=folder / "state", **given)
    return [*exposure.find_exposure(settings, env_file or folder / ".env")]


@pytest.mark.parametrize(("given", "name", "hint"), LEFT_OPEN.values(), ids=LEFT_OPEN)
def test_what_is_open_is_told(tmp_path: Path, given: dict[str, Any], name: str, hint: str) -> None:
    """One warning, by the name of the part, with the setting that closes it."""
    (finding,) = look(tmp_path, given)
    assert (finding.name, finding.status) == (name, "warn")
    assert hint in finding.hint


@pytest.mark.parametrize("given", CLOSED.values(), ids=CLOSED)
def test_what_is_meant_is_not_told(tmp_path: Path, given: dict[str, Any]) -> None:
    """Defaults and guarded openings make no noise."""
    assert look(tmp_path, given) == []


@pytest.mark.parametrize(("mode", "told"), [(0o600, 0), (0o400, 0), (0o640, 1), (0o604, 1), (0o620, 1)])
def test_a_readable_env_file_is_told(tmp_path: Path, mode: int, told: int) -> None:
    """Whoever else may read or write it: it may hold keys. Its content is not looked at."""
    (tmp_path / ".env").write_text("AVATAR_FAL__KEY=secret-key")
    (tmp_path / ".env").chmod(mode)
    found = look(tmp_path, {})
    assert [finding.name for finding in found] == [".env"] * told
    assert "secret-key" not in str(found)


def test_a_readable_state_directory_is_told(tmp_path: Path) -> None:
    """One that was there before, with the modes of other folders."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o755)
    assert [finding.name for finding in look(tmp_path, {})] == ["state directory"]


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Ask:
    """A Prefect API that asks for a password, or not; reached by a name that counts as another machine."""
    monkeypatch.setattr(exposure, "is_loopback", lambda _: False)

    async def ask(password: str, **given: str) -> list[exposure.Finding]:
        async def act(visit: Visit) -> None:
            known = base64.b64encode(password.encode()).decode() in visit.headers.get("authorization", "")
            await visit.answer(200 if known or not password else 401, "3.9")

        access = PrefectAccess(_env_file=None, **given)
        async with serving(act) as server:
            found = await asyncio.to_thread(lambda: [*exposure.prefect_access(f"{server.url}/api", access)])
        assert all("authorization" not in visit.headers for visit in server.visits)
        return found

    return ask


async def test_a_prefect_api_without_a_password_is_told(elsewhere: Ask) -> None:
    """It is asked without credentials, and plain http on the way there is told as well."""
    plain, openly = await elsewhere("")
    assert "plain http" in plain.detail
    assert "answers without credentials" in openly.detail
    assert "PREFECT_SERVER_API_AUTH_STRING" in openly.hint
    *_, useless = await elsewhere("", api_auth_string="admin:pw")
    assert "not asked for there" in useless.detail
    assert "admin:pw" not in useless.detail


async def test_a_prefect_api_with_a_password_is_well(elsewhere: Ask) -> None:
    """Only the plain http is told."""
    (plain,) = await elsewhere("admin:pw")
    assert "plain http" in plain.detail


def test_this_machines_own_api_is_well() -> None:
    """On loopback nobody else reaches it; one that does not answer says nothing."""
    access = PrefectAccess(_env_file=None)
    assert [*exposure.prefect_access(f"http://127.0.0.1:{closed_port()}/api", access)] == []


@pytest.mark.parametrize(
    ("address", "ours"),
    [
        ("127.0.0.1", True), ("127.8.9.1:80", True), ("localhost", True), ("http://[::1]:4200/api", True), ("a.localhost", True),
        ("::1", True), ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("localhost.example", False),
    ],
)  # fmt: skip
def test_loopback_is_told_from_the_rest(address: str, ours: bool) -> None:
    """By the address, in any notation, or by the reserved name."""
    assert exposure.is_loopback(address) is ours
