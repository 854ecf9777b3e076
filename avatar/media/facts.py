"""What decoding tells about the media of a job, and what it is told to make of them."""

import re
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from avatar.errors import InvalidInput
from avatar.models import FORMAT, Limits
from avatar.stored_models import Check, Speech

#: Left, top, width and height of a face, as shares of the picture's sides.
Box = tuple[float, float, float, float]

#: How notes begin that tell of a file which decoders may read differently.
DAMAGED, CUT_OFF, RATE_CHANGES = "damaged", "declares", "its sample rate changes"
NO_INDEX = "has no index"
#: Names these rules in identities: raise it when the same voice would be cut elsewhere.
CUTS_SPEC = "c1"
#: Names this preparation in identities: raise it when the same source would be prepared to another sound.
VOICE_SPEC = "v1"
#: Name this preparation in identities: raise them when the same source would be prepared to another picture. Pictures
#: whose colours are converted have a name of their own; all others keep the one they were bought under.
PORTRAIT_SPEC, RECOLOURED_SPEC = "p1", "p2"


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


#: Below this there is hardly a picture in it: 128 kbit/s of sound alone come to 16,000.
MIN_BYTES_PER_SECOND = 2000


def check_bytes(facts: VideoFacts, size: int) -> Check:
    least = int(facts.seconds * MIN_BYTES_PER_SECOND)
    value, bound = f"{size} bytes", f"at least {least} bytes"
    return Check(name="size", value=value, bound=bound, passed=size >= least)


def check_voice(facts: VoiceFacts, limits: Limits) -> None:
    """Raise `InvalidInput` if the voice is shorter or longer than the bounds; names the length and the bound."""
    if facts.seconds < limits.min_seconds:
        raise InvalidInput(
            f"The voice is {length_beside(facts.seconds, limits.min_seconds)} s long; "
            f"the shortest accepted is {limits.min_seconds:g} s."
        )
    if facts.seconds > limits.max_seconds:
        raise InvalidInput(
            f"The voice is {length_beside(facts.seconds, limits.max_seconds)} s long; "
            f"the longest accepted is {limits.max_seconds:g} s."
        )


@dataclass(frozen=True)
class PreparedVoice:
    """How the file for the provider came about.

    Attributes:
        changed: False when the voice was passed on byte for byte.
        spec: the preparation that made another sound of it; none where it is the source's own, whatever it lies in.
    """

    changed: bool
    spec: str


@dataclass(frozen=True)
class Cut:
    """One segment of a voice.

    Attributes:
        start: its first sample, counted in the decoded voice.
        end: the sample after its last.
        loudness: dBFS around its end; NaN for the last segment.
        pause: seconds of pause around its end; 0 where the voice had none, and for the last segment.
    """

    index: int
    start: int
    end: int
    loudness: float
    pause: float


@dataclass(frozen=True)
class SegmentFile:
    """A segment ready for the provider.

    Attributes:
        path: WAV or MP3; the suffix tells.
        samples: in the decoded voice, at the voice's rate.
        seconds: `samples` over that rate.
        sha256: of the sound, see `cut_voice`.
    """

    path: Path
    samples: int
    seconds: float
    sha256: str


@dataclass(frozen=True)
class Stills:
    """Where the stills of a video go: the poster, and a strip of frames from its beginning to its end. Both JPEG."""

    poster: Path
    contact: Path


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


@dataclass(frozen=True)
class FormSpec:
    """What is asked for.

    Attributes:
        shape: `9:16`, `1080x1920`, `same`.
        fit: `blur` or `plain` behind the whole picture, or `crop`.
        loudness: LUFS; None leaves it.
        label: shown all through; empty for none.
        face: left, top, width and height of the face, as shares of the picture's sides.
        logo, intro, outro: files; empty for none.
    """

    shape: str
    fit: str = "blur"
    loudness: float | None = None
    label: str = ""
    face: tuple[float, float, float, float] | None = None
    logo: tuple[Path, ...] = ()
    intro: tuple[Path, ...] = ()
    outro: tuple[Path, ...] = ()


@dataclass(frozen=True)
class MadeForm:
    """What came out: pixels, seconds, LUFS before and after, the true peak in dBTP, SSIM of the picture."""

    width: int
    height: int
    seconds: float
    intro_seconds: float
    loudness_before: float
    loudness: float
    peak: float
    quality: float


def form_of(name: str) -> FormSpec:
    """Raises `ValueError` for what is no form."""
    if not re.fullmatch(FORMAT, name):
        raise ValueError(f"{name!r} is no form; as in 9:16, 1:1/crop, 1080x1920/plain, same")
    shape, _, fit = name.partition("/")
    return FormSpec(shape, fit or "blur")
