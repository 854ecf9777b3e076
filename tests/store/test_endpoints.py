"""S3 as people have it: whose keys, which region, where the bucket stands, and what answers that are not S3's mean."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import SecretStr

from avatar.errors import AvatarError, NotConfigured, StoreUnavailable
from avatar.settings_sections import StoreSettings
from avatar.store.store import Store

KEYS = {"access_key": SecretStr("AKIA"), "secret_key": SecretStr("secret-secret")}


async def link(**given: object) -> tuple[str, str, dict[str, list[str]]]:
    """Host and path of a signed link to `a/b`, and its query."""
    store = Store(StoreSettings.model_validate(KEYS | given))
    try:
        parts = urlsplit(await store.presign("a/b", expires=timedelta(hours=1)))
    finally:
        await store.aclose()
    return parts.netloc, parts.path, parse_qs(parts.query)


@pytest.mark.parametrize(
    ("endpoint", "region"),
    [
        ("s3.eu-central-1.amazonaws.com", "eu-central-1"),
        ("s3.dualstack.eu-west-3.amazonaws.com", "eu-west-3"),
        ("s3-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
        ("s3.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("https://s3.eu-central-003.backblazeb2.com", "eu-central-003"),
        ("https://fra1.digitaloceanspaces.com", "fra1"),
        ("https://acct.r2.cloudflarestorage.com", "auto"),
        ("https://storage.googleapis.com", "auto"),
        ("s3.amazonaws.com", "us-east-1"),
        ("minio.example.com:9000", "us-east-1"),
    ],
)
async def test_the_region_is_what_the_host_says(endpoint: str, region: str) -> None:
    """Without a setting; with the same one nothing changes."""
    for given in ({}, {"region": region}):
        _, _, query = await link(endpoint=endpoint, **given)
        assert query["X-Amz-Credential"][0].split("/")[2] == region


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"endpoint": "s3.eu-central-1.amazonaws.com", "region": "us-east-1"}, "AVATAR_STORE__REGION"),
        ({"endpoint": "avatar.s3.eu-central-1.amazonaws.com"}, "s3.eu-central-1.amazonaws.com"),
        ({"endpoint": "other.s3.eu-central-1.amazonaws.com"}, "without the bucket"),
        ({"endpoint": "https://minio.example.com/s3"}, "without a path"),
        ({"endpoint": "minio.example.com", "secret_key": None}, "AVATAR_STORE__SECRET_KEY"),
    ],
)
async def test_what_cannot_work_is_refused_before_anything_is_sent(given: dict[str, str], named: str) -> None:
    """A region that contradicts the host, a bucket in the host, a path, half a pair of keys: each with what to set."""
    with pytest.raises(NotConfigured) as refused:
        await link(**given)
    assert named in (refused.value.hint or "")


async def test_a_host_that_is_called_like_the_bucket_is_one() -> None:
    """A server of one's own may be."""
    host, path, _ = await link(endpoint="avatar.example.com")
    assert (host, path) == ("avatar.example.com", "/avatar/a/b")


@pytest.mark.parametrize(
    ("addressing", "place"),
    [
        ("auto", "s3.example.com/avatar"),
        ("path", "s3.example.com/avatar"),
        ("virtual", "avatar.s3.example.com"),
    ],
)
async def test_the_bucket_stands_where_it_is_asked_to(addressing: str, place: str) -> None:
    """In the path or in the host."""
    host, path, _ = await link(endpoint="s3.example.com", addressing=addressing)
    assert host + path == f"{place}/a/b"


async def test_temporary_keys_come_with_their_token() -> None:
    """It is in what is signed."""
    _, _, query = await link(endpoint="s3.example.com", session_token=SecretStr("token"))
    assert query["X-Amz-Security-Token"] == ["token"]


@pytest.fixture
def no_keys_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine where nobody has keys."""
    for name in (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_PROFILE",
        "AWS_ROLE_ARN",
    ):
        monkeypatch.delenv(name, raising=False)
    for name in ("MINIO_ACCESS_KEY", "MINIO_SECRET_KEY", "MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


@pytest.mark.parametrize(
    "variables",
    [
        {"AWS_ACCESS_KEY_ID": "found", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "t"},
        {"MINIO_ACCESS_KEY": "found", "MINIO_SECRET_KEY": "s"},
        {"AWS_PROFILE": "work"},
    ],
)
async def test_keys_are_found_where_the_sdk_looks(
    no_keys_around: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variables: dict[str, str]
) -> None:
    """Variables of AWS and MinIO, and a profile; those that are set win."""
    (tmp_path / "credentials").write_text("[work]\naws_access_key_id = found\naws_secret_access_key = s\n")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    none = {"access_key": None, "secret_key": None}
    _, _, query = await link(endpoint="s3.example.com", **none)
    assert query["X-Amz-Credential"][0].startswith("found/")
    assert query.get("X-Amz-Security-Token", [None])[0] == variables.get("AWS_SESSION_TOKEN")
    _, _, query = await link(endpoint="s3.example.com")
    assert query["X-Amz-Credential"][0].startswith("AKIA/")


async def test_no_keys_anywhere_is_a_matter_of_settings(no_keys_around: None) -> None:
    """It names where they are looked for."""
    with pytest.raises(NotConfigured) as refused:
        await link(endpoint="s3.example.com", access_key=None, secret_key=None)
    assert "AWS_ACCESS_KEY_ID" in (refused.value.hint or "")


Answer = Callable[[str], bytes]


@asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[Store]:
    """A store on a server that answers so, by the method."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            (line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b"0"
        )
        await reader.readexactly(int(length))
        writer.write(answer(head.split()[0].decode()))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        store = Store(StoreSettings.model_validate(KEYS | {"endpoint": f"{host}:{port}", "secure": False}))
        try:
            yield store
        finally:
            await store.aclose()


def http(status: str, body: bytes = b"", *headers: str) -> Answer:
    """The same to every request."""
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return lambda method: "\r\n".join(head).encode() + (b"" if method == "HEAD" else body)


def refusal(status: str, code: str, *headers: str) -> Answer:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>m</Message></Error>".encode()
    return http(status, body, "Content-Type: application/xml", *headers)


Call = Callable[[Store], Awaitable[object]]
CALLS: dict[str, Call] = {
    "put": lambda store: store.put("a/b", b"1", content_type="text/plain"),
    "create": lambda store: store.create("a/b", b"1"),
    "get": lambda store: store.get("a/b"),
    "stat": lambda store: store.stat("a/b"),
    "list": lambda store: store.list("a/"),
}


@pytest.mark.parametrize("name", CALLS)
async def test_a_sign_in_page_is_no_store(name: str) -> None:
    """Answered with 200, it is neither an object nor a created one."""
    page = http("200 OK", b"<html>Sign in</html>", "Content-Type: text/html; charset=utf-8")
    async with answering(page) as store:
        with pytest.raises(StoreUnavailable) as refused:
            await CALLS[name](store)
    assert "web page" in (refused.value.hint or "")


@pytest.mark.parametrize(
    ("answer", "advice"),
    [
        (http("413 Request Entity Too Large", b"<html>", "Content-Type: text/html"), "client_max_body_size"),
        (refusal("403 Forbidden", "QuotaExceeded"), "quota"),
        (refusal("507 Insufficient Storage", "XMinioStorageFull"), "quota"),
        (refusal("403 Forbidden", "InvalidAccessKeyId"), "AVATAR_STORE__SESSION_TOKEN"),
        (refusal("403 Forbidden", "SecondLevelDomainForbidden"), "AVATAR_STORE__ADDRESSING"),
        (refusal("403 Forbidden", "RequestTimeTooSkewed"), "clock"),
        (refusal("400 Bad Request", "AuthorizationHeaderMalformed", "x-amz-bucket-region: eu-west-3"), "AVATAR_STORE__REGION"),
        (refusal("301 Moved Permanently", "PermanentRedirect"), "AVATAR_STORE__ENDPOINT"),
    ],
)  # fmt: skip
async def test_a_refusal_comes_with_what_to_do(impatient: None, answer: Answer, advice: str) -> None:
    """For writing and for conditional creating."""
    for name in ("put", "create"):
        async with answering(answer) as store:
            with pytest.raises(AvatarError) as refused:
                await CALLS[name](store)
        assert advice in (refused.value.hint or ""), name


@pytest.mark.parametrize("etag", ["", 'ETag: "0123456789abcdef0123456789abcdef"'])
async def test_a_store_that_encrypts_in_silence_is_read_back(etag: str) -> None:
    """An ETag that is no MD5, or none, says nothing; the bytes do."""
    kept = http("200 OK", b"1", "Content-Type: text/plain", *([etag] if etag else []))
    async with answering(kept) as store:
        await store.put("a/b", b"1", content_type="text/plain")
        with pytest.raises(StoreUnavailable, match="other bytes"):
            await store.put("a/b", b"2", content_type="text/plain")
