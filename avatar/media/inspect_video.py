"""Looking at a video before it is published.

One decode pass (`watch_video`) gathers the evidence, shown to the watchers of picture and sound on the way; each
check is a small function over it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from avatar.media.facts import Stills, VideoFacts, check_bytes
from avatar.media.probe import watch_video
from avatar.media.sound import open_sound, resampled
from avatar.media.sound_match import FRAME, RATE, STEP_SECONDS, SoundWatch
from avatar.media.stills import PictureWatch, StillsWatch, TimeRange
from avatar.stored_models import Check

#: Seconds a video may be shorter or longer than its voice. Providers add a few frozen frames at the end
#: (about 0.2 s was reported to receptron/mulmocast-cli, issue 1274), so equality would refuse good videos.
SHORTER, LONGER = 0.1, 0.6
#: Pixels of the shorter and of the longer side under which nobody would recognise a face.
MIN_SHORT_SIDE, MIN_LONG_SIDE = 32, 96
#: Seconds a picture may be of one colour: less than a viewer would call a gap.
MAX_BLANK = 0.3
#: Seconds a picture may stand still while the voice speaks, and the share of all speech. In pauses it may be still
#: as long as it likes; while speaking, a mouth does not rest for as much as a second.
MAX_STILL_SPEECH, MAX_STILL_SHARE = 1.5, 0.5
#: Without a voice to compare with: the seconds it may stand still, and the share of its length.
MAX_STILL, MAX_STILL_OF_LENGTH = 4.0, 0.6
#: The least share of the voice's speech that is heard in the video: cuts at its ends cost a syllable.
MIN_HEARD = 0.95
#: The least likeness of sound and voice, in the window where they are least alike. In tests/media/clips.py the same
#: voice has 0.93 and more through a 32 kbit/s encoder or beside a fan, another sentence 0.06 and less.
MIN_LIKENESS = 0.3
#: Seconds the sound may be early or late. Two frames: room for an encoder's delay that a provider did not take off
#: (1,024 to 2,112 samples of AAC, up to 0.048).
MAX_LAG = 0.08
#: Sound that stays under this, dBFS, is silence.
SILENCE = -60.0


@dataclass(frozen=True)
class Evidence:
    """What one pass over a video gathered. Length of the voice in seconds, size of the file in bytes."""

    facts: VideoFacts
    voice_seconds: float
    size: int
    picture: PictureWatch
    sound: SoundWatch


def inspect_video(
    path: Path, voice_seconds: float, *, voice: Path | None = None, stills: Stills | None = None
) -> tuple[VideoFacts, tuple[Check, ...]]:
    """As `avatar.media.decoder_calls.inspect_video` says."""
    picture, shown = PictureWatch(), StillsWatch(voice_seconds)
    with _sound_watch(voice) as sound:
        facts = watch_video(path, picture, sound, *([shown] if stills else ()))
        picture.finish(facts.video_start + facts.video_seconds)
        sound.finish()
    if stills:
        shown.write(stills)
    evidence = Evidence(facts, voice_seconds, path.stat().st_size, picture, sound)
    return facts, tuple(check(evidence) for check in (VOICE_CHECKS if voice else CHECKS))


@contextmanager
def _sound_watch(voice: Path | None) -> Iterator[SoundWatch]:
    if voice is None:
        yield SoundWatch()
        return
    with open_sound(voice) as sound:
        yield SoundWatch(resampled(sound, "flt", "mono", RATE, frame_size=FRAME))


def check_picture(seen: Evidence) -> Check:
    facts = seen.facts
    value = f"{facts.width}x{facts.height} {facts.video_codec}, {facts.frames} frames"
    return Check(name="picture", value=value, bound="at least 2 frames", passed=facts.frames > 1)


def check_sound(seen: Evidence) -> Check:
    facts = seen.facts
    value = f"{facts.audio_codec} {facts.audio_seconds:.2f} s" if facts.has_audio else "none"
    return Check(name="sound", value=value, bound="present", passed=facts.has_audio)


def check_picture_length(seen: Evidence) -> Check:
    return _length("picture length", seen.facts.video_seconds, seen.voice_seconds)


def check_sound_length(seen: Evidence) -> Check:
    return _length("sound length", seen.facts.audio_seconds, seen.voice_seconds)


def _length(name: str, seconds: float, voice_seconds: float) -> Check:
    low, high = voice_seconds - SHORTER, voice_seconds + LONGER
    bound = f"{low:.2f} to {high:.2f} s"
    return Check(name=name, value=f"{seconds:.2f} s", bound=bound, passed=low <= seconds <= high)


def check_size(seen: Evidence) -> Check:
    return check_bytes(seen.facts, seen.size)


def check_sides(seen: Evidence) -> Check:
    short, long = sorted((seen.facts.width, seen.facts.height))
    value, bound = f"{long} and {short} pixels", f"at least {MIN_LONG_SIDE} and {MIN_SHORT_SIDE} pixels"
    return Check(
        name="sides", value=value, bound=bound, passed=short >= MIN_SHORT_SIDE and long >= MIN_LONG_SIDE
    )


def check_blank(seen: Evidence) -> Check:
    longest = _longest(seen.picture.blank)
    return Check(
        name="blank picture",
        value=_told(longest),
        bound=f"at most {MAX_BLANK:g} s of one colour",
        passed=longest.seconds <= MAX_BLANK,
    )


def check_still(seen: Evidence) -> Check:
    """For a video whose voice is not at hand."""
    longest, most = (
        _longest(seen.picture.still),
        min(MAX_STILL, MAX_STILL_OF_LENGTH * seen.facts.video_seconds),
    )
    return Check(
        name="still picture",
        value=_told(longest),
        bound=f"at most {most:.2f} s",
        passed=longest.seconds <= most,
    )


def check_still_speech(seen: Evidence) -> Check:
    speaking = seen.sound.speaking()
    most = min(MAX_STILL_SPEECH, MAX_STILL_SHARE * STEP_SECONDS * float(speaking.sum()))
    spoken = {
        stretch: STEP_SECONDS
        * float(speaking[round(stretch.start / STEP_SECONDS) : round(stretch.end / STEP_SECONDS)].sum())
        for stretch in seen.picture.still
    }
    worst = max(spoken, key=lambda stretch: spoken[stretch], default=TimeRange(0, 0))
    seconds = spoken.get(worst, 0.0)
    return Check(
        name="still picture",
        value=f"{seconds:.1f} s of speech" + (f" from {worst.start:.1f} s on" if seconds else ""),
        bound=f"at most {most:.1f} s",
        passed=seconds <= most,
    )


def _longest(stretches: list[TimeRange]) -> TimeRange:
    return max(stretches, key=lambda stretch: stretch.seconds, default=TimeRange(0, 0))


def _told(stretch: TimeRange) -> str:
    return f"{stretch.seconds:.2f} s" + (f" from {stretch.start:.1f} s on" if stretch.seconds else "")


def check_audible(seen: Evidence) -> Check:
    """Where there is no sound at all, `check_sound` says so."""
    loudest = float(seen.sound.levels().max(initial=-120.0))
    value = f"{loudest:.0f} dBFS" if seen.facts.has_audio else "nothing to measure"
    passed = loudest > SILENCE or not seen.facts.has_audio
    return Check(name="loudness", value=value, bound=f"over {SILENCE:g} dBFS", passed=passed)


def check_heard(seen: Evidence) -> Check:
    share = seen.sound.share_heard()
    return Check(
        name="speech heard",
        value=f"{share:.1%}",
        bound=f"at least {MIN_HEARD:.0%} of the voice's",
        passed=share >= MIN_HEARD,
    )


def check_likeness(seen: Evidence) -> Check:
    worst = min(seen.sound.matches, key=lambda match: match.likeness, default=None)
    bound = f"at least {MIN_LIKENESS:g}"
    if worst is None:
        return Check(name="same voice", value="too little speech to tell", bound=bound, passed=True)
    value = f"{worst.likeness:.2f} from {worst.start:.0f} s on"
    return Check(name="same voice", value=value, bound=bound, passed=worst.likeness >= MIN_LIKENESS)


def check_lag(seen: Evidence) -> Check:
    known = [match for match in seen.sound.matches if match.likeness >= MIN_LIKENESS]
    worst = max(known, key=lambda match: abs(match.lag), default=None)
    bound = f"at most {1000 * MAX_LAG:.0f} ms"
    if worst is None:
        return Check(name="lag", value="not known", bound=bound, passed=not seen.sound.matches)
    value = f"{1000 * worst.lag:+.0f} ms from {worst.start:.0f} s on"
    return Check(name="lag", value=value, bound=bound, passed=abs(worst.lag) <= MAX_LAG)


#: In the order people read them.
CHECKS: tuple[Callable[[Evidence], Check], ...] = (
    check_picture,
    check_sound,
    check_picture_length,
    check_sound_length,
    check_size,
    check_sides,
    check_blank,
    check_still,
    check_audible,
)
VOICE_CHECKS = (
    *CHECKS[:-2],
    check_still_speech,
    check_audible,
    check_heard,
    check_likeness,
    check_lag,
)
