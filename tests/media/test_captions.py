"""Captions are read whole or refused with the cue to look at; a script is laid over its voice."""

import itertools

import numpy as np
import pytest

from avatar.errors import InvalidInput
from avatar.media.decoder_calls import read_captions
from avatar.media.read_captions import lay_script
from avatar.media.webvtt import Cue, as_vtt, from_vtt, language_of

SRT = "1\n00:00:00,500 --> 00:00:02,500\n{a} <i>Tom</i> & Ann\nsecond line\n\n2\n00:00:03,000 --> 00:00:04,000\n3\n"


def read(tmp_path, text, name="welcome.de.srt", seconds=8.0):
    data = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "file").write_bytes(data)
    return read_captions(tmp_path / "file", name, seconds)


def test_both_kinds_are_read_with_all_their_text(tmp_path):
    """A digit alone, braces and signs of markup are text; tags and byte order marks are not."""
    expected = (Cue(0.5, 2.5, "{a} Tom & Ann\nsecond line"), Cue(3.0, 4.0, "3"))
    vtt = "WEBVTT\n\nNOTE no cue\n\none\n00:00.500 --> 00:02.500 line:0\n{a} <v Tom>Tom</v> &amp; Ann\nsecond line\n\n"
    assert read(tmp_path, SRT) == expected
    assert read(tmp_path, "\ufeff" + SRT.replace("\n", "\r\n")) == expected
    assert read(tmp_path, SRT.encode("utf-16")) == expected
    assert read(tmp_path, vtt + "00:03.000 --> 00:04.000\n3\n", "a.vtt") == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no text"),
        ("1\njust words\n", "no cue"),
        (b"1\n00:00:01,000 --> 00:00:02,000\nGr\xfc\xdfe\n", "byte 35 is not UTF-8"),
        ("1\n00:00:0x,000 --> 00:00:02,000\nHello\n", r"cue 1 \(line 2\).*no pair of times"),
        ("1\n00:00:03,000 --> 00:00:02,000\nHello\n", "cue 1 .*ends before it begins"),
        ("1\n00:00:01,000 --> 00:00:02,000\n\n", "cue 1 .*no text"),
        (
            SRT + "\n3\n00:00:07,000 --> 00:00:09,000\nlate\n",
            "cue 3 .*beyond the end of the voice, which is 8.00 s",
        ),
        (SRT + "\n3\n00:00:03,500 --> 00:00:05,000\nlate\n", "cue 3 .*overlaps cue 2"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_cue(tmp_path, text, why):
    with pytest.raises(InvalidInput, match=rf"welcome\.de\.srt.*{why}.*Nothing was sent or spent"):
        read(tmp_path, text)


def test_rounding_is_no_fault(tmp_path):
    """A few hundredths over the next cue, or past the end, are cut."""
    text = "1\n00:00:01,000 --> 00:00:03,040\na\n\n2\n00:00:03,000 --> 00:00:08,300\nb\n"
    assert read(tmp_path, text) == (Cue(1.0, 3.04, "a"), Cue(3.04, 8.0, "b"))


def test_what_is_written_is_read_again():
    cues = [Cue(0.5, 3661.005, "a < b & c > d\n&lt;"), Cue(3662.0, 3663.0, "\\N {\\b1}")]
    assert from_vtt(as_vtt(cues)) == cues


@pytest.mark.parametrize(
    ("name", "language"),
    [("welcome.de.srt", "de"), ("welcome.pt-BR.vtt", "pt-BR"), ("welcome.srt", ""), ("a.final.srt", "")],
)
def test_the_name_tells_the_language(name, language):
    assert language_of(name) == language


def test_a_script_changes_in_the_pauses():
    """Two seconds of speech, one of quiet, four of speech: the shorter sentence ends where it is quiet."""
    spoken = np.repeat([True, False, True], [100, 50, 200])
    first, second = lay_script(["a" * 22, "b" * 40], 7.0, spoken)
    assert (first.start, first.end, second.start) == (0.0, pytest.approx(2.0), pytest.approx(3.0))
    assert second.end == pytest.approx(7.0)


def test_a_script_is_laid_out_whole_and_in_order():
    pieces = [f"sentence number {number}." for number in range(40)]
    cues = lay_script(pieces, 30.0, np.zeros(0, bool))
    assert [cue.text for cue in cues] == pieces
    assert all(one.end <= other.start for one, other in itertools.pairwise(cues))
    assert cues[-1].end <= 30.0
