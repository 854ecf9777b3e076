"""Each misdeed does what its name says, and the record of it is true."""

import io
from collections.abc import Iterator
from itertools import pairwise
from urllib.parse import quote

import av
import httpx
import numpy as np
import pytest

from tests.sandbox.running import Sandbox

pytest_plugins = ["tests.sandbox.fixtures"]

FAL = "/fal-ai/kling-video/ai-avatar/v2/pro"
PIXAZO = "/kling-ai-avatar-v2-pro-789/v1/kling-ai-avatar-v2-pro-request"


def decoded(video: bytes) -> tuple[list[np.ndarray], np.ndarray, int]:
    """Pictures as RGB, sound as samples, sample rate."""
    with av.open(io.BytesIO(video)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        container.seek(0)
        pieces = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
        return frames, np.concatenate(pieces), container.streams.audio[0].rate


def pairwise_pixels(frames: list[np.ndarray]) -> Iterator[np.ndarray]:
    return (np.stack(pair).astype(int) for pair in pairwise(frames))


def counted(sandbox: Sandbox) -> tuple[int, int]:
    state = sandbox.state(brief=True)
    return state["posts"], state["accepts"]


class TestTheAnswerToASubmit:
    @pytest.mark.parametrize(
        ("do", "error"),
        [("drop", httpx.RemoteProtocolError), ("rst", httpx.ReadError), ("half", httpx.RemoteProtocolError)],
    )
    def test_is_lost_after_it_was_accepted(self, sandbox, fal_wire, body, do, error):
        """The request is accepted, and the client sees a broken connection."""
        sandbox.behave("submit", do)
        with pytest.raises(error):
            fal_wire.post(FAL, json=body)
        assert counted(sandbox) == (1, 1)
        assert fal_wire.post(FAL, json=body).status_code == 200

    @pytest.mark.parametrize(("do", "accepts"), [("hang", 0), ("delay", 1)])
    def test_comes_too_late(self, sandbox, fal_wire, body, do, accepts):
        """A client that does not wait sees a time-out, whether it was accepted or not even read."""
        sandbox.behave("submit", do)
        with pytest.raises(httpx.ReadTimeout):
            fal_wire.post(FAL, json=body, timeout=0.3)
        assert counted(sandbox) == (1, accepts)

    @pytest.mark.parametrize("accept", [True, False])
    def test_is_an_nginx_page_before_or_after_accepting(self, sandbox, fal_wire, body, accept):
        """A 502 in HTML says nothing about whether the request was accepted: both happen."""
        sandbox.behave("submit", "bad_gateway", accept=accept)
        answer = fal_wire.post(FAL, json=body)
        assert (answer.status_code, answer.headers["Content-Type"]) == (502, "text/html; charset=utf-8")
        assert "nginx" in answer.text
        assert counted(sandbox) == (1, int(accept))

    @pytest.mark.parametrize(
        ("do", "status"),
        [
            ("server_error", 500),
            ("unavailable", 503),
            ("html", 200),
            ("nonsense", 200),
            ("empty", 200),
            ("unprocessable", 422),
            ("bad_request", 400),
            ("unauthorized", 401),
            ("payment_required", 402),
            ("conflict", 409),
            ("apim", 401),
        ],
    )
    def test_is_a_refusal(self, sandbox, pixazo_wire, body, do, status):
        """Each refusal has its status, and nothing is accepted."""
        sandbox.behave("submit", do)
        assert pixazo_wire.post(PIXAZO, json=body).status_code == status
        assert counted(sandbox) == (1, 0)

    def test_is_a_429_that_may_say_when(self, sandbox, fal_wire, body):
        """Retry-After is there only if armed so; after `times` requests all is well."""
        sandbox.behave("submit", "rate_limited", retry_after=3)
        sandbox.behave("submit", "rate_limited")
        answers = [fal_wire.post(FAL, json=body) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [429, 429, 200]
        assert [answer.headers.get("Retry-After") for answer in answers] == ["3", None, None]

    def test_names_no_request(self, sandbox, fal_wire, body):
        """The request is accepted under an id that the answer leaves out."""
        sandbox.behave("submit", "no_request_id")
        assert "request_id" not in fal_wire.post(FAL, json=body).json()
        assert counted(sandbox) == (1, 1)

    @pytest.mark.parametrize("length", [0, 10_000])
    def test_names_it_oddly(self, sandbox, fal_wire, body, length):
        """An id with slashes, quotes and spaces, or 10 kB of it, works when it is percent-encoded."""
        sandbox.behave("submit", "odd_id", length=length)
        request_id = fal_wire.post(FAL, json=body).json()["request_id"]
        assert len(request_id) >= max(40, length)
        status = fal_wire.get(f"/fal-ai/kling-video/requests/{quote(request_id, safe='')}/status")
        assert status.json()["request_id"] == request_id

    def test_points_to_another_host(self, sandbox, fal_wire, body):
        """A key that follows a foreign status_url is recorded with the host it went to."""
        sandbox.behave("submit", "foreign_urls")
        url = fal_wire.post(FAL, json=body).json()["status_url"]
        assert url.startswith(sandbox.state()["foreign_url"])
        fal_wire.get(url)
        (leak,) = sandbox.state()["leaks"]
        assert (leak["host"], leak["header"]) == (httpx.URL(url).netloc.decode(), "Authorization")


class TestALook:
    def test_goes_wrong_and_passes(self, sandbox, fal_wire, finished):
        """404s, pages and unknown words come as often as armed, in order; then the truth."""
        url = finished()["status_url"]
        for do in ("unknown", "html", "unknown_word", "missing_fields"):
            sandbox.behave("status", do)
        looks = [fal_wire.get(url) for _ in range(5)]
        assert [look.status_code for look in looks] == [404, 200, 200, 200, 200]
        assert looks[2].json()["status"] == "DREAMING"
        assert "logs" not in looks[3].json()
        assert looks[4].json()["status"] == "COMPLETED"

    def test_is_let_pass_until_its_turn(self, sandbox, fal_wire, finished):
        """`skip` lets that many matching requests through first."""
        url = finished()["status_url"]
        sandbox.behave("status", "server_error", skip=2)
        assert [fal_wire.get(url).status_code for _ in range(4)] == [200, 200, 500, 200]

    def test_at_the_stream_ends_early(self, sandbox, fal_wire, body):
        """The stream breaks off after an event, ends cleanly before the job does, or makes no sense."""
        sandbox.reset(render_seconds=5)
        url = fal_wire.post(FAL, json=body).json()["status_url"] + "/stream"
        sandbox.behave("stream", "drop_after", events=1)
        with pytest.raises(httpx.RemoteProtocolError):
            fal_wire.get(url)
        sandbox.behave("stream", "drop_after", events=1, clean=True)
        assert fal_wire.get(url).text.count("data: ") == 1
        sandbox.behave("stream", "garbage")
        assert "{not json" in fal_wire.get(url).text

    def test_at_the_stream_hangs(self, sandbox, fal_wire, finished):
        """The headers come and nothing else."""
        url = finished()["status_url"] + "/stream"
        sandbox.behave("stream", "silent")
        with pytest.raises(httpx.ReadTimeout):
            fal_wire.get(url, timeout=0.3)

    def test_at_the_stream_has_no_type(self, sandbox, fal_wire, finished):
        """Events come without a Content-Type."""
        url = finished()["status_url"] + "/stream"
        sandbox.behave("stream", "no_content_type")
        answer = fal_wire.get(url)
        assert "Content-Type" not in answer.headers
        assert "COMPLETED" in answer.text


class TestAJob:
    def test_fails_at_fal_in_status_and_result(self, sandbox, fal_wire, finished):
        """COMPLETED with error and error_type, and the error's own status from the result."""
        sandbox.behave("submit", "fail", kind="runner_disconnected", status=503, flat=True)
        receipt = finished()
        status, result = fal_wire.get(receipt["status_url"]), fal_wire.get(receipt["response_url"])
        assert (status.json()["status"], status.json()["error_type"]) == ("COMPLETED", "runner_disconnected")
        assert (result.status_code, result.json()["error_type"]) == (503, "runner_disconnected")

    @pytest.mark.parametrize("name", ["error", "message", "detail", "error_message"])
    @pytest.mark.parametrize(("generation", "word"), [("v1", "FAILED"), ("v2", "ERROR")])
    def test_fails_at_pixazo_in_any_field(self, sandbox, pixazo_wire, body, generation, word, name):  # noqa: PLR0917
        """The text is in the field asked for, under FAILED or ERROR."""
        sandbox.reset(pixazo_generation=generation, render_seconds=0)
        sandbox.behave("submit", "fail", word=word, name=name, message="no face")
        receipt = pixazo_wire.post(PIXAZO, json=body).json()
        sandbox.wait_for("ended")
        asked = {"request_id": receipt["request_id"]}
        url = receipt.get("polling_url")
        look = (pixazo_wire.get(url) if url else pixazo_wire.post(PIXAZO + "-result", json=asked)).json()
        assert (look["status"], look[name]) == (word, "no face")

    def test_may_fail_and_its_answer_be_lost(self, sandbox, fal_wire, body):
        """A misdeed on the submit takes a fate for the job as well."""
        sandbox.behave(
            "submit", "drop", fate={"failure": {"kind": "face_detection_error"}, "render_seconds": 0}
        )
        with pytest.raises(httpx.RemoteProtocolError):
            fal_wire.post(FAL, json=body)
        (job,) = sandbox.wait_for("ended")["accepted"]
        assert job["failed"] == "face_detection_error"

    def test_runs_as_many_at_once_as_the_account_has_slots(self, sandbox, fal_wire, body):
        """With two slots the third job waits, behind nobody."""
        sandbox.reset(slots=2, render_seconds=30)
        receipts = [fal_wire.post(FAL, json=body).json() for _ in range(4)]
        sandbox.wait_for("started", 2)
        looks = [fal_wire.get(receipt["status_url"]).json() for receipt in receipts]
        assert [look["status"] for look in looks] == ["IN_PROGRESS"] * 2 + ["IN_QUEUE"] * 2
        assert [look["queue_position"] for look in looks[2:]] == [0, 1]

    @pytest.mark.parametrize("defect", ["no_audio", "no_video", "short", "long"])
    def test_makes_a_defective_video(self, sandbox, fal_wire, finished, tmp_path, defect):
        """The video lacks a track, or is far from the voice's 2.5 s."""
        sandbox.behave("submit", "defective", defect=defect)
        url = fal_wire.get(finished()["response_url"]).json()["video"]["url"]
        path = tmp_path / "video.mp4"
        path.write_bytes(httpx.get(url, trust_env=False).content)
        with av.open(str(path)) as container:
            tracks = (len(container.streams.video), len(container.streams.audio))
            seconds = container.duration / av.time_base
        assert tracks == {"no_audio": (1, 0), "no_video": (0, 1)}.get(defect, (1, 1))
        low, high = {"short": (1.2, 1.4), "long": (5.5, 5.7)}.get(defect, (2.5, 2.6))
        assert low <= seconds <= high

    @pytest.mark.parametrize("defect", ["", "black", "frozen", "silent", "late_voice"])
    def test_makes_one_that_only_looking_tells(self, sandbox, fal_wire, finished, defect):
        """Black, frozen, silent and half a second late are so to the eye and ear; an honest video is none of it."""
        sandbox.behave("submit", "defective", defect=defect)
        url = fal_wire.get(finished()["response_url"]).json()["video"]["url"]
        frames, sound, rate = decoded(httpx.get(url, trust_env=False).content)
        loud = np.flatnonzero(np.abs(sound) > 0.1)
        assert (max(frame[:-8].max() for frame in frames) < 20) == (defect == "black")
        moved = min(np.abs(np.diff(pair, axis=0)).mean() for pair in pairwise_pixels(frames))
        assert (moved < 2) == (defect in {"black", "frozen"}), moved  # mean grey levels from frame to frame
        assert (loud.size == 0) == (defect == "silent")
        if loud.size:
            assert loud[0] / rate == pytest.approx(0.5 if defect == "late_voice" else 0, abs=0.03)

    def test_shows_the_voice_in_the_picture(self, fal_wire, finished):
        """The bar at the foot is there when the voice sounds and gone when it pauses, to the frame."""
        url = fal_wire.get(finished()["response_url"]).json()["video"]["url"]
        frames, _, _ = decoded(httpx.get(url, trust_env=False).content)
        green = [bool(frame[-4, :40, 1].mean() > frame[-4, :40, 0].mean() + 80) for frame in frames[:50]]
        voiced = [(index + 0.5) / 25 % 0.5 < 0.25 for index in range(50)]
        differing = [index for index in range(50) if green[index] != voiced[index]]
        assert all(index % 25 in {6, 18} for index in differing)  # frames in which the voice stops


class TestArming:
    def test_refuses_names_that_do_not_exist(self, sandbox):
        """A typing error in a test is a failure that lists what there is."""
        with pytest.raises(ValueError, match="drop, drop_after"):
            sandbox.behave("submit", "dorp")
        with pytest.raises(ValueError, match="unknown on='sumbit'"):
            sandbox.behave("sumbit", "drop")

    def test_is_forgotten_by_a_reset(self, sandbox, fal_wire, body):
        """A reset ends behaviours, counts, and requests that hang."""
        sandbox.behave("submit", "server_error", times=99)
        assert fal_wire.post(FAL, json=body).status_code == 500
        sandbox.reset()
        assert fal_wire.post(FAL, json=body).status_code == 200
        assert counted(sandbox) == (1, 1)

    def test_lists_every_misdeed(self, fal_wire):
        """The catalogue says what each does."""
        catalogue = fal_wire.get("/__sandbox__/behave").json()
        assert {"drop", "rst", "hang", "fail", "cut", "silent"} <= catalogue["do"].keys()
        assert all(catalogue["do"].values())
