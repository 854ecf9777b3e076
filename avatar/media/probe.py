"""What a voice or a video really is: decoded to the end, believed by content and never by name."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from avatar.errors import InvalidInput, VideoRejected
from avatar.media.facts import CUT_OFF, DAMAGED, NO_INDEX, RATE_CHANGES, VideoFacts, VoiceFacts
from avatar.media.file_ranges import FileRange
from avatar.media.mp3_files import read_mp3
from avatar.media.sound import Sound, open_media, open_sound, reason
from avatar.media.sound_files import ends_open, read_wav, split_files
from avatar.media.sound_levels import Levels

#: Below this peak (-60 dBFS) nobody would hear anything: a talking video of it is never wanted.
SILENT_PEAK = 0.001
#: What to do with a sound that cannot be used.
ANEW = "Export it anew, as MP3 or WAV, or use another copy."
#: Hz under which nobody understands a word, and which only broken headers claim.
LOWEST_RATE = 4000
#: RMS level, dBFS, under which a voice is called very quiet. Speech is usually recorded at -30 to -15.
QUIET_DBFS = -42.0
#: Share of samples at full scale from which clipping is audible rather than incidental.
CLIPPED_SHARE = 0.0005
#: A sound this much quieter than the loudest in its file (dB) is silence beside it.
BESIDE_DB = 30.0
#: Kinds whose streams each tell how long they are.
DECLARING = ("mp4", "flac", "aiff", "caf", "au", "w64", "tta", "wv", "ape", "ogg", "avi", "voc")

CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2": "mp4", "matroska,webm": "matroska"}
SUFFIXES = {
    ".mp3": "mp3", ".wav": "wav", ".wave": "wav", ".flac": "flac", ".aac": "aac", ".aif": "aiff",
    ".aiff": "aiff", ".ogg": "ogg", ".oga": "ogg", ".opus": "ogg", ".m4a": "mp4", ".mp4": "mp4",
    ".mov": "mp4", ".webm": "matroska", ".mkv": "matroska", ".mka": "matroska",
}  # fmt: skip

Viewer = Callable[[VideoFrame | AudioFrame], None]


@dataclass
class _Heard:
    """One sound of a file, decoded to the end, through all the files that were glued together in it.

    Attributes:
        track: which of the file's sounds it is, from 0; -1 where there is but one.
        declared: seconds it has by its own account, 0 if it gives none.
    """

    track: int
    levels: Levels = field(default_factory=Levels)
    damaged: int = 0
    channels: int = 0
    codec: str = ""
    declared: float = 0.0


def probe_voice(path: Path, name: str = "") -> VoiceFacts:
    """As `avatar.media.decoder_calls.probe_voice` says."""
    name = name or path.name
    with open_sound(path, name) as sound:
        kind, tracks = container_name(sound.container), _tracks(sound)
        pictures = [s for s in sound.container.streams.video if not s.disposition & Disposition.attached_pic]
        form = _form(path, kind)
    pieces = split_files(path, form)
    all_heard = [_hear(path, name, track, pieces) for track in tracks]
    heard = _speaking(all_heard)
    _refuse_unusable(name, heard, len(tracks))
    facts = _describe(heard, form, pieces, path)
    notes = _notes(_File(path, name, form, bool(pictures)), facts, heard, all_heard)
    return replace(facts, notes=tuple(notes))


def _tracks(sound: Sound) -> list[int]:
    """The sounds of a file, the one that FFmpeg takes for the best first; -1 for the only one."""
    sounds = [stream for stream in sound.container.streams if stream.type == "audio"]
    if len(sounds) < 2:  # noqa: PLR2004 - one
        return [-1]
    best = next((at for at, stream in enumerate(sounds) if stream.index == sound.stream.index), 0)
    return [best, *(at for at in range(len(sounds)) if at != best)]


def _hear(path: Path, name: str, track: int, pieces: list[FileRange]) -> _Heard:
    heard = _Heard(track)
    for piece in pieces:
        try:
            _hear_piece(heard, path, name, None if _is_all(pieces, path) else piece)
        except InvalidInput:
            if piece is pieces[0] and track < 1:
                raise
            heard.damaged += 1
    return heard


def _is_all(pieces: list[FileRange], path: Path) -> bool:
    return len(pieces) == 1 and not pieces[0].head and pieces[0].end - pieces[0].start == path.stat().st_size


def _hear_piece(heard: _Heard, path: Path, name: str, piece: FileRange | None) -> None:
    with open_sound(path, name, track=None if heard.track < 0 else heard.track, piece=piece) as sound:
        if not sound.is_decodable:
            return
        for frame in sound.frames():
            heard.levels.add(frame)
        heard.damaged += sound.damaged
        if not heard.codec:
            heard.codec = sound.stream.codec_context.codec.canonical_name
            heard.channels = sound.stream.channels
            heard.declared = 0.0 if piece else _declared(path, sound, heard.levels.seconds)


def _declared(path: Path, sound: Sound, decoded: float) -> float:
    """Seconds by the file's own account. FFmpeg guesses where there is none: its word counts for some kinds only."""
    container, kind = sound.container, container_name(sound.container)
    whole = (container.duration or 0) / 1_000_000
    own = float((sound.stream.duration or 0) * (sound.stream.time_base or 0))
    if kind == "wav":
        wav = read_wav(path)
        return decoded * wav.announced / wav.size if wav and wav.announced else 0.0
    if kind == "mp3":
        return whole
    if kind in ("matroska", "asf"):
        return _by_tag(sound.stream.metadata.get("DURATION", "")) or (
            whole if len(container.streams) == 1 else 0.0
        )
    return min(own or whole, whole or own) if kind in DECLARING else 0.0


def _by_tag(text: str) -> float:
    """Seconds of Matroska's `00:00:12.021000000`."""
    try:
        hours, minutes, seconds = (float(part) for part in text.split(":"))
    except ValueError:
        return 0.0
    return 3600 * hours + 60 * minutes + seconds


def _speaking(heard: list[_Heard]) -> _Heard:
    """The first sound that is no silence beside the loudest."""
    loudest = max(one.levels.loudness for one in heard)
    return next(one for one in heard if one.levels.loudness >= loudest - BESIDE_DB)


def _refuse_unusable(name: str, heard: _Heard, tracks: int) -> None:
    levels = heard.levels
    if not levels.values:
        raise InvalidInput(f"{name} holds no sound: not one sample could be decoded.", hint=ANEW)
    if not math.isfinite(levels.power):
        raise InvalidInput(f"{name} holds samples that are not numbers (NaN or infinite).", hint=ANEW)
    if (lowest := min(levels.per_rate)) < LOWEST_RATE:
        raise InvalidInput(
            f"{name} has {lowest} samples a second; a voice needs {LOWEST_RATE} at least.", hint=ANEW
        )
    if levels.peak < SILENT_PEAK:
        each = f", each of its {tracks} sounds" if tracks > 1 else ""
        raise InvalidInput(
            f"{name} is silent all through ({levels.seconds:.1f} s{each}).", hint="Was the microphone on?"
        )
    if heard.damaged > 10 + levels.seconds:
        raise InvalidInput(
            f"{name} is damaged: {heard.damaged} of its packets could not be decoded.", hint=ANEW
        )


def _describe(heard: _Heard, form: str, pieces: list[FileRange], path: Path) -> VoiceFacts:
    levels, rate = heard.levels, next(iter(heard.levels.per_rate))
    mix = levels.lost_mix
    return VoiceFacts(
        seconds=levels.seconds,
        samples=round(levels.seconds * rate),
        sample_rate=rate,
        channels=heard.channels,
        codec=heard.codec,
        container=form,
        peak=levels.peak,
        loudness=levels.loudness,
        speech=levels.speech(mix),
        clipped=levels.clipped > CLIPPED_SHARE * levels.values,
        remedy=_remedy(path, form),
        track=heard.track if heard.track > 0 else -1,
        pieces=0 if _is_all(pieces, path) else len(pieces),
        mix=mix,
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


def _remedy(path: Path, form: str) -> str:
    """What a WAV or MP3 needs before every reader hears the same in it: see `VoiceFacts.remedy`."""
    if form == "wav":
        wav = read_wav(path)
        if wav is None or wav.is_true:
            return ""
        return "encode" if wav.is_long_placeholder else "header"
    if form == "mp3":
        mp3 = read_mp3(path)
        if mp3 is None or not mp3.is_unbroken or not mp3.is_true:
            return "encode"
        return "" if mp3.is_bare else "header"
    return ""


@dataclass(frozen=True)
class _File:
    """A voice as its user knows it."""

    path: Path
    name: str
    kind: str
    has_pictures: bool


def _notes(file: _File, facts: VoiceFacts, heard: _Heard, all_heard: list[_Heard]) -> list[str]:
    suffix = Path(file.name).suffix
    found = "wav" if file.kind == "rf64" else file.kind
    told = SUFFIXES.get(suffix.lower(), found)
    seconds = facts.seconds
    notes = [
        (told != found, f"named {suffix}, but its content is {found}"),
        (file.has_pictures, "a video file: its sound is used"),
        (len(all_heard) > 1, _track_note(heard, all_heard)),
        (facts.pieces > 1, f"{facts.pieces} files glued together: all of them are used"),
        (facts.pieces == 1, f"its header tells of less than its {seconds:.1f} s: all of it is used"),
        (
            not facts.pieces and _has_short_index(file),
            f"its index tells of less than its {seconds:.1f} s: all of it is used",
        ),
        (bool(facts.mix), f"its channels cancel each other in mono: the {facts.mix} one is used"),
        (heard.damaged > 0, f"{DAMAGED}: {heard.damaged} packets could not be decoded"),
        (heard.declared > seconds + 0.5, _doubt(file, heard.declared, seconds)),
        (found == "ogg" and ends_open(file.path), "has no end mark: it may be cut off"),
        (len(heard.levels.per_rate) > 1, f"{RATE_CHANGES} on the way"),
        (facts.loudness < QUIET_DBFS, f"very quiet ({facts.loudness:.0f} dBFS)"),
        (facts.clipped, "clipped: its loudest parts are cut off"),
    ]
    return [text for holds, text in notes if holds]


def _has_short_index(file: _File) -> bool:
    mp3 = read_mp3(file.path) if file.kind == "mp3" else None
    return mp3 is not None and mp3.is_index_short


def _doubt(file: _File, declared: float, seconds: float) -> str:
    mp3 = read_mp3(file.path) if file.kind == "mp3" else None
    if mp3 and mp3.counted is None:
        return f"{NO_INDEX}: players may take its {seconds:.1f} s for {declared:.1f} s"
    return f"{CUT_OFF} {declared:.1f} s, but only {seconds:.1f} s could be decoded: it may be cut off"


def _track_note(heard: _Heard, all_heard: list[_Heard]) -> str:
    """Which of several sounds is used, and what the others are."""
    others = [(one.track + 1, _why_not(one)) for one in all_heard if one is not heard]
    rest = "".join(f", number {number} {why}" for number, why in sorted(others) if why)
    return f"holds {len(all_heard)} sounds: number {heard.track + 1} is used{rest}"


def _why_not(one: _Heard) -> str:
    if not one.levels.values:
        return "cannot be decoded"
    return "is silent" if one.levels.peak < SILENT_PEAK else ""


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


def watch_video(path: Path, *viewers: Viewer) -> VideoFacts:
    """Decode a video to the end, showing every frame to the viewers on the way.

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
    step, tick = 1 / float(video.average_rate or 25), float(video.time_base or 0)
    picture, sound = _Track(), _Track()
    for frame in container.decode([stream for stream in (video, audio) if stream]):
        if isinstance(frame, AudioFrame):
            sound.add(frame.time, frame.samples / frame.sample_rate, frame.samples)
        elif isinstance(frame, VideoFrame):
            picture.add(frame.time, frame.duration * tick or step)
        else:
            continue
        for see in viewers:
            see(frame)
    return picture, sound


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
