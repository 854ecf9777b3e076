"""What decoding tells about the media of a job."""

from dataclasses import dataclass, field

from avatar.models import Speech

#: How notes begin that tell of a file which decoders may read differently.
DAMAGED, CUT_OFF, RATE_CHANGES = "damaged", "declares", "its sample rate changes"
NO_INDEX = "has no index"


def length_beside(seconds: float, bound: float) -> str:
    """A length in seconds, with digits enough to tell it from the bound."""
    text = f"{seconds:.2f}"
    return f"{seconds:.6f}" if float(text) == bound else text


@dataclass(frozen=True)
class VoiceFacts:
    """A voice, decoded to the end.

    Attributes:
        speech: what is heard of it in one channel.
        clipped: whether it was recorded too loud.
        remedy: what it needs before every reader hears the same: nothing, a true `header` around the same bytes, or
            to be encoded anew (`encode`).
        track: which of the sounds of its file it is, from 0; -1 for the one that every reader takes.
        pieces: files that were glued together in it, and have to be read one by one; 0 if it is one.
        mix: the channel (`left`, `right`) that is sent alone, because both cancel each other in mono.
    """

    seconds: float
    samples: int
    sample_rate: int
    channels: int
    codec: str
    container: str
    peak: float
    loudness: float
    notes: tuple[str, ...] = ()
    speech: Speech = field(default_factory=Speech)
    clipped: bool = False
    remedy: str = ""
    track: int = -1
    pieces: int = 0
    mix: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether any reader of the file hears this voice, all of it, and nothing else."""
        return self.track < 0 and not self.pieces and not self.mix

    @property
    def is_intact(self) -> bool:
        """Whether every decoder will make the same of the file: none had to guess or to step over anything."""
        return not any(note.startswith((DAMAGED, CUT_OFF, RATE_CHANGES, NO_INDEX)) for note in self.notes)


@dataclass(frozen=True)
class VideoFacts:
    """A video, decoded to the end. Starts and lengths in seconds."""

    width: int
    height: int
    fps: float
    frames: int
    video_start: float
    video_seconds: float
    audio_start: float
    audio_seconds: float
    has_audio: bool
    video_codec: str
    audio_codec: str
    container: str = ""
    faststart: bool = False

    @property
    def seconds(self) -> float:
        """When the last of picture and sound ends."""
        return max(self.video_start + self.video_seconds, self.audio_start + self.audio_seconds)


@dataclass(frozen=True)
class PortraitFacts:
    """A portrait as the provider gets it. Sides in pixels, size in bytes.

    Attributes:
        changed: False when the file is passed on byte for byte.
        format: `JPEG` or `PNG`.
        spec: the preparation that made another picture of it; none where it is the source's own picture.
        face: left, top, width and height of the largest face found, as shares of the picture's sides.
        searched: whether faces could be looked for.
    """

    width: int
    height: int
    format: str
    size: int
    changed: bool
    notes: tuple[str, ...] = ()
    spec: str = ""
    face: tuple[float, float, float, float] | None = None
    searched: bool = False

    @property
    def content_type(self) -> str:
        return f"image/{self.format.lower()}"

    @property
    def suffix(self) -> str:
        return ".jpg" if self.format == "JPEG" else ".png"
