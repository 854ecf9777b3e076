"""A Prefect API as people have it: behind headers, in a profile, on a server that cannot answer just now."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest

from avatar.local import prefect_client
from avatar.local.prefect_client import PrefectAccess

CLOUD = """
active = "cloud"
[profiles.cloud]
PREFECT_API_URL = "https://api.example.com/api"
PREFECT_API_KEY = "pnu_1"
PREFECT_CLIENT_CUSTOM_HEADERS = '{"CF-Access-Client-Id": "me"}'
[profiles.other]
PREFECT_API_URL = "https://other.example.com/api"
"""


@pytest.fixture(autouse=True)
def own_profiles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A place for Prefect's profiles, and a directory without a `.env`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_PROFILES_PATH", str(tmp_path / "profiles.toml"))
    monkeypatch.setattr(prefect_client, "PAUSES", (0.0, 0.0))
    return tmp_path / "profiles.toml"


def test_the_active_profile_counts(own_profiles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `prefect cloud login` leaves it; PREFECT_PROFILE names another, and the environment wins."""
    own_profiles.write_text(CLOUD)
    access = PrefectAccess()
    assert access.api_url == "https://api.example.com/api"
    assert access.headers() == {"Authorization": "Bearer pnu_1", "CF-Access-Client-Id": "me"}
    monkeypatch.setenv("PREFECT_PROFILE", "other")
    assert PrefectAccess().api_url == "https://other.example.com/api"
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    assert PrefectAccess().api_url == "http://127.0.0.1:4200/api"


@pytest.mark.parametrize(
    "text", ["", "active = ", 'active = "local"\n[profiles]\nlocal = 1', 'active = "gone"']
)
def test_a_file_without_a_usable_profile_is_none(own_profiles: Path, text: str) -> None:
    """Nothing is taken from it."""
    own_profiles.write_text(text)
    assert PrefectAccess().api_url is None


def test_children_get_what_only_the_profile_has(own_profiles: Path) -> None:
    """A flow's process has another PREFECT_HOME, and so no such profile."""
    own_profiles.write_text(CLOUD)
    variables = PrefectAccess().variables()
    assert variables["PREFECT_API_KEY"] == "pnu_1"
    assert json.loads(variables["PREFECT_CLIENT_CUSTOM_HEADERS"]) == {"CF-Access-Client-Id": "me"}


@contextmanager
def api(*answers: int, header: str = "") -> Iterator[tuple[str, list[str]]]:
    """An API that answers with these codes in turn, the last one from then on; 401 without the header."""
    left, seen = list(answers), list[str]()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            code = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(code if not header or self.headers.get(header) else 401)
            body = b'{"id": 1}'
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/api", seen
        server.shutdown()


@pytest.mark.parametrize("code", [500, 502, 503, 504, 429, 408])
def test_a_server_that_cannot_answer_just_now_is_waited_for(code: int) -> None:
    """A locked database, a restart, a full queue; a no is told at once."""
    with api(code, code, 200) as (url, seen):
        assert prefect_client.read(url, "/deployments/x") == {"id": 1}
        assert len(seen) == 3
    with api(403) as (url, seen), pytest.raises(httpx.HTTPStatusError):
        prefect_client.read(url, "/deployments/x")
    assert len(seen) == 1


def test_the_wait_ends() -> None:
    """A server that stays away is an error in the end."""
    with api(503) as (url, seen), pytest.raises(httpx.HTTPStatusError):
        prefect_client.read(url, "/deployments/x")
    assert len(seen) == 3


def test_the_users_headers_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """PREFECT_CLIENT_CUSTOM_HEADERS, also to the question whether it is there at all."""
    with api(200, header="X-Proxy") as (url, _):
        assert not prefect_client.healthy(url)
        monkeypatch.setenv("PREFECT_CLIENT_CUSTOM_HEADERS", '{"X-Proxy": "let me in"}')
        assert prefect_client.healthy(url)
        assert prefect_client.read(url, "/deployments/x") == {"id": 1}
