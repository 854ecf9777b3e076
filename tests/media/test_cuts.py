"""Where a long voice is cut."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from avatar.errors import InvalidInput
from avatar.media.cuts import choose_cuts, frame_sample
from avatar.media.decoder_calls import plan_cuts, probe_voice
from avatar.models import Limits
from tests.media.recordings import EXAMPLES, encode, tone, write_wav
from tests.media.speech import RATE, sentences, shuffled, speech

LIMITS = Limits(max_seconds=20)
#: A cut is on a frame boundary, so in a moved copy of the voice it is up to a frame off.
FRAME = RATE // 25 + 1


def cut(tmp_path, samples, limits=LIMITS, rate=RATE, **options):
    path = write_wav(tmp_path / "voice.wav", samples, rate)
    return plan_cuts(path, probe_voice(path), limits, **options)


def lengths(cuts, rate=RATE):
    return [(piece.end - piece.start) / rate for piece in cuts]


levels_of_anything = arrays.arrays(
    np.float32,
    st.integers(1, 3000),
    elements=st.floats(-120, 0, width=32),
    fill=st.sampled_from([-20.0, -90.0]),
)


@st.composite
def voices(draw):
    """Loudness of speech: words, gaps and pauses, each at a level of its own."""
    runs = draw(st.lists(st.tuples(st.integers(1, 90), st.integers(-120, -5)), min_size=1, max_size=80))
    return np.concatenate([np.full(size, level, np.float32) for size, level in runs])


@given(st.one_of(levels_of_anything, voices()), st.integers(1, 40), st.integers(0, 200), st.integers(1, 6))
def test_every_segment_is_within_the_bounds(levels, shortest, more, per_frame):
    """Whatever the voice, no segment is longer than the longest or shorter than the shortest."""
    longest = 2 * shortest + more
    spots = choose_cuts(levels, per_frame=per_frame, shortest=shortest, longest=longest)
    edges = [0, *(spot.frame for spot in spots)]
    inner = np.diff(edges)
    assert ((inner >= shortest) & (inner <= longest)).all()
    rest = len(levels) / per_frame - edges[-1]
    assert rest <= longest
    assert not spots or rest >= shortest


@given(voices(), st.integers(2, 40))
def test_the_same_voice_is_always_cut_alike(levels, shortest):
    """Nothing but the loudness decides."""
    first, second = (
        choose_cuts(levels.copy(), per_frame=4, shortest=shortest, longest=3 * shortest) for _ in "12"
    )
    assert first == second


@given(st.integers(0, 400), st.sampled_from([8000, 11025, 22050, 44100, 48000, 96000]), st.integers(1, 60))
def test_frames_begin_at_the_nearest_sample(frame, sample_rate, frame_rate):
    """Half samples are rounded up, and nothing adds up."""
    assert abs(frame_sample(frame, sample_rate, frame_rate) - frame * sample_rate / frame_rate) <= 0.5


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 48000])
@pytest.mark.parametrize("frame_rate", [24, 25, 30])
def test_cuts_are_on_frames_and_leave_nothing_out(tmp_path, rate, frame_rate):
    """Segments follow one another from the first sample to the last, each beginning with a frame."""
    cuts = cut(tmp_path, tone(7.77, rate), Limits(max_seconds=5), rate, frame_rate=frame_rate)
    assert [piece.index for piece in cuts] == list(range(len(cuts)))
    assert [piece.start for piece in cuts] == [0, *(piece.end for piece in cuts[:-1])]
    assert cuts[-1].end == round(7.77 * rate)
    for piece in cuts[1:]:
        assert piece.start == frame_sample(round(piece.start * frame_rate / rate), rate, frame_rate)


def test_a_voice_within_the_limits_is_one_segment():
    """It is not looked at again."""
    facts = probe_voice(EXAMPLES / "speech.mp3")
    (only,) = plan_cuts(EXAMPLES / "missing.mp3", facts, Limits())
    assert (only.start, only.end, only.pause) == (0, facts.samples, 0)
    assert math.isnan(only.loudness)


def test_the_long_example_is_two_segments():
    """As its README says: cut in a pause, where nothing is heard."""
    path = EXAMPLES / "speech-95s.mp3"
    first, second = plan_cuts(path, probe_voice(path), Limits())
    assert first.pause > 0.5
    assert first.loudness < -60
    assert min(lengths([first, second])) > 30


def test_the_last_segment_is_never_tiny(tmp_path):
    """A voice just over the limit is cut in two of some length."""
    for seconds in (20.01, 20.5, 22, 24.9, 25.1):
        pieces = lengths(cut(tmp_path, tone(seconds, RATE)))
        assert min(pieces) >= 4.9
        assert sum(pieces) == pytest.approx(seconds, abs=1 / RATE)


def test_a_longer_pause_does_not_make_the_last_segment_tiny(tmp_path):
    """Near the end, a shorter pause that leaves a quarter of the longest segment is the better one."""
    samples = tone(22, RATE)
    samples[:, 13 * RATE : round(13.3 * RATE)] = 0
    samples[:, 19 * RATE : round(19.6 * RATE)] = 0
    assert cut(tmp_path, samples)[0].end / RATE == pytest.approx(13.15, abs=0.16)


def test_a_pause_wins_over_a_deeper_dip(tmp_path):
    """A stop of 60 ms inside a word is no place to cut, even if nothing is quieter."""
    samples = tone(30, RATE)
    samples[:, round(16 * RATE) : round(16.06 * RATE)] = 0
    samples[:, round(18 * RATE) : round(18.3 * RATE)] *= 0.002
    assert cut(tmp_path, samples)[0].end / RATE == pytest.approx(18.15, abs=0.04)


def test_no_word_is_cut_while_there_is_a_pause(tmp_path):
    """Where the last part before the limit has no pause, an earlier one is taken."""
    samples = tone(30, RATE)
    samples[:, 6 * RATE : round(6.3 * RATE)] = 0
    samples[:, 16 * RATE : round(16.08 * RATE)] = 0  # a stop inside a word
    first = cut(tmp_path, samples)[0]
    assert first.end / RATE == pytest.approx(6.15, abs=0.16)
    assert first.pause == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize("noise", [0.0, 0.003, 0.015])
def test_pauses_are_found_in_noise(tmp_path, noise):
    """In a quiet room and beside a fan, every cut is between sentences."""
    samples = speech(shuffled(25, 1))
    hiss = noise * np.random.default_rng(0).standard_normal(samples.shape).astype(np.float32)
    for piece in cut(tmp_path, samples + hiss)[:-1]:
        around = samples[0, piece.end - RATE // 20 : piece.end + RATE // 20]
        assert np.abs(around).max() < 0.01
        assert piece.pause > 0.15


@pytest.mark.parametrize("seed", range(6))
def test_an_edit_at_the_end_changes_the_last_two_segments_at_most(tmp_path, seed):
    """Another last sentence leaves every earlier segment as it was."""
    order = shuffled(30, seed)
    before = cut(tmp_path, speech(order))
    after = cut(tmp_path, speech([*order[:-1], order[-1] + 5]))
    kept = len(before) - 2
    assert [(p.start, p.end) for p in after[:kept]] == [(p.start, p.end) for p in before[:kept]]


@pytest.mark.parametrize("seed", range(4))
def test_cuts_fall_into_step_after_an_insertion(tmp_path, seed):
    """A sentence more at the beginning: from the third cut on they are in the same pauses, but for one in ten."""
    order = shuffled(100, seed)
    extra = sentences()[(seed + 3) % len(sentences())].size
    before = cut(tmp_path, speech(order), Limits())
    moved = [
        piece.end - extra for piece in cut(tmp_path, speech([*order[:2], seed + 3, *order[2:]]), Limits())
    ]
    alike = [min(abs(piece.end - end) for end in moved) <= FRAME for piece in before]
    assert len(before) >= 8
    assert alike[2:].count(False) <= len(before) // 8


def test_any_format_is_cut(tmp_path):
    """Stereo in FLAC, as mono in WAV."""
    samples = speech(shuffled(12, 3))
    path = encode(tmp_path / "voice.flac", np.tile(samples, (2, 1)), "flac", RATE)
    cuts = plan_cuts(path, probe_voice(path), LIMITS)
    assert [(piece.start, piece.end) for piece in cuts] == [
        (piece.start, piece.end) for piece in cut(tmp_path, samples)
    ]


def test_bounds_too_close_together_are_refused(tmp_path):
    """What cannot be cut is told, with both bounds."""
    with pytest.raises(InvalidInput, match="10 to 15 s"):
        cut(tmp_path, tone(16, RATE), replace(LIMITS, min_seconds=10, max_seconds=15))


def test_a_voice_too_short_is_refused(tmp_path):
    """Cutting does not make it longer."""
    with pytest.raises(InvalidInput, match="shortest accepted is 2 s"):
        cut(tmp_path, tone(1.5, RATE))
