"""A finished video that does not arrive as it should."""

import httpx
import pytest

pytest_plugins = ["tests.sandbox.fixtures"]


def fetch(url: str, **headers: str) -> httpx.Response:
    return httpx.get(url, headers=headers, trust_env=False)


class TestADownload:
    def test_is_cut_and_can_be_resumed(self, sandbox, video_url):
        """A cut keeps the announced length; ranges put the whole together again."""
        whole = fetch(video_url).content
        sandbox.behave("media", "cut", after=5000)
        with pytest.raises(httpx.RemoteProtocolError):
            fetch(video_url)
        rest = fetch(video_url, Range="bytes=5000-")
        assert whole[:5000] + rest.content == whole

    def test_is_short_without_a_sign(self, sandbox, video_url):
        """A truncated body with a matching length looks like a success."""
        sandbox.behave("media", "truncated", after=5000)
        answer = fetch(video_url)
        assert (answer.status_code, len(answer.content)) == (200, 5000)

    @pytest.mark.parametrize("status", [403, 404, 410])
    def test_has_expired(self, sandbox, video_url, status):
        """An expired link answers as armed."""
        sandbox.behave("media", "answer", status=status)
        assert fetch(video_url).status_code == status

    def test_is_sent_elsewhere(self, sandbox, video_url):
        """A redirect leads to another host and port, where the video is."""
        sandbox.behave("media", "redirect")
        redirect = fetch(video_url)
        target = redirect.headers["Location"]
        assert (httpx.URL(target).host, redirect.status_code) == ("localhost", 302)
        assert fetch(target).content == fetch(video_url).content

    def test_is_something_else(self, sandbox, video_url):
        """A page, a text under video/mp4, a file that changed: each with status 200."""
        sandbox.behave("media", "html")
        sandbox.behave("media", "wrong_content")
        sandbox.behave("media", "changed")
        page, text, other = fetch(video_url), fetch(video_url), fetch(video_url)
        assert [answer.status_code for answer in (page, text, other)] == [200, 200, 200]
        assert text.headers["Content-Type"] == "video/mp4"
        assert other.headers["ETag"] != fetch(video_url).headers["ETag"]

    def test_ignores_the_range(self, sandbox, video_url):
        """A range is answered with the whole file, as 200 or as a false 206."""
        whole = fetch(video_url).content
        sandbox.behave("media", "ignore_range")
        sandbox.behave("media", "wrong_range")
        told, false = (fetch(video_url, Range="bytes=100-") for _ in range(2))
        assert [(told.status_code, told.content), (false.status_code, false.content)] == [
            (200, whole),
            (206, whole),
        ]
