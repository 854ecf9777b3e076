"""What decoding tells about the media of a job."""

from dataclasses import dataclass

#: How notes begin that tell of a file which decoders may read differently.
DAMAGED, CUT_OFF, RATE_CHANGES = "damaged", "declares", "its sample rate changes"
NO_INDEX = "has no index"


def length_beside(seconds: float, bound: float) -> str:
    """A length in seconds, with digits enough to tell it from the bound."""
    text = f"{seconds:.2f}"
    return f"{seconds:.6f}" if float(text) == bound else text


@dataclass(frozen=True)
class VoiceFacts:
    """A voice, decoded to the end. Field for field what `models.Voice` holds beside its source."""

    seconds: float
    samples: int
    sample_rate: int
    channels: int
    codec: str
    container: str
    peak: float
    loudness: float
    notes: tuple[str, ...] = ()

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
    """

    width: int
    height: int
    format: str
    size: int
    changed: bool
    notes: tuple[str, ...] = ()

    @property
    def content_type(self) -> str:
        return f"image/{self.format.lower()}"

    @property
    def suffix(self) -> str:
        return ".jpg" if self.format == "JPEG" else ".png"
