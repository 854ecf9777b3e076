"""Good files of every format, spoilt at random: an error that says so or a valid result, and never more than is allowed.

Seeded, so that what fails once fails again; the example and its number name the file.
"""

import random
import resource
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from avatar.errors import InvalidInput, VideoRejected
from avatar.media import confined
from avatar.media.decoder_calls import (
    inspect_video,
    last_frame,
    prepare_portrait,
    prepare_voice,
    probe_video,
    probe_voice,
)
from avatar.media.facts import Stills, check_voice
from avatar.models import Limits
from tests.media import seeds

LIMITS = Limits(min_seconds=0.1, max_seconds=3600, min_image_side=8, max_aspect=10)
#: 5,000 in all.
PORTRAITS, VOICES, VIDEOS = 2300, 2300, 400
#: Values that headers are not written for.
ODD = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\1", b"\1\0\0\0")


def spoilt(data: bytes, others: list[bytes], dice: random.Random) -> bytes:
    """The file with one to four changes; most in the first bytes, where the claims are."""
    result = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 4))):
        reach = len(result) if dice.random() < 0.4 else min(len(result), 200)
        place = dice.randrange(max(1, reach))
        dice.choice(CHANGES)(result, place, others, dice)
    return bytes(result)


def flip(result: bytearray, place: int, _: list[bytes], dice: random.Random) -> None:
    if result:
        result[place] ^= 1 << dice.randrange(8)


def overwrite(result: bytearray, place: int, _: list[bytes], dice: random.Random) -> None:
    result[place : place + 4] = dice.choice(ODD)


def scatter(result: bytearray, place: int, _: list[bytes], dice: random.Random) -> None:
    for _number in range(dice.randrange(1, 40)):
        result[place : place + 1] = dice.randbytes(1)
        place = min(len(result), place + dice.randrange(1, 60))


def drop(result: bytearray, place: int, _: list[bytes], dice: random.Random) -> None:
    del result[place : place + dice.randrange(1, 200)]


def repeat(result: bytearray, place: int, _: list[bytes], dice: random.Random) -> None:
    result[place:place] = result[place : place + dice.randrange(1, 400)] * dice.choice((1, 2, 50))


def cut(result: bytearray, place: int, _: list[bytes], dice: random.Random) -> None:
    del result[max(place, dice.randrange(len(result) + 1)) :]


def graft(result: bytearray, place: int, others: list[bytes], dice: random.Random) -> None:
    other = dice.choice(others)
    start = dice.randrange(len(other))
    result[place : place + 100] = other[start : start + 100]


CHANGES: tuple[Callable[[bytearray, int, list[bytes], random.Random], None], ...] = (
    flip, flip, overwrite, overwrite, scatter, drop, repeat, cut, graft,
)  # fmt: skip


def look_at_portrait(path: Path, target: Path) -> None:
    facts = prepare_portrait(path, target, LIMITS)
    with warnings.catch_warnings(action="ignore"), Image.open(target, formats=LIMITS.image_formats) as ready:
        assert (ready.format, ready.size) == (facts.format, (facts.width, facts.height))
        assert ready.mode in ("RGB", "L") or not facts.changed


def look_at_voice(path: Path, target: Path) -> None:
    facts = probe_voice(path)
    assert (facts.seconds > 0, facts.samples > 0, facts.peak > 0) == (True, True, True)
    check_voice(facts, LIMITS)
    prepare_voice(path, target, facts, replace(LIMITS, audio_containers=("mp3",)))
    assert target.stat().st_size <= LIMITS.max_audio_bytes


def look_at_video(path: Path, target: Path) -> None:
    assert probe_video(path).frames > 0
    stills = Stills(target.with_suffix(".poster"), target.with_suffix(".contact"))
    inspect_video(path, 0.4, stills=stills)
    last_frame(path, target)
    for picture in (stills.poster, stills.contact, target):
        assert picture.stat().st_size > 0


@pytest.mark.parametrize(
    ("kind", "look", "error", "times"),
    [
        (seeds.portraits, look_at_portrait, InvalidInput, PORTRAITS),
        (seeds.voices, look_at_voice, InvalidInput, VOICES),
        (seeds.videos, look_at_video, VideoRejected, VIDEOS),
    ],
    ids=["portraits", "voices", "videos"],
)  # fmt: skip
def test_spoilt_files_are_refused_or_read(tmp_path, kind, look, error, times):
    """Only typed errors or valid results. Time and memory are bounded by the system, and few need that."""
    (tmp_path / "seeds").mkdir()
    examples = kind(tmp_path / "seeds")
    for name, data in examples.items():
        (tmp_path / name).write_bytes(data)
        look(tmp_path / name, tmp_path / "ready")
    told = []
    for number in range(times):
        name = list(examples)[number % len(examples)]
        path = tmp_path / name
        path.write_bytes(spoilt(examples[name], list(examples.values()), random.Random(number)))
        try:
            look(path, tmp_path / "ready")
        except error as caught:
            told.append(f"{name} {number}: {caught}")
    assert len(told) > times / 10
    assert [text for text in told if str(tmp_path) in text] == []
    stopped = [text for text in told if "cannot be decoded:" in text]
    assert len(stopped) < times / 200, stopped
    confined.close()
    if sys.platform == "linux":
        assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 2**20
