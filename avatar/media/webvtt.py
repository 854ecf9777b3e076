"""Captions as they are kept: cues, and their WebVTT."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import pysubs2

#: What captions may come as, by the end of the name; a script is laid over the voice.
SUBTITLES = (".srt", ".vtt")
KINDS = (*SUBTITLES, ".txt")
#: Bytes of a caption file: an hour of speech takes 80 kB.
LARGEST = 1024 * 1024
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")


@dataclass(frozen=True)
class Cue:
    """Text, and from when to when it is shown, in seconds."""

    start: float
    end: float
    text: str


def language_of(name: str) -> str:
    """The language a file's name ends in, as in `welcome.de.srt` or `welcome.pt-BR.vtt`; else nothing."""
    told = PurePosixPath(PurePosixPath(name).stem).suffix[1:]
    return told if _LANGUAGE.fullmatch(told) else ""


def as_vtt(cues: Sequence[Cue]) -> str:
    """WebVTT. Text is text: what would be markup is escaped."""
    blocks = [f"{_stamp(cue.start)} --> {_stamp(cue.end)}\n{_escaped(cue.text)}" for cue in cues]
    return "\n\n".join(["WEBVTT", *blocks]) + "\n"


def _stamp(seconds: float) -> str:
    return str(pysubs2.formats.webvtt.WebVTTFormat.ms_to_timestamp(round(seconds * 1000)))


def _escaped(text: str) -> str:
    lines = (line.strip() for line in text.split("\n"))
    kept = "\n".join(line for line in lines if line)
    return kept.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def from_vtt(text: str) -> list[Cue]:
    """What `as_vtt` wrote."""
    cues = []
    for block in text.strip().split("\n\n")[1:]:
        times, _, words = block.partition("\n")
        start, end = (
            pysubs2.time.timestamp_to_ms(each.groups()) / 1000
            for each in pysubs2.time.TIMESTAMP.finditer(times)
        )
        plain = words.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
        cues.append(Cue(start, end, plain))
    return cues
