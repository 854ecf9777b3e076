"""What is asked of the process that decodes: every function here runs there, and what it needs is imported there.

Nothing else outside this folder opens media, so that no other process of the project loads FFmpeg's decoders.
"""

from base64 import b64decode, b64encode
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from avatar.errors import InvalidInput, VideoRejected
from avatar.media.confined import confined
from avatar.media.disclosure import CaptionTrack, MarkedFile, Marks
from avatar.media.facts import (
    Cut,
    FormSpec,
    MadeForm,
    Part,
    PortraitFacts,
    PreparedVoice,
    SegmentFile,
    Stills,
    Stitched,
    VideoFacts,
    VoiceFacts,
)
from avatar.media.webvtt import Cue
from avatar.models import Limits
from avatar.stored_models import Check


@confined(InvalidInput)
def probe_voice(path: Path, name: str = "") -> VoiceFacts:
    """Decode a voice to the end and describe it.

    Length is decoded samples over sample rate, after the encoder's delay and padding have been taken off as
    FFmpeg's decoders do. Loudness is RMS over all channels in dBFS. Of several sounds in a file, the first that
    is no silence beside the others is heard.

    Args:
        path: the file.
        name: what its user calls it.

    Raises:
        InvalidInput: not readable as audio, no samples, not numbers, silent all through, or mostly damaged.
    """
    from avatar.media import probe

    return probe.probe_voice(path, name)


@confined(InvalidInput)
def prepare_portrait(path: Path, target: Path, limits: Limits, name: str = "") -> PortraitFacts:
    """Write to `target` the portrait as a provider takes it: upright, opaque, 8-bit sRGB, JPEG or PNG, and no more.

    A JPEG or PNG that is so already is copied byte for byte; one that holds other things beside (EXIF, comments, a
    second picture) is copied without them, its picture untouched.

    Args:
        path: the picture.
        target: where to write.
        limits: of the provider.
        name: what its user calls it.

    Raises:
        InvalidInput: not an image, too small, too long-drawn, or too large; the text tells the number and the bound.
    """
    from avatar.media import portrait

    return portrait.prepare_portrait(path, target, limits, name)


@confined(InvalidInput)
def copy_voice(path: Path, target: Path, facts: VoiceFacts, span: tuple[int, int] | None = None) -> None:
    """Write the voice alone, as every reader hears it, to a FLAC: one sound, its pieces joined, one channel or two.

    Args:
        path: the file it is in.
        target: where to write.
        facts: what `probe_voice` found; tells where in the file the voice is.
        span: the first sample to keep and the one after the last; none for all.
    """
    from avatar.media import voice

    voice.copy_voice(path, target, facts, span)


@confined(InvalidInput)
def prepare_voice(path: Path, target: Path, facts: VoiceFacts, limits: Limits) -> PreparedVoice:
    """Write to `target` the voice as a provider takes it: an MP3, or WAV of plain PCM, whose header is true.

    A file that is so already, within the byte limit, is copied byte for byte; its samples or frames get another
    header where theirs is untrue. Anything else becomes an MP3 of the same length.

    Raises:
        InvalidInput: it does not fit into the byte limit even at 32 kbit/s.
    """
    from avatar.media import voice

    return voice.prepare_voice(path, target, facts, limits)


@confined(InvalidInput)
def plan_cuts(path: Path, facts: VoiceFacts, limits: Limits, *, frame_rate: int = 25) -> tuple[Cut, ...]:
    """Cut a voice of any length into segments within the limits. One pass over the file, 5 MB an hour.

    A voice within the limits is one segment. Any other is cut from its beginning on, each time in the longest
    pause near the limit, whatever comes later: an edit changes the segments it touches, and the last two.
    Cut `n` frames into the voice is at sample `floor(n * sample_rate / frame_rate + 1/2)`.

    Args:
        path: the voice.
        facts: what `probe_voice` found.
        limits: bounds of a segment, in seconds.
        frame_rate: frames per second that the cuts fall on.

    Raises:
        InvalidInput: shorter than the shortest segment, or not readable.
    """
    from avatar.media import cuts

    return cuts.plan_cuts(path, facts, limits, frame_rate=frame_rate)


@confined(InvalidInput)
def cut_voice(
    path: Path, facts: VoiceFacts, cuts: Sequence[Cut], folder: Path, limits: Limits
) -> tuple[SegmentFile, ...]:
    """Write each segment to a file of its own. One pass over the voice, in little memory.

    WAV where it fits into the byte limit: no encoder's delay that a reader might overlook, so the lips cannot be
    late. Else MP3 at the best bit rate that fits, the delay written down as in `encode_mp3`.

    The identity of a segment's sound is the SHA-256 of the line `s16le RATE CHANNELS` and its samples as 16-bit
    little-endian PCM at the voice's own rate, one channel or two interleaved: not of its encoding, and without
    resampling. Lossy voices may decode to samples that differ in the last bit on another processor or with
    another FFmpeg: keep the first cutting of such a voice and read it again, rather than cut twice.

    Args:
        path: the voice.
        facts: what `probe_voice` found.
        cuts: what `plan_cuts` chose.
        folder: where `segment-0000.wav` and so on are written.
        limits: of the provider; bytes and containers are minded here.

    Raises:
        InvalidInput: a segment does not fit into the byte limit, or the voice is shorter than its cuts.
    """
    from avatar.media import voice

    return voice.cut_voice(path, facts, cuts, folder, limits)


@confined(InvalidInput)
def voice_outline(path: Path, bars: int) -> tuple[float, ...]:
    """The highest absolute sample in each of `bars` equal parts of a sound, full scale = 1: a waveform to be drawn."""
    from avatar.media import cuts

    return cuts.voice_outline(path, bars)


@confined(InvalidInput)
def read_captions(path: Path, name: str, seconds: float, voice: Path | None = None) -> tuple[Cue, ...]:
    """The cues of a caption file.

    Args:
        path: the file.
        name: what its user calls it; its end tells what it is.
        seconds: length of the voice.
        voice: over which a script is laid.

    Raises:
        InvalidInput: it cannot be read, is empty, or does not fit the voice; the text names file and cue.
    """
    from avatar.media import read_captions as work

    return work.read_captions(path, name, seconds, voice)


@confined(VideoRejected)
def probe_video(path: Path) -> VideoFacts:
    """Decode a video to the end, picture and sound.

    Raises:
        VideoRejected: not a video, without picture, damaged, or cut short.
    """
    from avatar.media import probe

    return probe.watch_video(path)


@confined(VideoRejected)
def inspect_video(
    path: Path, voice_seconds: float, *, voice: Path | None = None, stills: Stills | None = None
) -> tuple[VideoFacts, tuple[Check, ...]]:
    """Decode the video to the end and check it against its voice.

    Args:
        path: the video.
        voice_seconds: length of the voice it was made for.
        voice: that voice; without it, whether the sound is that voice and in time is not checked.
        stills: pictures to make of it on the way.

    Raises:
        VideoRejected: it does not decode at all. A failed check does not raise: the caller decides.
        InvalidInput: the voice cannot be read.
    """
    from avatar.media import inspect_video as work

    return work.inspect_video(path, voice_seconds, voice=voice, stills=stills)


@confined(VideoRejected)
def last_frame(video: Path, target: Path) -> None:
    """Write the last frame as PNG, in full size: the portrait that a following segment goes on from.

    Raises:
        VideoRejected: it does not decode.
    """
    from avatar.media import stills

    stills.last_frame(video, target)


@confined(VideoRejected)
def thumbnail(image: str, max_side: int = 320, max_bytes: int = 40_000) -> str:
    """A small JPEG of a JPEG or PNG of ours, at most `max_side` pixels a side and `max_bytes` long; both in base64."""
    from avatar.media import stills

    return b64encode(stills.thumbnail(b64decode(image), max_side, max_bytes)).decode()


def stitch(parts: Sequence[Part], voice: Path, target: Path) -> Stitched:
    """Write to `target` the pictures of the parts, each from its start to its end, and the voice from zero.

    Every part begins exactly at its start, so nothing adds up over many. What a part has too much is left out from
    the first packet on that would show after its end (with B-frames, a few frames earlier); what it lacks is filled
    by holding its last frame. The last part keeps those frames, and may end up to a group of them after the voice.
    All pictures are encoded again if one cannot share a track with the others.
    The result is an MP4 whose index comes first, of H.264 and AAC. The sound of the parts is not used.

    Raises:
        VideoRejected: a part has no picture, or does not decode.
        InvalidInput: the voice cannot be read.
        ValueError: the parts are none, empty, or not one after another.
    """
    _require_order(parts)
    return _stitch(parts, voice, target)


@confined(VideoRejected)
def _stitch(parts: Sequence[Part], voice: Path, target: Path) -> Stitched:
    from avatar.media import stitch as work

    return work.stitch(parts, voice, target)


def _require_order(parts: Sequence[Part]) -> None:
    follows = all(one.end == other.start for one, other in pairwise(parts))
    if not parts or parts[0].start != 0 or not follows or any(part.end <= part.start for part in parts):
        raise ValueError("parts must begin at zero and follow one another without a gap")


@confined(VideoRejected)
def write_marked(
    source: Path,
    target: Path,
    marks: Marks,
    captions: tuple[CaptionTrack, ...] = (),
    made_of: tuple[Path, ...] = (),
) -> MarkedFile:
    """Write picture and sound of `source` to `target` as they are, with marks and captions.

    Args:
        source: the video.
        target: an MP4 whose index comes first.
        marks: what it says of itself.
        captions: its caption tracks.
        made_of: the files that the provider made; what they say of themselves is said on.

    Raises:
        VideoRejected: it cannot be copied as it is.
    """
    from avatar.media import embed_metadata

    return embed_metadata.write_marked(source, target, marks, captions, made_of)


@confined(VideoRejected, work=8)
def make_form(
    source: Path, target: Path, form: FormSpec, marks: Marks, captions: tuple[CaptionTrack, ...] = ()
) -> MadeForm:
    """Write a form of `source` to `target`: an MP4 with its marks and captions.

    Raises:
        VideoRejected: it, its intro or its outro does not decode.
    """
    from avatar.media import output_formats

    return output_formats.make_form(source, target, form, marks, captions)
