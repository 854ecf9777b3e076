"""Putting a video together: the parts' pictures one after another as they are, and the voice over the whole."""

import errno
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from avatar.errors import VideoRejected
from avatar.media.facts import Part, Stitched
from avatar.media.sound import Sound, open_media, open_sound, reason, resampled
from avatar.media.voice import mp3_rate

#: An avcC record (ISO/IEC 14496-15, 5.3.3.1) begins with its version; its fifth byte tells how long lengths are.
AVCC_VERSION, LENGTH_SIZE_BYTE = 1, 4
FOUR_BYTES = 3  # the length size of a unit, less one, in the two low bits


def is_usual_avcc(extradata: bytes) -> bool:
    """Whether it is an avcC record of units whose lengths take four bytes, as every writer makes them."""
    head = extradata[: LENGTH_SIZE_BYTE + 1]
    return len(head) > LENGTH_SIZE_BYTE and head[0] == AVCC_VERSION and head[-1] & FOUR_BYTES == FOUR_BYTES


def encode_picture(
    source: Path, target: Path, *, size: tuple[int, int], rate: Fraction, seconds: Fraction
) -> None:
    """Re-encode the picture of a video as H.264 without B-frames, an MP4 without sound.

    Args:
        source: the video.
        target: where to write.
        size: width and height in pixels.
        rate: frames per second.
        seconds: how much of it.

    Raises:
        VideoRejected: it does not decode.
    """
    try:
        with open_media(source) as container, av.open(str(target), "w", format="mp4") as output:
            stream, scaler = _add_stream(output.add_stream("libx264", rate=rate), size), VideoReformatter()
            for number, frame in enumerate(_at_rate(container.decode(video=0), rate)):
                if number >= seconds * rate:
                    break
                ready = scaler.reformat(frame, *size, format="yuv420p")
                ready.pts, ready.time_base = number, 1 / rate
                output.mux(stream.encode(ready))
            output.mux(stream.encode(None))
    except (FFmpegError, OSError, IndexError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise
        raise VideoRejected(f"{source.name} does not decode as a video: {reason(error)}.") from error


def _add_stream(stream: object, size: tuple[int, int]) -> VideoStream:
    if not isinstance(stream, VideoStream):
        raise TypeError("libx264 is not a video codec")
    stream.width, stream.height = size
    stream.pix_fmt = "yuv420p"
    stream.options = {"preset": "veryfast", "crf": "18", "bf": "0"}
    return stream


def _at_rate(frames: Iterator[VideoFrame], rate: Fraction) -> Iterator[VideoFrame]:
    """At each tick of `rate` the frame that is on show then, from the first frame on."""
    shown, ticks, start = None, 0, 0.0
    for frame in frames:
        if shown is None:
            shown, start = frame, frame.time or 0.0
        while ticks / rate < (frame.time or 0.0) - start - 1e-4:
            yield shown
            ticks += 1
        shown = frame
    if shown is not None:
        yield shown


# The picture of a video file as it lies there: its packets, and what another picture must match to join it.
#: What every browser plays inside H.264.
PLAIN_PIXELS = ("yuv420p", "yuvj420p")
#: Frames per second for a picture that does not tell its own.
USUAL_RATE = Fraction(25)


@dataclass(frozen=True)
class Track:
    """The picture of a part as it lies in its file.

    Attributes:
        times: when each packet is shown, in the file's order, seconds from the beginning of the part.
        seconds: when the last frame ends.
        whole: whether its packets make a picture without anything before or beside them.
    """

    path: Path
    codec: str
    pixels: str
    size: tuple[int, int]
    rate: Fraction
    extradata: bytes
    times: list[Fraction] = field(repr=False)
    seconds: Fraction
    whole: bool

    @property
    def kind(self) -> tuple[str, str, tuple[int, int], bytes]:
        """What two pictures must have in common to share a track."""
        return self.codec, self.pixels, self.size, self.extradata

    @property
    def is_plain(self) -> bool:
        """Whether browsers play it."""
        return self.codec == "h264" and self.pixels in PLAIN_PIXELS and is_usual_avcc(self.extradata)


class _Packet(NamedTuple):
    """When a packet is shown, in ticks of its stream; whether it begins a picture; whether it is left out."""

    pts: int | None
    is_keyframe: bool
    is_discard: bool


def scan_track(path: Path) -> Track:
    """Read when each packet is shown, without decoding.

    Raises:
        VideoRejected: not a video, or without picture.
    """
    try:
        with open_media(path) as container:
            stream = picture_of(container, path)
            # Not the packets themselves, which would hold the whole file in memory.
            packets = [
                _Packet(packet.pts, packet.is_keyframe, packet.is_discard)
                for packet in container.demux(stream)
                if packet.size
            ]
            return _describe(path, stream, packets, _origin(container))
    except (FFmpegError, OSError) as error:
        raise VideoRejected(f"{path.name} cannot be read as a video: {reason(error)}.") from error


def picture_of(container: InputContainer, path: Path) -> VideoStream:
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream):
        raise VideoRejected(f"{path.name} has no picture in it.")
    return stream


def _origin(container: InputContainer) -> Fraction:
    """When the file begins: whichever of picture and sound comes first."""
    streams = [*container.streams.video, *container.streams.audio]
    starts = [(stream.start_time or 0) * (stream.time_base or Fraction(0)) for stream in streams]
    return min(starts, default=Fraction(0))


def _describe(path: Path, stream: VideoStream, packets: list[_Packet], origin: Fraction) -> Track:
    context, rate = stream.codec_context, stream.average_rate or USUAL_RATE
    timed = bool(packets) and all(packet.pts is not None for packet in packets)
    tick = stream.time_base or Fraction(1, 1000)
    times = [(packet.pts or 0) * tick - origin for packet in packets]
    return Track(
        path=path,
        codec=context.codec.canonical_name,
        pixels=context.pix_fmt or "",
        size=(stream.width, stream.height),
        rate=Fraction(rate),
        extradata=bytes(context.extradata or b""),
        times=times,
        seconds=max(times, default=Fraction(0)) + 1 / Fraction(rate),
        # An edit list that begins inside a group of pictures leaves packets that are decoded but not shown.
        whole=timed and packets[0].is_keyframe and not any(packet.is_discard for packet in packets),
    )


#: Ticks per second of the picture's track: whole for 24, 25, 30, 50 and 60 frames per second.
TICKS = 90_000
#: Bits per second of the voice, for one channel and for two.
MONO_BITS, STEREO_BITS = 128_000, 192_000


def stitch(parts: Sequence[Part], voice: Path, target: Path) -> Stitched:
    """As `avatar.media.decoder_calls.stitch` says."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        tracks, notes = _shared(parts, [scan_track(part.path) for part in parts], Path(folder))
        reencoded = bool(notes)
        placed = [
            _place(part, track, last=part is parts[-1]) for part, track in zip(parts, tracks, strict=True)
        ]
        trims = tuple(
            float(track.seconds - (part.end - part.start)) for part, track in zip(parts, tracks, strict=True)
        )
        _write(tracks, _timetable(placed, _end(placed[-1], parts[-1], tracks[-1])), voice, target)
    notes += [
        f"part {number} is {-trim:.2f} s too short: its last frame is held"
        for number, trim in enumerate(trims, 1)
        if trim < -1 / 25
    ]
    return Stitched(reencoded, tuple(notes), trims)


def _shared(parts: Sequence[Part], tracks: list[Track], folder: Path) -> tuple[list[Track], list[str]]:
    """The tracks as they can lie in one, and why they were encoded again, if they were."""
    kind = Counter(track.kind for track in tracks if track.is_plain and track.whole).most_common(1)
    lead = next((track for track in tracks if kind and track.kind == kind[0][0]), None)
    odd = [
        f"part {number} was encoded again, and all with it: {_difference(track, lead)}"
        for number, track in enumerate(tracks, 1)
        if lead is None or track.kind != lead.kind or not track.whole
    ]
    if not odd:
        return tracks, []
    like, targets = lead or tracks[0], [folder / f"{number}.mp4" for number in range(len(parts))]
    width, height = (side // 2 * 2 for side in like.size)
    for part, track, target in zip(parts, tracks, targets, strict=True):
        seconds = part.end - part.start
        encode_picture(track.path, target, size=(width, height), rate=like.rate, seconds=seconds)
    return [scan_track(target) for target in targets], odd


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


def _write(tracks: list[Track], timetable: list[list[_Times]], voice: Path, target: Path) -> None:
    options = {"movflags": "+faststart", "video_track_timescale": str(TICKS)}
    with ExitStack() as stack:
        template = picture_of(stack.enter_context(open_media(tracks[0].path)), tracks[0].path)
        sound = stack.enter_context(open_sound(voice))
        output = stack.enter_context(av.open(str(target), "w", format="mp4", options=options))
        stream = output.add_stream_from_template(template)
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
