"""How inputs are named: what is told of a link, and names that are no file and no key."""

import pytest

from avatar.errors import InvalidInput
from avatar.job.inputs import ingest, open_input
from avatar.models import shown
from avatar.workspace import Workspace
from tests.providers.sockets import serving

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8
SECRET = "?X-Amz-Signature=c0ffee"


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("https://a:pa55word@h/p.png?X-Amz-Signature=c0ffee#x", "https://h/p.png"),
        ("HTTPS://h/p.png?a=b@c", "HTTPS://h/p.png"),
        ("https://a:pa55/word@h/p.png", "https://h/p.png"),
        ("https://h?q", "https://h"),
        ("https://h/#f", "https://h/"),
        ("s3://avatar/a b?.png", "s3://avatar/a b?.png"),
        ("/home/anna/what?.png", "/home/anna/what?.png"),
    ],
)
def test_a_link_is_told_without_its_secrets(source, told):
    """Query, fragment and user of a link go; paths and keys stay as they are."""
    assert shown(source) == told


@pytest.mark.parametrize(
    "source",
    ["~nobody-of-this-name/p.png", "a\0b.png", "x" * 5000, "/dev/zero", "/", "..", "data:image/png;base64,AAAA", "-"],
)  # fmt: skip
async def test_what_is_no_file_is_refused(make_settings, source):
    """Devices, folders and impossible names are told, not read."""
    workspace = Workspace(make_settings())
    with pytest.raises(InvalidInput, match="is not a file on this machine, or cannot be read"):
        async with open_input(workspace, source, what="portrait"):
            raise AssertionError("it was taken")
    await workspace.aclose()


@pytest.mark.parametrize(
    "source", ["s3://avatar/../etc", "s3://avatar/%2e%2e/p.png", "s3://avatar/a\nb", "s3://avatar/"]
)
async def test_a_key_that_cannot_be_is_refused(tmp_path, make_settings, source):
    """A key with `..` or control characters is asked for nowhere."""
    workspace = Workspace(make_settings())
    named = source.replace("avatar", workspace.store.bucket)
    with pytest.raises(InvalidInput, match="cannot be used as an object key"):
        await ingest(workspace, named, what="voice")
    await workspace.aclose()


async def test_content_is_what_names_an_input(make_settings):
    """The same link with other bytes is another asset; other links with the same bytes are the same."""
    bodies = [PNG, PNG, PNG + b"x"]
    async with serving(lambda visit: visit.answer(200, bodies.pop(0), "image/png")) as server:
        workspace = Workspace(make_settings())
        links = ("a.png" + SECRET, "b.png", "a.png" + SECRET)
        first, second, third = [
            await ingest(workspace, f"{server.url}/{link}", what="portrait") for link in links
        ]
        await workspace.aclose()
    assert first == second != third
    assert (first.content_type, first.size) == ("image/png", len(PNG))
