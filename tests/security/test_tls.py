"""TLS is verified in every call, and nothing in the environment turns that off."""

import asyncio
import json
import os
import sys
from pathlib import Path

from tests.providers.certificates import Certificate
from tests.providers.sockets import Server, Visit, serving

ROOT = Path(__file__).parents[2]
#: What turns verification off in other programs, or is said to.
TURNED_OFF = {
    "PYTHONHTTPSVERIFY": "0",
    "SSL_VERIFY": "false",
    "HTTPX_VERIFY": "0",
    "REQUESTS_CA_BUNDLE": "",
    "CURL_CA_BUNDLE": "",
    "CURL_INSECURE": "1",
    "NODE_TLS_REJECT_UNAUTHORIZED": "0",
    "GIT_SSL_NO_VERIFY": "1",
    "PREFECT_API_TLS_INSECURE_SKIP_VERIFY": "true",
    "AVATAR_TLS_VERIFY": "false",
    "AVATAR_STORE__SECURE": "true",
}


async def empty(visit: Visit) -> None:
    await visit.answer(200, {})


async def calls(server: Server, folder: Path, **variables: str) -> dict[str, str]:
    """What became of every kind of call in a process of its own with these variables."""
    url = f"https://localhost:{server.port}"
    own = {"PYTHONPATH": str(ROOT), "AVATAR_STATE_DIR": str(folder)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.security.tls_calls", url,
        cwd=folder, env=os.environ | own | variables, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said, _ = await process.communicate()
    told: dict[str, str] = json.loads(said)
    return told


async def test_a_server_that_cannot_prove_its_name_gets_nothing(tmp_path: Path) -> None:
    """A self-signed certificate: no request is sent, by any client, and the error says that it is the certificate."""
    async with serving(empty, tls=Certificate("localhost").server) as server:
        told = await calls(server, tmp_path, **TURNED_OFF)
    assert len(told) == 12
    assert [name for name, outcome in told.items() if outcome == "answered"] == []
    assert server.connections == 0  # that got through the handshake
    unclear = {name for name, words in told.items() if "certificate" not in words.lower()}
    assert unclear == {
        "Prefect API",
        "webhook keys",
    }  # the one is asked whether it answers, the other logs it
    assert told["fal submit"].startswith("NotSent")
    assert told["Pixazo submit"].startswith("NotSent")


async def test_an_authority_of_ones_own_can_be_trusted(tmp_path: Path) -> None:
    """SSL_CERT_FILE names it; then the server is spoken to, and only by the name in its certificate."""
    right, wrong = Certificate("localhost"), Certificate("other.example")
    (tmp_path / "ca.pem").write_bytes(right.pem + wrong.pem)
    trust = {"SSL_CERT_FILE": str(tmp_path / "ca.pem")}
    async with serving(empty, tls=right.server) as server:
        told = await calls(server, tmp_path, **trust)
    assert not [words for words in told.values() if "certificate" in words.lower()]
    assert len(server.visits) >= len(told)
    async with serving(empty, tls=wrong.server) as server:
        await calls(server, tmp_path, **trust)
    assert server.connections == 0
