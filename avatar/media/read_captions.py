"""Captions read from SRT, WebVTT or a plain script, and checked against the voice."""

import html
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pysubs2

from avatar.errors import InvalidInput
from avatar.media.sound import read_mono
from avatar.media.webvtt import LARGEST, Cue

#: Seconds by which cues may pass the end of the voice, or one another, as rounding makes them; they are cut there.
PAST_END, OVERLAP = 0.5, 0.1
#: Signs of one cue made from a script: two lines of 42, as broadcasters use.
LONGEST_CUE, LONGEST_LINE = 84, 42
#: A script's cue changes in a pause (seconds of quiet, at least) that is this near to where its share of the text ends.
PAUSE, REACH = 0.2, 1.0
#: Sound is speech above this share of its loudest steps; steps in seconds, and Hz.
SPOKEN, STEP, RATE = 0.03, 0.02, 8000

_TIME = r"(?:\d+:)?\d{1,2}:\d{1,2}[.,]\d{1,3}"
_TIMES = re.compile(rf"\s*({_TIME})\s*-->\s*({_TIME})(?:\s.*)?")
#: Between sentences; those of Chinese and Japanese end without a space.
_SENTENCE = re.compile(r"(?<=[.!?\u2026])\s+|(?<=[\u3002\uff01\uff1f])")
_HINT = "Correct that cue, or give the text alone as .txt: it is then laid over the voice."


def read_captions(path: Path, name: str, seconds: float, voice: Path | None = None) -> tuple[Cue, ...]:
    """As `avatar.media.decoder_calls.read_captions` says."""
    text = _text_of(path, name)
    if name.lower().endswith(".txt"):
        return lay_script(_pieces(text), seconds, _spoken(voice) if voice else np.zeros(0, bool))
    return _fitted(_parsed(text, name), name, seconds)


def _text_of(path: Path, name: str) -> str:
    data = path.read_bytes()
    if len(data) > LARGEST:
        raise _refused(name, f"it has {len(data)} bytes; captions may have {LARGEST}")
    coding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = data.decode(coding)
    except UnicodeDecodeError as error:
        raise _refused(name, f"byte {error.start + 1} is not UTF-8", "Save it as UTF-8.") from None
    if "\0" in text or not text.strip():
        raise _refused(name, "it holds no text")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _refused(name: str, why: str, hint: str = _HINT) -> InvalidInput:
    return InvalidInput(f"The captions {name!r} cannot be used: {why}. Nothing was sent or spent.", hint=hint)


def _parsed(text: str, name: str) -> list[Cue]:
    """Every line with an arrow is a cue: what the library steps over in silence is a fault here."""
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if "-->" in line]
    if not lines:
        raise _refused(name, "there is no cue in it (a line such as 00:00:01,000 --> 00:00:02,500)")
    for cue, (number, line) in enumerate(lines, 1):
        if not _TIMES.fullmatch(line):
            raise _refused(name, f"cue {cue} (line {number}): {line.strip()[:60]!r} is no pair of times")
    kind = "vtt" if name.lower().endswith(".vtt") else "srt"
    # Read with its markup: otherwise the library takes what stands in braces for commands, and drops it.
    found = pysubs2.SSAFile.from_string(text, format_=kind, keep_html_tags=True)
    if len(found) != len(lines):
        raise _refused(name, f"it has {len(lines)} cues, of which {len(found)} can be read")
    return [Cue(each.start / 1000, each.end / 1000, _plain(each.text)) for each in found]


def _plain(text: str) -> str:
    """Without markup and placing."""
    words = re.sub(r"<[^<>]*>|\{\\[^{}]*\}", "", text.replace("\\N", "\n"))
    return html.unescape(words).strip()


def _fitted(cues: Sequence[Cue], name: str, seconds: float) -> tuple[Cue, ...]:
    fitted: list[Cue] = []
    for number, cue in enumerate(cues, 1):
        span = f"cue {number} ({cue.start:.2f} to {cue.end:.2f} s)"
        if not cue.text:
            raise _refused(name, f"{span} has no text")
        if cue.end <= cue.start:
            raise _refused(name, f"{span} ends before it begins")
        if cue.end > seconds + PAST_END or cue.start >= seconds:
            raise _refused(name, f"{span} lies beyond the end of the voice, which is {seconds:.2f} s long")
        before = fitted[-1] if fitted else Cue(0, 0, "")
        if cue.start < before.end - OVERLAP or cue.start < before.start:
            raise _refused(name, f"{span} overlaps cue {number - 1}, which ends at {before.end:.2f} s")
        fitted.append(Cue(max(cue.start, before.end), min(cue.end, seconds), cue.text))
    return tuple(cue for cue in fitted if cue.end > cue.start)


def _pieces(script: str) -> list[str]:
    """A script in pieces that can be shown: sentences, and long ones parted between words."""
    sentences = [part for line in script.split("\n") for part in _SENTENCE.split(line)]
    return [piece for sentence in sentences for piece in _parted(sentence.split(), LONGEST_CUE)]


def _parted(words: Sequence[str], longest: int) -> Iterator[str]:
    piece = ""
    for word in (long[at : at + longest] for long in words for at in range(0, len(long), longest)):
        if piece and len(piece) + 1 + len(word) > longest:
            yield piece
            piece = word
        else:
            piece = f"{piece} {word}".strip()
    if piece:
        yield piece


def _spoken(voice: Path) -> np.typing.NDArray[np.bool_]:
    """Step by step, whether there is speech."""
    samples = np.abs(read_mono(voice, RATE))
    step = round(RATE * STEP)
    levels = samples[: samples.size // step * step].reshape(-1, step).mean(axis=1)
    return levels > SPOKEN * np.percentile(levels, 95) if levels.size else np.zeros(0, bool)


def lay_script(pieces: Sequence[str], seconds: float, spoken: np.typing.NDArray[np.bool_]) -> tuple[Cue, ...]:
    """Each piece gets its share of the speech by its length, and changes in a pause where one is near."""
    if not spoken.any():
        spoken = np.ones(max(1, round(seconds / STEP)), bool)
    lengths = np.cumsum([len(piece) for piece in pieces])
    said = np.cumsum(spoken)
    ends = [float(end) * STEP for end in np.searchsorted(said, said[-1] * lengths / lengths[-1])]
    first, last = (float(at) * STEP for at in np.flatnonzero(spoken)[[0, -1]])
    pauses, cues, start = _pauses(spoken), [], first
    for piece, end, following in zip(pieces, ends, [*ends[1:], None], strict=True):
        leaves, enters = last + STEP, seconds
        if following is not None:
            leaves, enters = _nearest(pauses, end, min(REACH, (end - start) / 2, (following - end) / 2))
        if (leaves := min(leaves, seconds)) > start:
            text = "\n".join(_parted(piece.split(), LONGEST_LINE))
            cues.append(Cue(round(start, 3), round(leaves, 3), text))
            start = max(start, enters)
    return tuple(cues)


def _pauses(spoken: np.typing.NDArray[np.bool_]) -> list[tuple[float, float]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[1], spoken.astype(int), [1]])))
    spans = [(start * STEP, end * STEP) for start, end in zip(edges[::2], edges[1::2], strict=True)]
    return [(start, end) for start, end in spans if end - start >= PAUSE]


def _nearest(pauses: Sequence[tuple[float, float]], at: float, reach: float) -> tuple[float, float]:
    """When a cue leaves and the next enters: around the nearest pause within reach, else at once."""
    near = [pause for pause in pauses if pause[0] - reach <= at <= pause[1] + reach]
    return min(near, key=lambda pause: abs(sum(pause) / 2 - at), default=(at, at))
