"""What is published says that it is AI-made, to tools that nobody here wrote."""

import json
import shutil
import subprocess

import av
import pytest

from avatar.errors import VideoRejected
from avatar.media.decoder_calls import write_marked
from avatar.media.disclosure import SENTENCES, CaptionTrack, Marks, disclosure_for, file_language
from avatar.media.embed_metadata import _digest_of
from avatar.media.webvtt import Cue, as_vtt
from tests.money.conftest import footage, inputs  # noqa: F401 - fixtures

MARKS = Marks(disclosure_for("de"), "de", "kling & co", "a" * 32)


def probe(path):
    command = ["ffprobe", "-v", "error", "-show_streams", "-show_format", "-of", "json", str(path)]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


def xmp_of(path):
    command = ["exiftool", "-json", "-XMP:all", str(path)]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)[0]


def packets(path):
    with av.open(str(path)) as container:
        wanted = [*container.streams.video, *container.streams.audio]
        return [(p.stream.type, p.pts * p.time_base, bytes(p)) for p in container.demux(wanted) if p.size]


@pytest.fixture
def finished(footage, tmp_path):  # noqa: F811
    tracks = []
    for language in ("de", "pt-BR"):
        tracks.append(CaptionTrack(tmp_path / f"{language}.vtt", language))
        tracks[-1].path.write_text(as_vtt([Cue(0.5, 2.0, "eins {zwei} \\N <drei>"), Cue(3.0, 4.0, "4\n5")]))
    write_marked(footage, tmp_path / "finished.mp4", MARKS, tuple(tracks))
    return tmp_path / "finished.mp4"


def test_picture_and_sound_are_copied_as_they_are(footage, finished):  # noqa: F811
    assert sorted(packets(finished)) == sorted(packets(footage))


@pytest.mark.skipif(not shutil.which("ffprobe"), reason="FFmpeg's own tool is not installed")
def test_ffprobe_shows_comment_language_and_captions(finished):
    told = probe(finished)
    kinds = [(each["codec_name"], each["tags"]["language"]) for each in told["streams"]]
    assert kinds == [("h264", "und"), ("aac", "deu"), ("mov_text", "deu"), ("mov_text", "por")]
    assert told["format"]["tags"]["comment"].startswith(
        "Dieses Video wurde mit künstlicher Intelligenz erzeugt."
    )


@pytest.mark.skipif(not shutil.which("exiftool"), reason="exiftool is not installed")
def test_exiftool_reads_the_source_type(finished):
    told = xmp_of(finished)
    assert told["DigitalSourceType"].endswith("/trainedAlgorithmicMedia")
    assert (told["AISystemUsed"], told["Language"]) == ("kling & co", "de")


def test_captions_are_read_back_word_for_word(finished):
    with av.open(str(finished)) as container:
        texts = [
            bytes(p)[2 : 2 + int.from_bytes(bytes(p)[:2])].decode()
            for p in container.demux(subtitles=0)
            if p.size > 2
        ]
    assert [text.replace("\u2060", "") for text in texts] == ["eins {zwei} \\N <drei>", "4\n5"]


def test_what_a_provider_marked_is_said_on(footage, tmp_path):  # noqa: F811
    """Tags of any name, its comment beside ours, its XMP as it was; ours, where it is finished again, once."""
    made, out, again = (tmp_path / name for name in ("made.mp4", "out.mp4", "again.mp4"))
    with (
        av.open(str(footage)) as source,
        av.open(str(made), "w", options={"movflags": "use_metadata_tags"}) as target,
    ):
        target.metadata.update({"AIGC": '{"Label":"1"}', "comment": "made by K"})
        streams = [target.add_stream_from_template(each) for each in source.streams]
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    theirs = b"<x:xmpmeta>theirs</x:xmpmeta>"
    with made.open("ab") as file:
        file.write((24 + len(theirs)).to_bytes(4) + b"uuid")
        file.write(bytes.fromhex("be7acfcb97a942e89c71999491e3afac") + theirs)
    assert set(write_marked(made, out, MARKS).kept) == {
        'AIGC: {"Label":"1"}',
        "comment: made by K",
        "XMP of 29 bytes",
    }
    write_marked(out, again, MARKS)
    for path in (out, again):
        with av.open(str(path)) as container:
            assert container.metadata["AIGC"] == '{"Label":"1"}'
            assert container.metadata["provider_comment"] == "made by K"
            assert container.metadata["comment"] == MARKS.comment
        assert path.read_bytes().count(theirs) == 1
        assert path.read_bytes().count(b"trainedAlgorithmicMedia") == 1


def test_the_same_again_is_the_same_file(footage, tmp_path):  # noqa: F811
    for name in ("one", "two"):
        write_marked(footage, tmp_path / name, MARKS)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_what_is_no_video_is_refused(tmp_path):
    (tmp_path / "no.mp4").write_bytes(b"\0" * 1000)
    with pytest.raises(VideoRejected, match=r"no\.mp4"):
        write_marked(tmp_path / "no.mp4", tmp_path / "out.mp4", MARKS)


def test_every_language_of_the_union_has_its_sentence():
    assert len({sentence for _, sentence in SENTENCES.values()}) == 24
    assert disclosure_for("pt-BR") == SENTENCES["pt"][1]
    assert disclosure_for("") == disclosure_for("ja") == SENTENCES["en"][1]
    assert [file_language(name) for name in ("de-AT", "ja", "gsw", "", "xx")] == [
        "deu",
        "jpn",
        "gsw",
        "und",
        "und",
    ]


def remuxed(source, target, change):
    """The packets as `change` leaves them: it gives none for one that is left out."""
    with av.open(str(source)) as made, av.open(str(target), "w", format="mp4") as out:
        streams = {each.index: out.add_stream_from_template(each) for each in made.streams}
        for number, packet in enumerate(made.demux()):
            if packet.dts is not None and change(number, packet):
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    return target


def late(number, packet):
    if packet.stream.type == "audio" and number > 50:
        packet.pts, packet.dts = packet.pts + 1, packet.dts + 1
    return True


@pytest.mark.parametrize(
    ("change", "same"),
    [(lambda *_: True, True), (lambda number, _: number != 40, False), (late, False)],
)
def test_a_copy_counts_as_the_same_only_packet_by_packet(footage, tmp_path, change, same):  # noqa: F811
    """One packet less, or a sound late by one tick, and it is decoded again."""
    other = remuxed(footage, tmp_path / "other.mp4", change)
    assert (_digest_of(other) == _digest_of(footage)) is same
    assert write_marked(other, tmp_path / "out.mp4", MARKS).is_exact
