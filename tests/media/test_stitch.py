"""Parts put together under the voice: in step at every cut, and the picture untouched."""

from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest

from avatar.errors import InvalidInput, VideoRejected
from avatar.media.decoder_calls import cut_voice, inspect_video, plan_cuts, probe_video, probe_voice, stitch
from avatar.media.facts import Part
from avatar.media.probe import has_faststart
from avatar.models import Limits
from tests.media.recordings import EXAMPLES, tone, write_video, write_wav
from tests.media.speech import RATE, shuffled, speech
from tests.sandbox.renderer import Look, render

SIZE, BIT, BITS = (192, 112), 16, 10
PYRAMID = {"preset": "veryfast", "bf": "4", "x264-params": "b-pyramid=normal:b-adapt=0"}


def numbered(number):
    """A frame that carries its number as black and white squares, over a moving pattern."""
    pixels = np.broadcast_to(
        (np.arange(SIZE[0]) * 2 + 5 * number)[None, :, None] % 256, (SIZE[1], SIZE[0], 3)
    )
    pixels = pixels.astype(np.uint8)
    for bit in range(BITS):
        pixels[:32, bit * BIT : (bit + 1) * BIT] = 255 if number >> bit & 1 else 0
    return pixels


def write_part(path, frames, first, *, rate=25, codec="libx264", size=SIZE, pixels="yuv420p", **options):
    """A part of `frames` frames, numbered from `first` on."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=rate, options=options or PYRAMID)
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(numbered(first + number), format="rgb24")
            frame = frame.reformat(*size, format=pixels)
            frame.pts = number
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def read(path):
    """When each frame is shown, and its number."""
    with av.open(str(path)) as container:
        return [(frame.time, decode_number(frame)) for frame in container.decode(video=0)]


def decode_number(frame):
    grey = frame.reformat(*SIZE, format="gray").to_ndarray()
    squares = [grey[8:24, bit * BIT + 4 : (bit + 1) * BIT - 4].mean() for bit in range(BITS)]
    return sum(1 << bit for bit, brightness in enumerate(squares) if brightness > 128)


def packets_of(path):
    with av.open(str(path)) as container:
        return [(packet.pts, packet.dts, bytes(packet)) for packet in container.demux(video=0) if packet.size]


def joined(tmp_path, ends, *, spare=5, rate=25, kinds=None, **options):
    """Stitch parts that end at these frames of 25 a second; returns the parts, the result and the file."""
    starts, parts = [0, *ends[:-1]], []
    for index, (start, end) in enumerate(zip(starts, ends, strict=True)):
        frames = (end - start) * rate // 25 + spare
        kind = (kinds or {}).get(index, options)
        path = write_part(tmp_path / f"{index}.mp4", frames, index * 200, **{"rate": rate} | kind)
        parts.append(Part(path, Fraction(start, 25), Fraction(end, 25)))
    voice = write_wav(tmp_path / "voice.wav", tone(ends[-1] / 25))
    return parts, stitch(parts, voice, tmp_path / "whole.mp4"), tmp_path / "whole.mp4"


def drift(parts, path, rate=25):
    """How far each frame is from where it belongs, in seconds, and the frames of each part."""
    off, counts = [], [0] * len(parts)
    for time, number in read(path):
        part = parts[number // 200]
        off.append(time - float(part.start) - number % 200 / rate)
        counts[number // 200] += 1
    return off, counts


@pytest.mark.parametrize("spare", [5, 0])
@pytest.mark.parametrize("rate", [24, 25, 30])
@pytest.mark.parametrize("order", [{"bf": "0"}, PYRAMID], ids=["plain", "b-frames"])
def test_every_part_begins_at_its_cut(tmp_path, order, rate, spare):
    """Whatever the frame rate and the order of frames, each frame is shown within a tick of its time."""
    parts, result, path = joined(tmp_path, [37, 90, 128], spare=spare, rate=rate, **order)
    off, counts = drift(parts, path, rate)
    assert max(map(abs, off)) < 0.001
    assert not result.reencoded
    # What must go with B-frames is no more than one group of them.
    assert all(
        count >= (part.end - part.start) * rate - 1 - (5 if order is PYRAMID else 0)
        for part, count in zip(parts, counts, strict=True)
    )


def test_a_part_too_short_holds_its_last_frame(tmp_path):
    """The next part is not early for it, and people are told."""
    parts, result, path = joined(tmp_path, [50, 100], spare=-10, bf="0")
    off, counts = drift(parts, path)
    assert max(map(abs, off)) < 0.001
    assert counts == [40, 40]
    assert result.trims == pytest.approx((-0.4, -0.4))
    assert result.notes[0] == "part 1 is 0.40 s too short: its last frame is held"
    assert probe_video(path).video_seconds == pytest.approx(4.0, abs=0.01)


def test_the_end_keeps_all_its_frames(tmp_path):
    """With B-frames the picture may outlast the voice by some frames, but none of the voice's is missing."""
    parts, _, path = joined(tmp_path, [50, 103])
    _, counts = drift(parts, path)
    assert 53 <= counts[1] <= 58
    assert 4.12 <= probe_video(path).video_seconds <= 4.32


def test_the_picture_is_not_touched(tmp_path):
    """Packets go over bit by bit, decoded in rising order and never after they are shown."""
    parts, _, path = joined(tmp_path, [50, 100, 130])
    before = [data for part in parts for _, _, data in packets_of(part.path)]
    packets = packets_of(path)
    assert len(packets) > 110
    assert {data for _, _, data in packets} <= set(before)
    assert all(one[1] < other[1] for one, other in pairwise(packets))
    assert all(dts <= pts for pts, dts, _ in packets)
    assert len({pts for pts, _, _ in packets}) == len(packets)


def test_the_file_plays_in_browsers(tmp_path):
    """An MP4 with its index first, one avc1 and one AAC track, both beginning at zero and as long as the voice."""
    _, _, path = joined(tmp_path, [50, 103], bf="0")
    facts = probe_video(path)
    assert (facts.video_start, facts.audio_start) == (0, 0)
    assert facts.video_seconds == pytest.approx(4.12, abs=0.01)
    assert facts.audio_seconds == pytest.approx(4.12, abs=0.03)
    assert has_faststart(path)
    with av.open(str(path)) as container:
        tags = [stream.codec_context.codec_tag for stream in container.streams]
        assert tags == ["avc1", "mp4a"]
        assert container.streams.video[0].time_base == Fraction(1, 90_000)


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        ({"size": (160, 96)}, "it is 160x96, the others 192x112"),
        ({"preset": "slow", "refs": "5"}, "its encoder's parameters differ"),
        ({"codec": "mpeg4", "bf": "0"}, "browsers do not play mpeg4 yuv420p"),
        ({"pixels": "yuv444p", "preset": "fast"}, "browsers do not play h264 yuv444p"),
    ],
    ids=["size", "parameters", "codec", "pixels"],
)
@pytest.mark.parametrize("place", [0, 1])
def test_with_an_odd_part_all_are_encoded_again(tmp_path, odd, reason, place):
    """One track has one form; all are decoded as what they were, on time."""
    parts, result, path = joined(tmp_path, [40, 80, 120], kinds={place: odd})
    off, _ = drift(parts, path)
    assert max(map(abs, off)) < 0.001
    told = f"part {place + 1} was encoded again, and all with it: {reason}"
    assert (result.reencoded, result.notes) == (True, (told,))


def test_one_part_gets_the_voice_back(tmp_path):
    """A render whose sound is wrong is given its voice, without touching the picture."""
    samples = speech([1])
    voice = write_wav(tmp_path / "voice.wav", samples, RATE)
    seconds = Fraction(samples.shape[1], RATE)
    silent = tmp_path / "silent.mp4"
    render((EXAMPLES / "portrait.png").read_bytes(), voice.read_bytes(), silent, Look(160, 25, 0.2, "silent"))
    result = stitch([Part(silent, Fraction(0), seconds)], voice, tmp_path / "whole.mp4")
    _, checks = inspect_video(tmp_path / "whole.mp4", float(seconds), voice=voice)
    assert [check.name for check in checks if not check.passed] == []
    assert not result.reencoded


def bar(path):
    """How long the green bar at the foot of each frame is (see the renderer), 0 to 1, and when it is shown."""
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            foot = frame.to_ndarray(format="rgb24")[-5:-2].astype(int)
            green = (foot[..., 1] > foot[..., 0] + 60) & (foot[..., 1] > foot[..., 2] + 40)
            yield frame.time, green.mean()


def test_picture_follows_the_voice_through_every_cut(tmp_path):
    """The bar in the finished picture is in step with the voice to 40 ms in each of the parts."""
    samples = speech(shuffled(7, 11))
    voice = write_wav(tmp_path / "voice.wav", samples, RATE)
    facts, limits = probe_voice(voice), Limits(max_seconds=10)
    cuts = plan_cuts(voice, facts, limits)
    parts = []
    for cut, file in zip(cuts, cut_voice(voice, facts, cuts, tmp_path, limits), strict=True):
        path = tmp_path / f"part{cut.index}.mp4"
        render((EXAMPLES / "portrait.png").read_bytes(), file.path.read_bytes(), path, Look(160, 25, 0.3))
        parts.append(Part(path, Fraction(cut.start, RATE), Fraction(cut.end, RATE)))
    assert len(parts) >= 4
    stitch(parts, voice, tmp_path / "whole.mp4")
    shown = np.array([length for _, length in bar(tmp_path / "whole.mp4")])
    for part in parts:
        assert abs(bar_lag(shown, samples[0], part)) <= 0.04


def bar_lag(shown, samples, part):
    """Seconds by which the bar is late within a part, to 10 ms."""
    first, last = round(part.start * 25), int(part.end * 25)
    frame, likeness = RATE // 25, {}
    for lag in range(-30, 31):
        at = (np.arange(first, last) - lag / 4) * frame
        pieces = [samples[max(0, int(start)) : max(0, int(start)) + frame] for start in at]
        levels = [
            min(1.0, 3 * float(np.sqrt(np.mean(np.square(piece))))) if piece.size else 0 for piece in pieces
        ]
        likeness[lag] = np.corrcoef(levels, shown[first:last])[0, 1]
    best = max(likeness, key=likeness.get)
    assert likeness[best] > 0.9
    return best / 100


def test_what_has_no_picture_is_rejected(tmp_path):
    """Sound alone, or nothing that could be read."""
    voice = write_wav(tmp_path / "voice.wav", tone(2))
    (tmp_path / "noise.mp4").write_bytes(b"not a video" * 100)
    for path in (voice, tmp_path / "noise.mp4"):
        with pytest.raises(VideoRejected):
            stitch([Part(path, Fraction(0), Fraction(2))], voice, tmp_path / "whole.mp4")


def test_a_voice_without_sound_is_refused(tmp_path):
    """The error names the voice."""
    path = write_video(tmp_path / "clip.mp4", sound=None)
    with pytest.raises(InvalidInput, match="no sound"):
        stitch([Part(path, Fraction(0), Fraction(2))], path, tmp_path / "whole.mp4")


@pytest.mark.parametrize("spans", [[], [(0, 0)], [(1, 2)], [(0, 1), (2, 3)]])
def test_parts_must_follow_one_another(tmp_path, spans):
    """A gap is a mistake of the caller."""
    parts = [Part(tmp_path / "clip.mp4", Fraction(start), Fraction(end)) for start, end in spans]
    with pytest.raises(ValueError, match="without a gap"):
        stitch(parts, tmp_path / "voice.wav", tmp_path / "whole.mp4")
