"""Forms of a video: the sizes that are asked for, the loudness that is wanted, the face in the picture."""

import json
import shutil
import subprocess
from dataclasses import replace

import av
import numpy as np
import pytest
from PIL import Image

from avatar.errors import VideoRejected
from avatar.media.decoder_calls import make_form
from avatar.media.disclosure import CaptionTrack, Marks, disclosure_for
from avatar.media.facts import form_of
from avatar.media.output_formats import size_for
from avatar.media.webvtt import Cue, as_vtt
from tests.money.conftest import footage, inputs  # noqa: F401 - fixtures

MARKS = Marks(disclosure_for("en"), "en", "kling", "a" * 32)


@pytest.mark.parametrize(
    ("shape", "crop", "size"),
    [
        ("9:16", False, (720, 1280)),
        ("9:16", True, (404, 720)),
        ("16:9", False, (1280, 720)),
        ("16:9", True, (720, 404)),
        ("4:5", False, (720, 900)),
        ("1:1", True, (720, 720)),
        ("same", False, (720, 720)),
        ("1080x1920", False, (1080, 1920)),
        ("1:99", False, (96, 1920)),
    ],
)
def test_the_picture_keeps_its_own_pixels(shape, crop, size):
    assert size_for(shape, 720, 720, crop=crop) == size


@pytest.mark.parametrize("name", ["", "9:0", "0x10", "9:16/fill", "99999x1", "9:16 ", "same/crop/plain"])
def test_what_is_no_form_is_refused(name):
    with pytest.raises(ValueError, match="is no form"):
        form_of(name)


def shown(path, number):
    with av.open(str(path)) as container:
        for at, frame in enumerate(container.decode(video=0)):
            if at == number:
                return frame.to_ndarray(format="rgb24").astype(int)
    raise AssertionError("it is shorter")


@pytest.fixture
def upright(footage, tmp_path):  # noqa: F811
    """A form, and what was said of it."""
    (tmp_path / "de.vtt").write_text(as_vtt([Cue(1.0, 2.0, "eins")]))
    form, target = replace(form_of("9:16"), loudness=-14.0, label="AI-generated"), tmp_path / "form.mp4"
    return target, make_form(footage, target, form, MARKS, (CaptionTrack(tmp_path / "de.vtt", "de"),))


def test_a_form_has_its_size_and_loudness(upright):
    _, made = upright
    assert made.height > made.width
    assert made.loudness == pytest.approx(-14.0, abs=0.5)
    assert made.peak <= -1.0
    assert made.quality > 0.97


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="FFmpeg's own tools are not installed")
def test_ffmpeg_measures_what_was_said_of_a_form(upright):
    """Its loudness, by a program of others; its captions, marks and all frames are there."""
    target, made = upright
    command = ["ffmpeg", "-hide_banner", "-nostats", "-i", str(target), "-af", "ebur128", "-f", "null", "-"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert float(told.rpartition("I:")[2].split()[0]) == pytest.approx(made.loudness, abs=0.2)
    command = ["ffprobe", "-v", "error", "-count_packets", "-show_streams", "-show_format", "-of", "json"]
    streams = json.loads(subprocess.run([*command, str(target)], capture_output=True, check=True).stdout)
    assert [each["codec_name"] for each in streams["streams"]] == ["h264", "aac", "mov_text"]
    assert streams["format"]["tags"]["comment"] == MARKS.comment
    assert abs(int(streams["streams"][0]["nb_read_packets"]) - made.seconds * 25) <= 1


def test_intro_outro_and_logo(footage, tmp_path):  # noqa: F811
    """Before and after it, in its size; captions begin that much later; the logo is on the video alone."""
    for name, colour in (("intro", (250, 0, 0)), ("outro", (0, 0, 250))):
        with av.open(str(tmp_path / f"{name}.mp4"), "w") as output:
            stream = output.add_stream("libx264", rate=30)
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
            picture = np.full((64, 64, 3), colour, np.uint8)
            for _ in range(30):
                output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
            output.mux(stream.encode(None))
    Image.new("RGBA", (40, 40), (0, 255, 0, 255)).save(tmp_path / "logo.png")
    (tmp_path / "de.vtt").write_text(as_vtt([Cue(1.0, 2.0, "eins")]))
    form = replace(
        form_of("1:1/plain"),
        intro=(tmp_path / "intro.mp4",),
        outro=(tmp_path / "outro.mp4",),
        logo=(tmp_path / "logo.png",),
    )
    made = make_form(footage, tmp_path / "form.mp4", form, MARKS, (CaptionTrack(tmp_path / "de.vtt", "de"),))
    with av.open(str(footage)) as container:
        own = float(container.streams.video[0].duration * container.streams.video[0].time_base)
    assert (made.intro_seconds, made.seconds) == (1.0, pytest.approx(own + 2, abs=0.05))
    middle = (made.height // 2, made.width // 2)
    assert shown(tmp_path / "form.mp4", 10)[middle][0] > 200
    assert shown(tmp_path / "form.mp4", round(made.seconds * 25) - 5)[middle][2] > 200
    corner = shown(tmp_path / "form.mp4", 60)[round(made.height * 0.06), round(made.width * 0.93)]
    assert corner[1] > 200
    assert max(corner[0], corner[2]) < 100
    with av.open(str(tmp_path / "form.mp4")) as container:
        starts = [float(p.pts * p.time_base) for p in container.demux(subtitles=0) if p.size > 2]
    assert starts == [2.0]


def test_a_crop_keeps_the_face(footage, tmp_path):  # noqa: F811
    """The same piece of the picture as around the face, at its own size."""
    whole = shown(footage, 20)
    high, wide = whole.shape[:2]
    for left in (0.0, 0.7):
        form = replace(form_of("1:2/crop"), face=(left, 0.3, 0.2, 0.2))
        make_form(footage, tmp_path / "crop.mp4", form, MARKS)
        part = shown(tmp_path / "crop.mp4", 20)
        at = min(max(0, round((left + 0.1) * wide - part.shape[1] / 2)), wide - part.shape[1])
        there = whole[: part.shape[0], at : at + part.shape[1]]
        assert np.abs(there - part[:high]).mean() < 8


def test_what_does_not_decode_is_refused(footage, tmp_path):  # noqa: F811
    (tmp_path / "bad.mp4").write_bytes(footage.read_bytes()[:2000])
    with pytest.raises(VideoRejected, match=r"bad\.mp4"):
        make_form(tmp_path / "bad.mp4", tmp_path / "form.mp4", form_of("1:1"), MARKS)
