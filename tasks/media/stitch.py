"""Putting a video together: the parts' pictures one after another as they are, and the voice over the whole."""

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from tasks.errors import VideoRejected
from tasks.media.avc import ParameterSets, encode_picture
from tasks.media.confined import confined
from tasks.media.sound import Sound, open_media, open_sound, resampled
from tasks.media.tracks import Track, picture_of, scan_track
from tasks.media.voice import mp3_rate

__all__ = ["Part", "Stitched", "stitch"]

#: Ticks per second of the picture's track: whole for 24, 25, 30, 50 and 60 frames per second.
TICKS = 90_000
#: Bits per second of the voice, for one channel and for two.
MONO_BITS, STEREO_BITS = 128_000, 192_000


@dataclass(frozen=True)
class Part:
    """A piece of the video: its file, and from when to when (seconds, exact) its picture is shown."""

    path: Path
    start: Fraction
    end: Fraction


@dataclass(frozen=True)
class Stitched:
    """How a video was put together.

    Attributes:
        reencoded: whether the picture of any part had to be encoded again.
        notes: what was done beyond laying the parts one after another, for a person.
        trims: for each part the seconds of picture it was too long (positive) or too short (negative).
    """

    reencoded: bool
    notes: tuple[str, ...]
    trims: tuple[float, ...]


def stitch(parts: Sequence[Part], voice: Path, target: Path) -> Stitched:
    """Write to `target` the pictures of the parts, each from its start to its end, and the voice from zero.

    Every part begins exactly at its start, so nothing adds up over many. What a part has too much is left out from
    the first packet on that would show after its end (with B-frames, a few frames earlier); what it lacks is filled
    by holding its last frame. The last part keeps those frames, and may end up to a group of them after the voice. A picture is encoded again only if it cannot share a track with most of the others.
    The result is an MP4 whose index comes first, with one H.264 track and one of AAC. The sound of the parts is
    not used.

    Raises:
        VideoRejected: a part has no picture, or does not decode.
        InvalidInput: the voice cannot be read.
        ValueError: the parts are none, empty, or not one after another.
    """
    _require_order(parts)
    return _stitch(parts, voice, target)


@confined(VideoRejected)
def _stitch(parts: Sequence[Part], voice: Path, target: Path) -> Stitched:
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        tracks, sets, notes = _shared(parts, [scan_track(part.path) for part in parts], Path(folder))
        reencoded = bool(notes)
        placed = [
            _place(part, track, last=part is parts[-1]) for part, track in zip(parts, tracks, strict=True)
        ]
        trims = tuple(
            float(track.seconds - (part.end - part.start)) for part, track in zip(parts, tracks, strict=True)
        )
        _write(tracks, _timetable(placed, _end(placed[-1], parts[-1], tracks[-1])), voice, target, sets)
    notes += [_held(number, trim) for number, trim in enumerate(trims, 1) if trim < -1 / 25]
    return Stitched(reencoded, tuple(notes), trims)


def _require_order(parts: Sequence[Part]) -> None:
    follows = all(one.end == other.start for one, other in pairwise(parts))
    if not parts or parts[0].start != 0 or not follows or any(part.end <= part.start for part in parts):
        raise ValueError("parts must begin at zero and follow one another without a gap")


def _held(number: int, trim: float) -> str:
    return f"part {number} is {-trim:.2f} s too short: its last frame is held"


def _shared(parts: Sequence[Part], tracks: list[Track], folder: Path) -> tuple[list[Track], bytes, list[str]]:
    """The tracks as they can lie in one, its parameter sets, and what was encoded again."""
    kind = Counter(track.kind for track in tracks if track.is_plain and track.whole).most_common(1)
    lead = next((track for track in tracks if kind and track.kind == kind[0][0]), None)
    like, sets = lead or tracks[0], ParameterSets.read(lead.extradata) if lead else None
    set_id = next(number for number in range(32) if not sets or number not in sets.ids)
    notes, shared = [], []
    for number, (part, track) in enumerate(zip(parts, tracks, strict=True), 1):
        fits = lead is not None and track.kind == lead.kind and track.whole
        shared.append(track if fits else _encoded_again(part, track, like, set_id, folder / f"{number}.mp4"))
        if not fits:
            notes.append(f"part {number} was encoded again: {_difference(track, lead)}")
    again = next((track for track in shared if track not in tracks), None)
    return shared, _joined(sets, again), notes


def _joined(sets: ParameterSets | None, again: Track | None) -> bytes:
    if again is None:
        return sets.write() if sets else b""
    more = ParameterSets.read(again.extradata)
    return (sets.joined(more) if sets else more).write()


def _encoded_again(part: Part, track: Track, like: Track, set_id: int, target: Path) -> Track:
    width, height = (side // 2 * 2 for side in like.size)
    seconds = part.end - part.start
    encode_picture(track.path, target, size=(width, height), rate=like.rate, set_id=set_id, seconds=seconds)
    return scan_track(target)


def _difference(track: Track, lead: Track | None) -> str:
    if lead is None or not track.is_plain:
        return f"browsers do not play {track.codec} {track.pixels}".rstrip()
    if track.size != lead.size:
        return "it is {}x{}, the others {}x{}".format(*track.size, *lead.size)
    return "its encoder's parameters differ" if track.whole else "it begins inside a group of pictures"


def _ticks(seconds: Fraction) -> int:
    return round(seconds * TICKS)


def _place(part: Part, track: Track, *, last: bool) -> list[int]:
    """When the packets of a part are shown in the whole, in ticks; those left out are missing at the end.

    Packets need only what comes before them in the file, so that leaving out from one on keeps the rest decodable.
    After the last part nothing follows: with B-frames, a few frames too many are better there than too few.
    """
    end, shown = _ticks(part.end), [_ticks(part.start + time) for time in track.times]
    late = [at >= end for at in shown]
    kept = len(late) - late[::-1].index(False) if last and False in late else [*late, True].index(True)
    if not kept:
        raise VideoRejected(f"{track.path.name} has no picture where its part of the voice is.")
    shown = shown[:kept]
    shown[shown.index(min(shown))] = _ticks(part.start)
    return shown


def _end(shown: list[int], part: Part, track: Track) -> int:
    """When the whole ends: with the voice, or with a frame that had to be kept beyond it."""
    end, last = _ticks(part.end), max(shown)
    return end if last < end else last + _ticks(1 / track.rate)


@dataclass(frozen=True)
class _Times:
    """A packet's times in ticks."""

    dts: int
    pts: int
    duration: int


def _timetable(placed: list[list[int]], end: int) -> list[list[_Times]]:
    """Decoding times for all packets of each part: rising, and none after its packet is shown.

    The n-th packet is decoded when the n-th frame is shown, less one delay for the whole video.
    """
    order = sorted(pts for part in placed for pts in part)
    delay = max(
        shown - pts for shown, pts in zip(order, (pts for part in placed for pts in part), strict=True)
    )
    gaps = iter(zip(order, [*order[1:], end], strict=True))
    return [
        [_Times(now - delay, pts, after - now) for pts, (now, after) in zip(part, gaps, strict=False)]
        for part in placed
    ]


def _write(
    tracks: list[Track], timetable: list[list[_Times]], voice: Path, target: Path, sets: bytes
) -> None:
    options = {"movflags": "+faststart", "video_track_timescale": str(TICKS)}
    with ExitStack() as stack:
        template = picture_of(stack.enter_context(open_media(tracks[0].path)), tracks[0].path)
        sound = stack.enter_context(open_sound(voice))
        output = stack.enter_context(av.open(str(target), "w", format="mp4", options=options))
        stream = output.add_stream_from_template(template)
        stream.codec_context.extradata = sets
        stream.time_base = Fraction(1, TICKS)
        heard = _encoded(sound, _add_voice(output, sound))
        _interleave(output, _retimed(tracks, timetable, stream), heard)


def _add_voice(output: OutputContainer, sound: Sound) -> AudioStream:
    layout, bits = ("stereo", STEREO_BITS) if sound.stream.channels > 1 else ("mono", MONO_BITS)
    # The default search takes half as long again, and the encoder is most of what stitching costs.
    options = {"aac_coder": "fast"}
    stream = output.add_stream(
        "aac", rate=mp3_rate(sound.stream.rate), layout=layout, bit_rate=bits, options=options
    )
    if not isinstance(stream, AudioStream):
        raise TypeError("aac is not an audio codec")
    return stream


def _encoded(sound: Sound, stream: AudioStream) -> "Iterator[Packet[AudioStream]]":
    for frame in resampled(sound, "fltp", stream.layout.name, stream.rate):
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _retimed(
    tracks: list[Track], timetable: list[list[_Times]], stream: VideoStream
) -> "Iterator[Packet[VideoStream]]":
    for track, times in zip(tracks, timetable, strict=True):
        with open_media(track.path) as container:
            packets = (packet for packet in container.demux(picture_of(container, track.path)) if packet.size)
            for at, packet in zip(times, packets, strict=False):
                packet.stream, packet.time_base = stream, Fraction(1, TICKS)
                packet.pts, packet.dts, packet.duration = at.pts, at.dts, at.duration
                yield packet


def _interleave(
    output: OutputContainer,
    pictures: "Iterator[Packet[VideoStream]]",
    sounds: "Iterator[Packet[AudioStream]]",
) -> None:
    """Sound goes in just ahead of its picture: the file plays while it loads, and little waits in memory."""
    heard = -1.0
    for picture in pictures:
        while heard <= float((picture.pts or 0) * picture.time_base) and (sound := next(sounds, None)):
            heard = float((sound.pts or 0) * sound.time_base)
            output.mux(sound)
        output.mux(picture)
    for sound in sounds:
        output.mux(sound)
