"""Voices: bounds, and what the provider is given."""

import shutil
from pathlib import Path

import av

from tasks.errors import InvalidInput
from tasks.media.confined import confined
from tasks.media.facts import VoiceFacts, length_beside
from tasks.media.sound import open_sound, resampled
from tasks.providers.base import Limits

__all__ = ["VOICE_SPEC", "check_voice", "encode_mp3", "prepare_voice"]

#: Names this preparation in identities: raise it when the same source would be prepared to another sound.
VOICE_SPEC = "v1"

#: kbit/s that MPEG-1 layer III knows, best first.
BITRATES = (192, 160, 128, 112, 96, 80, 64, 56, 48, 40, 32)
#: Enough for one voice; more would be spent on noise.
MONO_BITRATE = 128
#: Headers, the last frame's padding.
MP3_OVERHEAD_BYTES = 8192
#: Sample formats of WAV that every reader of WAV knows.
PLAIN_PCM = ("pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le")
STEREO = 2


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


@confined(InvalidInput)
def prepare_voice(path: Path, target: Path, facts: VoiceFacts, limits: Limits) -> bool:
    """Write to `target` the voice as a provider takes it.

    Returns:
        False when the file was passed on byte for byte (an intact MP3, or WAV of plain PCM, within the byte
        limit); True when it was transcoded to an MP3 of the same length.

    Raises:
        InvalidInput: it does not fit into the byte limit even at 32 kbit/s.
    """
    if _is_plain(facts, limits) and path.stat().st_size <= limits.max_audio_bytes:
        shutil.copyfile(path, target)
        return False
    encode_mp3(path, target, channels=min(facts.channels, STEREO), bitrate=fit_bitrate(facts, limits))
    if target.stat().st_size > limits.max_audio_bytes:
        raise InvalidInput(_too_large(facts, limits))
    return True


def _is_plain(facts: VoiceFacts, limits: Limits) -> bool:
    if facts.container not in limits.audio_containers or facts.channels > STEREO or not facts.is_intact:
        return False
    return facts.codec == "mp3" if facts.container == "mp3" else facts.codec in PLAIN_PCM


def fit_bitrate(facts: VoiceFacts, limits: Limits) -> int:
    """The best constant bitrate (kbit/s) at which the voice stays under the byte limit."""
    room = limits.max_audio_bytes - MP3_OVERHEAD_BYTES
    ceiling = BITRATES[0] if facts.channels > 1 else MONO_BITRATE
    for bitrate in BITRATES:
        if bitrate <= ceiling and facts.seconds * bitrate * 1000 / 8 <= room:
            return bitrate
    raise InvalidInput(_too_large(facts, limits))


def _too_large(facts: VoiceFacts, limits: Limits) -> str:
    return (
        f"The voice ({facts.seconds:.1f} s) does not fit into {limits.max_audio_bytes:,} bytes, "
        f"even as MP3 at {BITRATES[-1]} kbit/s."
    )


def encode_mp3(path: Path, target: Path, *, channels: int, bitrate: int) -> None:
    """Transcode the sound of `path` to an MP3 of the same length.

    The encoder's delay and padding are written to the LAME header, which decoders take off again. Rates other
    than 44.1 and 48 kHz go to whichever of the two they divide, since some readers know only those.

    Args:
        path: anything with sound.
        target: where to write.
        channels: 1 or 2.
        bitrate: constant, in kbit/s.
    """
    with open_sound(path) as sound, av.open(str(target), "w", format="mp3") as output:
        rate, layout = mp3_rate(sound.stream.rate), "stereo" if channels == STEREO else "mono"
        stream = output.add_stream("libmp3lame", rate=rate, layout=layout, bit_rate=bitrate * 1000)
        for frame in resampled(sound, "s16p", layout, rate):
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def mp3_rate(rate: int) -> int:
    """The MP3 sample rate (Hz) for a source of `rate` Hz."""
    return 44100 if 44100 % rate == 0 or rate % 44100 == 0 else 48000
