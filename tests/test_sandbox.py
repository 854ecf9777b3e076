"""The sandbox is faithful: clients nobody here wrote work against it, and it says what it saw."""

import io
import json
import subprocess
import sys
import time
from itertools import pairwise
from typing import Any

import av
import httpx
import pytest

from tests.sandbox.running import ROOT, Sandbox
from tests.sandbox.samples import SECONDS

pytest_plugins = ["tests.sandbox.fixtures"]

FAL = "/fal-ai/kling-video/ai-avatar/v2/pro"
PIXAZO = "/kling-ai-avatar-v2-pro-789/v1/kling-ai-avatar-v2-pro-request"


@pytest.fixture
def files(sandbox_inputs: str) -> str:
    return sandbox_inputs


@pytest.fixture
def body(files: str) -> dict[str, str]:
    return {"image_url": f"{files}/portrait.png", "audio_url": f"{files}/voice.wav", "prompt": "smiling"}


@pytest.fixture
def fal(fal_wire: httpx.Client) -> httpx.Client:
    return fal_wire


@pytest.fixture
def pixazo(pixazo_wire: httpx.Client) -> httpx.Client:
    return pixazo_wire


def stock(action: str, sandbox: Sandbox, arguments: dict[str, Any]) -> dict[str, Any]:
    """Run fal's own client in a process of its own."""
    command = [sys.executable, "-m", "tests.sandbox.stock_client", action, sandbox.url, sandbox.key]
    done = subprocess.run(
        [*command, json.dumps(arguments)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def events(client: httpx.Client, receipt: dict[str, Any], logs: str = "1") -> list[dict[str, Any]]:
    """Every status the stream tells, to its end."""
    with client.stream("GET", receipt["status_url"] + "/stream", params={"logs": logs}) as stream:
        return [
            json.loads(line.removeprefix("data: "))
            for line in stream.iter_lines()
            if line.startswith("data: ")
        ]


def finished(client: httpx.Client, body: dict[str, str]) -> httpx.Response:
    """Submit, wait for the end, and fetch the result."""
    receipt = client.post(FAL, json=body).json()
    events(client, receipt)
    return client.get(receipt["response_url"])


def polled(look: Any) -> list[dict[str, Any]]:
    """Every distinct look, until one that ends."""
    seen: list[dict[str, Any]] = []
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        answer = look().json()
        if not seen or seen[-1]["status"] != answer["status"]:
            seen.append(answer)
        if answer["status"] in {"COMPLETED", "FAILED", "ERROR"}:
            return seen
    raise TimeoutError(seen)


class TestFalsOwnClient:
    def test_walks_from_submit_to_result(self, sandbox, body):
        """fal-client submits, follows the status, resumes by id for the result; a late cancel is refused with 400."""
        sandbox.reset(queue_seconds=0.5, render_seconds=0.5)
        told = stock("walk", sandbox, body)
        assert told["words"] == ["Queued", "InProgress", "Completed"]
        assert told["result"]["video"]["content_type"] == "video/mp4"
        assert told["cancel"] == 400
        (accepted,) = sandbox.state()["accepted"]
        assert (accepted["request_id"], accepted["tag"]) == (told["id"], "stock")

    def test_subscribes(self, sandbox, body):
        """fal-client's one-call form returns the video."""
        assert stock("subscribe", sandbox, body)["result"]["duration"] == pytest.approx(SECONDS, abs=0.1)

    def test_sees_the_documented_422_for_a_bad_portrait(self, sandbox, body, files):
        """A portrait that is too small is COMPLETED, then a 422 with a `detail` list from the result."""
        told = stock("subscribe", sandbox, body | {"image_url": f"{files}/tiny.png"})
        assert told["status"] == 422
        (entry,) = told["body"]["detail"]
        assert (entry["type"], entry["loc"]) == ("image_too_small", ["body", "image_url"])
        assert entry["ctx"] == {"min_width": 300, "min_height": 300}

    def test_cancels(self, sandbox, body):
        """fal-client takes a queued request out of the queue, and it is never rendered."""
        sandbox.reset(queue_seconds=60)
        assert stock("cancel", sandbox, body) == {"word": "Completed", "error_type": "client_cancelled"}
        assert sandbox.state()["charged_seconds"] == 0

    def test_uploads(self, sandbox):
        """fal-client gets a token, uploads, and what it uploaded is public."""
        url = stock("upload", sandbox, {"text": "hello"})["url"]
        assert httpx.get(url, trust_env=False).text == "hello"
        assert sandbox.state()["counts"]["upload_file"] == 1

    def test_posts_ten_times_when_the_answer_is_lost(self, sandbox, body):
        """fal-client 1.0.3 pays ten times for one lost answer; in 45 s, here with its pauses shrunk 1000 times."""
        sandbox.behave("submit", "drop", times=99)
        told = stock("lost", sandbox, body)
        assert told["error"] == "RemoteProtocolError"
        assert told["would_have_waited"] > 20
        assert (sandbox.state()["posts"], sandbox.state()["accepts"]) == (10, 10)


class TestFalsWire:
    def test_walks_the_states(self, sandbox, fal, body):
        """The queue position counts down, logs grow, 202 turns into 200."""
        sandbox.reset(queue_seconds=0.6, render_seconds=1.2)
        receipt = fal.post(FAL, json=body).json()
        assert fal.get(receipt["status_url"]).status_code == 202
        told = events(fal, receipt)
        assert list(dict.fromkeys(event["status"] for event in told)) == [
            "IN_QUEUE",
            "IN_PROGRESS",
            "COMPLETED",
        ]
        assert receipt["queue_position"] == 2
        assert len(told[-1]["logs"]) == 4
        assert fal.get(receipt["status_url"]).status_code == 200
        assert fal.get(receipt["response_url"] + "/response").headers["X-Fal-Billable-Units"] == "2.560"

    def test_wants_the_key(self, sandbox, body):
        """No key, and a wrong one, are 401."""
        for headers in ({}, {"Authorization": "Key wrong"}, {"Authorization": sandbox.key}):
            assert (
                httpx.post(sandbox.url + FAL, json=body, headers=headers, trust_env=False).status_code == 401
            )
        assert sandbox.state()["accepts"] == 0

    def test_does_not_know_what_it_did_not_accept(self, fal):
        """An unknown id is a 404 that says NOT_FOUND, for every call on it."""
        base = "/fal-ai/kling-video/requests/nobody"
        for method, path in (("GET", base), ("GET", base + "/status"), ("PUT", base + "/cancel")):
            answer = fal.request(method, path)
            assert (answer.status_code, answer.json()) == (404, {"status": "NOT_FOUND"})

    def test_refuses_a_longer_queue_than_allowed(self, sandbox, fal, body):
        """`fal_max_queue_length` is a 429, and not accepted."""
        sandbox.reset(slots=1, render_seconds=30)
        codes = [fal.post(FAL, json=body, params={"fal_max_queue_length": 1}).status_code for _ in range(4)]
        assert codes.count(429) == 4 - sandbox.state()["accepts"]
        assert codes[-1] == 429

    @pytest.mark.parametrize(
        "case",
        [
            ({"image_url": "missing.png"}, {}, "file_download_error"),
            ({"image_url": "strip.png"}, {}, "value_error"),
            ({"image_url": "page.png"}, {}, "image_load_error"),
            ({"image_url": "moving.gif"}, {}, "unsupported_image_format"),
            ({"image_url": "portrait.png"}, {"max_image_bytes": 1000}, "file_too_large"),
            ({"audio_url": "brief.wav"}, {}, "audio_duration_too_short"),
            ({"audio_url": "voice.wav"}, {"max_seconds": 2.2}, "audio_duration_too_long"),
            ({"audio_url": "voice.ogg"}, {}, "unsupported_audio_format"),
            ({"audio_url": "voice.wav"}, {"max_audio_bytes": 1000}, "file_too_large"),
        ],
    )
    def test_refuses_inputs_at_the_result(self, sandbox, fal, body, files, case):
        """Each unusable input is a 422 of its documented type."""
        change, options, kind = case
        sandbox.reset(render_seconds=0, **options)
        answer = finished(fal, body | {name: f"{files}/{value}" for name, value in change.items()})
        assert (answer.status_code, answer.json()["detail"][0]["type"]) == (422, kind)


class TestTheVideo:
    @pytest.fixture
    def video(self, fal, body):
        return httpx.get(finished(fal, body).json()["video"]["url"], trust_env=False)

    def test_decodes_to_the_end_at_the_voices_length(self, video):
        """H.264 yuv420p and AAC, every frame different, 2.5 s of voice and at most 0.1 s more picture."""
        with av.open(io.BytesIO(video.content)) as container:
            picture, sound = container.streams.video[0], container.streams.audio[0]
            assert (picture.codec_context.name, picture.codec_context.pix_fmt) == ("h264", "yuv420p")
            assert sound.codec_context.name == "aac"
            frames = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
            container.seek(0)
            samples = sum(frame.samples for frame in container.decode(audio=0))
        assert samples / 44100 == pytest.approx(SECONDS, abs=0.05)
        assert SECONDS <= len(frames) / 25 <= SECONDS + 0.1
        assert all((one != other).any() for one, other in pairwise(frames))

    def test_can_be_fetched_in_ranges(self, video):
        """A range is a 206 of exactly those bytes; beyond the end it is a 416."""
        rest = httpx.get(video.request.url, headers={"Range": "bytes=1000-"}, trust_env=False)
        assert (rest.status_code, rest.content) == (206, video.content[1000:])
        assert rest.headers["ETag"] == video.headers["ETag"]
        beyond = {"Range": f"bytes={len(video.content)}-"}
        assert httpx.get(video.request.url, headers=beyond, trust_env=False).status_code == 416

    def test_notices_a_key_sent_to_it(self, sandbox, fal, body):
        """Fetching the video with the key is recorded as a leak; without it nothing is."""
        url = finished(fal, body).json()["video"]["url"]
        httpx.get(url, trust_env=False)
        assert sandbox.state()["leaks"] == []
        fal.get(url)
        (leak,) = sandbox.state()["leaks"]
        assert leak["path"] == httpx.URL(url).path
        assert leak["value"] == f"Key {sandbox.key}"


class TestPixazosWire:
    def test_first_generation_as_its_page_shows(self, sandbox, pixazo, body):
        """POST, then POST …-request-result through IN_PROGRESS with its progress to COMPLETED with a video."""
        sandbox.reset(queue_seconds=0.3, render_seconds=0.5)
        receipt = pixazo.post(PIXAZO, json=body).json()
        assert receipt.keys() == {"status", "request_id", "response_url"}
        seen = polled(lambda: pixazo.post(PIXAZO + "-result", json={"request_id": receipt["request_id"]}))
        assert [look["status"] for look in seen] == ["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]
        assert seen[1].keys() == {"status", "request_id", "estimated_completion_time", "progress_percent"}
        assert seen[2]["video"].keys() == {"url", "width", "height", "duration", "content_type"}
        assert httpx.get(seen[2]["video"]["url"], trust_env=False).headers["Content-Type"] == "video/mp4"

    def test_second_generation(self, sandbox, pixazo, body):
        """POST is answered with 202 and a polling_url, to be read until COMPLETED with an output."""
        sandbox.reset(pixazo_generation="v2", queue_seconds=0.3, render_seconds=0.5)
        submitted = pixazo.post(PIXAZO, json=body)
        assert (submitted.status_code, submitted.json()["status"]) == (202, "QUEUED")
        seen = polled(lambda: pixazo.get(submitted.json()["polling_url"]))
        assert [look["status"] for look in seen] == ["QUEUED", "PROCESSING", "COMPLETED"]
        (url,) = seen[-1]["output"]["media_url"]
        assert httpx.get(url, trust_env=False).headers["Content-Type"] == "video/mp4"

    def test_generations_do_not_answer_for_each_other(self, sandbox, pixazo, body):
        """A v1 request is a 404 to the v2 look."""
        receipt = pixazo.post(PIXAZO, json=body).json()
        assert pixazo.get(f"/v2/requests/status/{receipt['request_id']}").status_code == 404

    @pytest.mark.parametrize(
        "case",
        [
            ({"Ocp-Apim-Subscription-Key": "wrong"}, {}, 401),
            ({"Cache-Control": "x"}, {}, 400),
            ({}, {"audio_url": 3}, 400),
        ],
    )
    def test_refuses_with_an_error_text(self, sandbox, pixazo, body, case):
        """A wrong key, a missing header or field is refused at the submit with `error`, and not accepted."""
        headers, change, status = case
        answer = pixazo.post(PIXAZO, json=body | change, headers=headers)
        assert (answer.status_code, list(answer.json())) == (status, ["error"])
        assert sandbox.state()["accepts"] == 0

    def test_fails_for_a_bad_portrait(self, pixazo, body, files):
        """An unusable portrait ends as FAILED."""
        receipt = pixazo.post(PIXAZO, json=body | {"image_url": f"{files}/tiny.png"}).json()
        seen = polled(lambda: pixazo.post(PIXAZO + "-result", json={"request_id": receipt["request_id"]}))
        assert (seen[-1]["status"], seen[-1]["error"]) == ("FAILED", "Image too small")


class TestTheProcess:
    def test_ends_with_the_test_that_started_it(self):
        """When its owner dies, and with it the pipe to it, a sandbox stops by itself."""
        running = Sandbox.launch()
        running.process.stdin.close()
        assert running.process.wait(20) == 0
        running.stop()
