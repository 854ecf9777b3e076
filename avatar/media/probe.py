"""What a voice or a video really is: decoded to the end, believed by content and never by name."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from avatar.errors import InvalidInput, VideoRejected
from avatar.media.confined import confined
from avatar.media.facts import CUT_OFF, DAMAGED, NO_INDEX, RATE_CHANGES, VideoFacts, VoiceFacts
from avatar.media.sound import Sound, as_float, open_media, open_sound, reason

# What a file says of itself, where FFmpeg does not pass it on.

#: Writers that cannot seek back leave about this in a WAV's size field.
STREAMED_WAV = 0x7FFF_0000
#: An MP3's index is in its first frame, which is no longer than this.
FRAME_BYTES = 4096
ID3_BYTES = 10
#: An Ogg page is no longer than this; its header tells whether it is the last.
PAGE_BYTES, PAGE_FLAGS, LAST_PAGE = 65_307, 5, 4


def declared_seconds(path: Path, container: str, duration: float, decoded: float) -> float:
    """Length by the file's own account, 0 if it gives none.

    Args:
        path: the file.
        container: what it is (`container_name`).
        duration: what FFmpeg takes it for, in seconds.
        decoded: what was decoded of it, in seconds.
    """
    if container != "wav":
        return duration
    # FFmpeg goes by the size of the file; only the header still knows how much there should be.
    with path.open("rb") as file:
        head = file.read(8)
    announced, size = int.from_bytes(head[4:], "little") + 8, path.stat().st_size
    return decoded * announced / size if head[:4] == b"RIFF" and announced < STREAMED_WAV else 0.0


def has_index(path: Path) -> bool:
    """Whether an MP3 tells how many frames it has; else its length is guessed from its first ones."""
    with path.open("rb") as file:
        head = file.read(ID3_BYTES)
        tagged = head.startswith(b"ID3") and len(head) == ID3_BYTES
        file.seek(ID3_BYTES + _syncsafe(head[6:]) if tagged else 0)
        frame = file.read(FRAME_BYTES)
    return any(mark in frame for mark in (b"Xing", b"Info", b"VBRI"))


def _syncsafe(four: bytes) -> int:
    return sum((byte & 0x7F) << shift for byte, shift in zip(four, (21, 14, 7, 0), strict=True))


def ends_open(path: Path) -> bool:
    """Whether an Ogg ends without the page that is marked as its last."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - PAGE_BYTES))
        tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    return len(page) > PAGE_FLAGS and not page[PAGE_FLAGS] & LAST_PAGE


def has_faststart(path: Path) -> bool:
    """Whether an MP4's index lies before its media, so that it plays while it loads."""
    with path.open("rb") as file:
        while len(head := file.read(8)) == 8:  # noqa: PLR2004 - size and type of a box
            size, kind = int.from_bytes(head[:4]), head[4:]
            if kind in (b"moov", b"mdat"):
                return kind == b"moov"
            size = int.from_bytes(file.read(8)) - 8 if size == 1 else size
            if size < 8:  # noqa: PLR2004 - smaller than its own header
                return False
            file.seek(size - 8, 1)
    return False


__all__ = ["VideoFacts", "Viewer", "VoiceFacts", "probe_video", "probe_voice", "watch_video"]

#: Below this peak (-60 dBFS) nobody would hear anything: a talking video of it is never wanted.
SILENT_PEAK = 0.001
#: Hz under which nobody understands a word, and which only broken headers claim.
LOWEST_RATE = 4000
#: RMS level, dBFS, under which a voice is called very quiet. Speech is usually recorded at -30 to -15.
QUIET_DBFS = -42.0
#: Share of samples at full scale from which clipping is audible rather than incidental.
CLIPPED_SHARE = 0.0005

CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2": "mp4", "matroska,webm": "matroska"}
SUFFIXES = {
    ".mp3": "mp3", ".wav": "wav", ".wave": "wav", ".flac": "flac", ".aac": "aac", ".aif": "aiff",
    ".aiff": "aiff", ".ogg": "ogg", ".oga": "ogg", ".opus": "ogg", ".m4a": "mp4", ".mp4": "mp4",
    ".mov": "mp4", ".webm": "matroska", ".mkv": "matroska", ".mka": "matroska",
}  # fmt: skip

Viewer = Callable[[VideoFrame | AudioFrame], None]


@dataclass
class Levels:
    """Running peak and power of a sound, and its length by sample rate."""

    per_rate: Counter[int] = field(default_factory=Counter)
    values: int = 0
    peak: float = 0.0
    power: float = 0.0
    clipped: int = 0

    def add(self, frame: AudioFrame) -> None:
        block = as_float(frame).ravel()
        self.per_rate[frame.sample_rate] += frame.samples
        self.values += block.size
        self.power += float(block @ block)
        peak = float(max(block.max(initial=0.0), -block.min(initial=0.0)))
        if peak >= 0.999:  # noqa: PLR2004 - full scale, less one step of 10 bits
            self.clipped += int(np.count_nonzero(np.abs(block) >= 0.999))  # noqa: PLR2004
        if not peak <= self.peak:  # NaN passes this, so that it is seen at the end
            self.peak = peak

    @property
    def seconds(self) -> float:
        return sum(samples / rate for rate, samples in self.per_rate.items())

    @property
    def loudness(self) -> float:
        mean = self.power / self.values if self.values else 0.0
        return 10 * math.log10(mean) if mean > 1e-12 else -120.0  # noqa: PLR2004 - the floor itself


@confined(InvalidInput)
def probe_voice(path: Path) -> VoiceFacts:
    """Decode a voice to the end and describe it.

    Length is decoded samples over sample rate, after the encoder's delay and padding have been taken off as
    FFmpeg's decoders do. Loudness is RMS over all channels in dBFS.

    Raises:
        InvalidInput: not readable as audio, no samples, not numbers, silent all through, or mostly damaged.
    """
    levels = Levels()
    with open_sound(path) as sound:
        for frame in sound.frames():
            levels.add(frame)
        _refuse_unusable(path.name, levels, sound.damaged)
        return _describe(path, sound, levels)


def _refuse_unusable(name: str, levels: Levels, damaged: int) -> None:
    if not levels.values:
        raise InvalidInput(f"{name} holds no sound: not one sample could be decoded.")
    if not math.isfinite(levels.power):
        raise InvalidInput(f"{name} holds samples that are not numbers (NaN or infinite).")
    if (lowest := min(levels.per_rate)) < LOWEST_RATE:
        raise InvalidInput(f"{name} has {lowest} samples a second; a voice needs {LOWEST_RATE} at least.")
    if levels.peak < SILENT_PEAK:
        raise InvalidInput(f"{name} is silent all through ({levels.seconds:.1f} s).")
    if damaged > 10 + levels.seconds:
        raise InvalidInput(f"{name} is damaged: {damaged} of its packets could not be decoded.")


def _describe(path: Path, sound: Sound, levels: Levels) -> VoiceFacts:
    stream, rate = sound.stream, next(iter(levels.per_rate))
    return VoiceFacts(
        seconds=levels.seconds,
        samples=round(levels.seconds * rate),
        sample_rate=rate,
        channels=stream.channels,
        codec=stream.codec_context.codec.canonical_name,
        container=_form(path, container_name(sound.container)),
        peak=levels.peak,
        loudness=levels.loudness,
        notes=tuple(_voice_notes(path, sound, levels)),
    )


def container_name(container: InputContainer) -> str:
    """FFmpeg's name of the format found, its families reduced to one word."""
    return CONTAINERS.get(container.format.name, container.format.name)


def _form(path: Path, container: str) -> str:
    """RF64, for WAVs of over 4 GB, is told from WAV: FFmpeg reads both alike, and not everybody does."""
    if container == "wav":
        with path.open("rb") as file:
            return "wav" if file.read(4) == b"RIFF" else "rf64"
    return container


def _doubt(path: Path, container: str, declared: float, seconds: float) -> str:
    if container == "mp3" and not has_index(path):
        return f"{NO_INDEX}: players may take its {seconds:.1f} s for {declared:.1f} s"
    return f"{CUT_OFF} {declared:.1f} s, but only {seconds:.1f} s could be decoded: it may be cut off"


def _voice_notes(path: Path, sound: Sound, levels: Levels) -> list[str]:
    found = container_name(sound.container)
    told = SUFFIXES.get(path.suffix.lower(), found)
    pictures = [s for s in sound.container.streams.video if not s.disposition & Disposition.attached_pic]
    guessed = (sound.container.duration or 0) / 1_000_000
    declared = declared_seconds(path, found, guessed, levels.seconds)
    notes = [
        (told != found, f"named {path.suffix}, but its content is {found}"),
        (bool(pictures), "a video file: its sound is used"),
        (
            len(sound.container.streams.audio) > 1,
            f"several audio streams: number {sound.stream.index} is used",
        ),
        (sound.damaged > 0, f"{DAMAGED}: {sound.damaged} packets could not be decoded"),
        (declared > levels.seconds + 0.5, _doubt(path, found, declared, levels.seconds)),
        (found == "ogg" and ends_open(path), "has no end mark: it may be cut off"),
        (len(levels.per_rate) > 1, f"{RATE_CHANGES} on the way"),
        (levels.loudness < QUIET_DBFS, f"very quiet ({levels.loudness:.0f} dBFS)"),
        (levels.clipped > CLIPPED_SHARE * levels.values, "clipped: its loudest parts are cut off"),
    ]
    return [text for holds, text in notes if holds]


@dataclass
class _Track:
    """What was decoded of one stream: when it began and ended (seconds), and how much of it there was."""

    frames: int = 0
    samples: int = 0
    start: float = 0.0
    end: float = 0.0

    def add(self, start: float | None, seconds: float, samples: int = 0) -> None:
        start = self.end if start is None else start
        self.start = min(self.start, start) if self.frames else start
        self.end = max(self.end, start + seconds)
        self.frames += 1
        self.samples += samples


@confined(VideoRejected)
def probe_video(path: Path) -> VideoFacts:
    """Decode a video to the end, picture and sound.

    Raises:
        VideoRejected: not a video, without picture, damaged, or cut short.
    """
    return watch_video(path)


def watch_video(path: Path, *viewers: Viewer) -> VideoFacts:
    """Decode a video to the end, showing every frame to the viewers on the way. Called in the confined process.

    Raises:
        VideoRejected: not a video, without picture, damaged, or cut short.
    """
    try:
        with open_media(path) as container:
            video, audio = container.streams.best("video"), container.streams.best("audio")
            if not isinstance(video, VideoStream):
                raise VideoRejected(f"{path.name} has no picture in it.")
            sound = audio if isinstance(audio, AudioStream) else None
            tracks = _decode(container, video, sound, viewers)
            _refuse_cut(path.name, video, tracks[0])
            facts = _video_facts(video, sound, *tracks)
            return replace(facts, container=container_name(container), faststart=has_faststart(path))
    except (FFmpegError, OSError) as error:
        raise VideoRejected(f"{path.name} does not decode as a video: {reason(error)}.") from error


def _decode(
    container: InputContainer, video: VideoStream, audio: AudioStream | None, viewers: tuple[Viewer, ...]
) -> tuple[_Track, _Track]:
    video.thread_type = "AUTO"
    step = 1 / float(video.average_rate or 25)
    picture, sound = _Track(), _Track()
    for frame in container.decode([stream for stream in (video, audio) if stream]):
        if isinstance(frame, AudioFrame):
            sound.add(frame.time, frame.samples / frame.sample_rate, frame.samples)
        elif isinstance(frame, VideoFrame):
            picture.add(frame.time, float(frame.duration * (frame.time_base or 0)) or step)
        else:
            continue
        for see in viewers:
            see(frame)
    return picture, sound


def _refuse_cut(name: str, video: VideoStream, picture: _Track) -> None:
    if not picture.frames:
        raise VideoRejected(f"{name}: not one frame of its picture could be decoded.")
    # An edit list may hide a frame or two on purpose; a download cut short loses more.
    if picture.frames < 0.98 * video.frames - 2:
        raise VideoRejected(f"{name} is cut short: {picture.frames} of {video.frames} frames decode.")


def _video_facts(video: VideoStream, audio: AudioStream | None, picture: _Track, sound: _Track) -> VideoFacts:
    return VideoFacts(
        width=video.width,
        height=video.height,
        fps=float(video.average_rate or 0),
        frames=picture.frames,
        video_start=picture.start,
        video_seconds=picture.end - picture.start,
        audio_start=sound.start,
        audio_seconds=sound.samples / audio.sample_rate if audio and sound.samples else 0.0,
        has_audio=sound.samples > 0,
        video_codec=video.codec_context.codec.canonical_name,
        audio_codec=audio.codec_context.codec.canonical_name if audio else "",
    )
