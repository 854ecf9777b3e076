"""Opening media files safely, and sound as numbers."""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain, groupby
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import ArgumentError, FFmpegError, InvalidDataError
from av.packet import Packet
from numpy.typing import NDArray

from avatar.errors import InvalidInput
from avatar.media.file_ranges import FileRange, RangeReader
from avatar.media.kinds import HEAD, MP3_OR_WAV, SPOILED, UNKNOWN, head_of, kind_of, unreadable
from avatar.media.mp3_files import mp3_begins

#: Demuxers that read one file and nothing else. Playlists (HLS, DASH, concat) are left out because they make
#: FFmpeg open what they name: other files of this machine.
FORMATS = "aac,ac3,aiff,amr,ape,asf,au,avi,caf,eac3,flac,flv,gsm,loas,matroska,mov,mp3,mpeg,mpegts,mxf,ogg,tta,voc,w64,wav,wv"
OPEN_OPTIONS = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}

#: What full scale is, and where zero is, in each of FFmpeg's sample formats.
SCALES = {"u8": (128.0, 128.0), "s16": (32768.0, 0.0), "s32": (2147483648.0, 0.0), "s64": (2.0**63, 0.0)}

#: PyAV 18 reads beyond its list of planes where a frame has more of them: garbage, or a crash.
MOST_PLANES = 8
MIXED = "Export it in mono or stereo."

Samples = NDArray[np.float32]


def open_media(path: Path, piece: FileRange | None = None) -> InputContainer:
    """Open a media file, or a piece of one, by its content; its name is never taken for a protocol or a format."""
    piece = piece or _behind_others(path)
    source = RangeReader(path, piece) if piece else f"file:{path}"
    try:
        return _open(source)
    except (InvalidDataError, ArgumentError):
        # An MP3 of a few frames is not guessed by FFmpeg, or is taken for a format that is not among ours.
        with path.open("rb") as file:
            file.seek(piece.start if piece else 0)
            suffix = kind_of(file.read(HEAD)).suffix
        # FFmpeg has one reader for MPEG sound of layers II and III.
        if suffix not in ("mp3", "mp2", "gsm"):
            raise
        return _open(source, "gsm" if suffix == "gsm" else "mp3")


def _behind_others(path: Path) -> FileRange | None:
    """An MP3 behind zeros or other bytes: FFmpeg looks for its index, and the encoder's delay, at the beginning."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    kind, start = kind_of(head), len(head) - len(head.lstrip(b"\0"))
    if kind is UNKNOWN:
        start = mp3_begins(head)
    elif kind.suffix != "mp3":
        return None
    return FileRange(start, path.stat().st_size) if start > 0 else None


def _open(source: str | RangeReader, name: str | None = None) -> InputContainer:
    container = av.open(source, "r", format=name, options=dict(OPEN_OPTIONS), metadata_errors="replace")
    for picture in container.streams.video:
        # On two processors FFmpeg's threads save a sixth of the time at 1080p, none below, for a quarter more work.
        picture.thread_type = "NONE"
    return container


def reason(error: Exception) -> str:
    """Why FFmpeg failed, without the numbers and paths of this machine around it."""
    return getattr(error, "strerror", None) or str(error)


def as_float(frame: AudioFrame) -> Samples:
    """The samples of a frame, full scale = 1, in the frame's own layout (planar or packed)."""
    samples = frame.to_ndarray()
    if samples.dtype.kind == "f":
        return samples.astype(np.float32, copy=False)
    scale, zero = SCALES[frame.format.name.removesuffix("p")]
    return ((samples.astype(np.float32) - zero) / scale).astype(np.float32, copy=False)


class Sound:
    """An open audio stream, decoded once from beginning to end.

    Attributes:
        damaged: packets that could not be decoded so far.
    """

    def __init__(self, container: InputContainer, stream: AudioStream, name: str) -> None:
        self.container = container
        self.stream = stream
        self.name = name
        self.damaged = 0

    @property
    def is_decodable(self) -> bool:
        """Whether FFmpeg has a decoder for it."""
        return getattr(self.stream, "codec_context", None) is not None

    def frames(self) -> Iterator[AudioFrame]:
        packets = self.container.demux(self.stream)
        while (packet := self._next(packets)) is not None:
            yield from self._decode(packet)

    def _next(self, packets: "Iterator[Packet[AudioStream]]") -> "Packet[AudioStream] | None":
        try:
            return next(packets, None)
        except FFmpegError:
            # What cannot even be told apart as packets ends the sound here.
            self.damaged += 1
            return None

    def _decode(self, packet: "Packet[AudioStream]") -> list[AudioFrame]:
        try:
            frames = packet.decode()
        except FFmpegError:
            self.damaged += 1
            return []
        for frame in frames:
            if frame.format.is_planar and frame.layout.nb_channels > MOST_PLANES:
                raise InvalidInput(_unmixable(self, frame.layout.nb_channels), hint=MIXED)
        return frames


@contextmanager
def open_sound(
    path: Path, name: str = "", *, track: int | None = None, piece: FileRange | None = None
) -> Iterator[Sound]:
    """Open an audio stream of a file.

    Args:
        path: the file.
        name: what its user calls it.
        track: which of its sounds, from 0; none for the one that FFmpeg takes for the best.
        piece: of the file, if not all of it.

    Raises:
        InvalidInput: missing, empty, not media, or media without sound.
    """
    name = name or path.name
    head = head_of(path, name)
    try:
        _refuse_noise(head)
        container = open_media(path, piece)
    except (FFmpegError, OSError) as error:
        raise unreadable(path, name, "voice") from error
    with container:
        sounds = container.streams.audio
        stream = container.streams.best("audio") if track is None or track >= len(sounds) else sounds[track]
        if not isinstance(stream, AudioStream):
            # FFmpeg sees a stream in many a text.
            if "voice" not in kind_of(head).taken:
                raise unreadable(path, name, "voice")
            raise InvalidInput(f"{name} has no sound in it.", hint=MP3_OR_WAV)
        yield Sound(container, stream, name)


def _refuse_noise(head: bytes) -> None:
    """FFmpeg reads the header of a RIFX, and of what was changed as if it were text, and makes noise of the rest."""
    if head[:4] == b"RIFX" or kind_of(head) is SPOILED:
        raise InvalidDataError(0, "no sound of these bytes")


def resampled(
    sound: Sound, sample_format: str, layout: str, rate: int, *, frame_size: int | None = None
) -> Iterator[AudioFrame]:
    """The sound in another form, timed from zero whatever its container says.

    Encoders need the times: without them the delay they add is not written down, and the sound plays late. With
    `frame_size`, in frames of so many samples, except for the last of each form.
    """
    samples, tick = 0, Fraction(1, rate)
    for _, stretch in groupby(sound.frames(), key=_form):
        # Glued-together MP3s change their form on the way; a resampler takes one form only.
        resampler = av.AudioResampler(sample_format, layout, rate, frame_size)
        for frame in chain(stretch, (None,)):
            for ready in _mixed(resampler, frame, sound):
                ready.pts, ready.time_base = samples, tick
                samples += ready.samples
                yield ready


def _mixed(resampler: av.AudioResampler, frame: AudioFrame | None, sound: Sound) -> list[AudioFrame]:
    try:
        return resampler.resample(_untimed(frame))
    except FFmpegError as error:
        raise InvalidInput(_unmixable(sound, sound.stream.channels), hint=MIXED) from error


def _unmixable(sound: Sound, channels: int) -> str:
    return f"{sound.name} has {channels} channels at {sound.stream.rate} Hz, which cannot be mixed."


def _form(frame: AudioFrame) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate


def _untimed(frame: AudioFrame | None) -> AudioFrame | None:
    if frame is not None:
        frame.pts = None
    return frame


def read_mono(path: Path, sample_rate: int) -> Samples:
    """The whole sound mixed to one channel at `sample_rate` Hz, full scale = 1."""
    with open_sound(path) as sound:
        blocks = [frame.to_ndarray()[0] for frame in resampled(sound, "flt", "mono", sample_rate)]
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
