"""Writing into a published file what it says of itself (`avatar.media.disclosure`), and its captions.

Picture and sound are copied as they are. XMP goes into a `uuid` box at the end, where no offset changes.
"""

import hashlib
import struct
import uuid
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.subtitles.stream import SubtitleStream
from av.subtitles.subtitle import SubtitleSet
from av.video.stream import VideoStream
from pysubs2 import SSAFile

from avatar.errors import VideoRejected
from avatar.media.disclosure import CaptionTrack, MarkedFile, Marks, file_language, xmp_of
from avatar.media.sound import open_media, reason
from avatar.media.webvtt import Cue, from_vtt

#: XMP specification, part 3 (MP4); C2PA 2.2, BMFF.
XMP_BOX = uuid.UUID("BE7ACFCB-97A9-42E8-9C71-999491E3AFAC").bytes
C2PA_BOX = uuid.UUID("D8FEC3D6-1B0E-483C-9297-5828877EC481").bytes
#: Bytes of a provider's mark that is kept.
LARGEST_MARK = 64 * 1024
#: What tells an XMP packet of ours.
OURS = b'xmp:CreatorTool="avatar-flows"'
#: Tags of a file that tell how it is stored.
_TECHNICAL = ("major_brand", "minor_version", "compatible_brands", "encoder", "creation_time")


def write_marked(
    source: Path,
    target: Path,
    marks: Marks,
    captions: tuple[CaptionTrack, ...] = (),
    made_of: tuple[Path, ...] = (),
) -> MarkedFile:
    """As `avatar.media.decoder_calls.write_marked` says."""
    try:
        tags, packets, told = _provider_marks(made_of or (source,))
    except (FFmpegError, OSError) as error:
        raise VideoRejected(f"{source.name} cannot be read: {reason(error)}.") from error
    mine = {"comment": marks.comment, "language": marks.language or "und"}
    try:
        with open_media(source) as container:
            options = {"movflags": "+faststart+use_metadata_tags", "fflags": "+bitexact"}
            with av.open(str(target), "w", format="mp4", options=options) as output:
                output.metadata.update({**tags, **{name: text for name, text in mine.items() if text}})
                copied = _copy(container, output, marks, captions)
        is_exact = _digest_of(target) == copied
    except (FFmpegError, OSError, ValueError) as error:
        raise VideoRejected(f"{source.name} cannot be copied: {reason(error)}.") from error
    with target.open("ab") as file:
        for packet in (xmp_of(marks).encode(), *packets):
            file.write(struct.pack(">I4s16s", 24 + len(packet), b"uuid", XMP_BOX) + packet)
    return MarkedFile(tuple(told), is_exact=is_exact)


def _copy(
    container: InputContainer, output: OutputContainer, marks: Marks, captions: Sequence[CaptionTrack]
) -> dict[str, bytes]:
    played = _played(container)
    streams = {each.index: output.add_stream_from_template(each) for each in played}
    for sound in (each for each in played if each.type == "audio"):
        streams[sound.index].metadata["language"] = file_language(marks.language)
    texts = [
        (output.add_stream("mov_text"), from_vtt(each.path.read_text("utf-8")), each) for each in captions
    ]
    for stream, _, each in texts:
        stream.metadata["language"] = file_language(each.language)
        stream.codec_context.subtitle_header = SSAFile().to_string("ass").encode()
    words = iter(
        sorted(
            (p for stream, cues, _ in texts for p in _texts(stream, cues)),
            key=lambda p: (p.dts, p.stream_index),
        )
    )
    waiting = next(words, None)
    digest = _Digest(played)
    for packet in container.demux(played):
        digest.add(packet)
        if packet.dts is None:
            continue
        if packet.is_discard and packet.stream.type == "video":
            raise ValueError("it begins inside a group of pictures")
        while waiting and (waiting.dts or 0) <= packet.dts * packet.time_base * 1000:
            output.mux(waiting)
            waiting = next(words, None)
        packet.stream = streams[packet.stream.index]
        output.mux(packet)
    for rest in (waiting, *words) if waiting else ():
        output.mux(rest)
    return digest.result()


def _played(container: InputContainer) -> list[AudioStream | VideoStream]:
    """What players show of a file: its best picture and its best sound."""
    found = container.streams.best("video"), container.streams.best("audio")
    return [each for each in found if isinstance(each, AudioStream | VideoStream)]


class _Digest:
    """Of all that a decoder is given of picture and sound; each by itself, since files interleave them differently."""

    def __init__(self, streams: Sequence[AudioStream | VideoStream]) -> None:
        contexts = {each.type: each.codec_context for each in streams}
        self._kinds = {
            kind: hashlib.blake2b(repr((each.name, each.extradata)).encode())
            for kind, each in contexts.items()
        }
        self._streams = {
            each.index: (self._kinds[each.type], each.time_base or Fraction(0)) for each in streams
        }

    def add(self, packet: "Packet[Any]") -> None:
        """Its bytes; when (nanoseconds) and how long they are shown, and what is left out of what they decode to."""
        if packet.size:
            kind, base = self._streams[packet.stream_index]
            tick, by = base.numerator * 10**9, base.denominator
            times = [None if each is None else each * tick // by for each in (packet.pts, packet.duration)]
            skipped = packet.has_sidedata("skip_samples") and bytes(packet.get_sidedata("skip_samples"))
            kind.update(repr((times, packet.is_keyframe, packet.is_discard, skipped, packet.size)).encode())
            kind.update(packet)

    def result(self) -> dict[str, bytes]:
        return {kind: each.digest() for kind, each in self._kinds.items()}


def _digest_of(path: Path) -> dict[str, bytes]:
    with open_media(path) as container:
        streams = _played(container)
        digest = _Digest(streams)
        for packet in container.demux(streams):
            digest.add(packet)
    return digest.result()


def _texts(stream: SubtitleStream, cues: Sequence[Cue]) -> "Iterator[Packet[Any]]":
    for cue in cues:
        start, length = round(cue.start * 1000), round((cue.end - cue.start) * 1000)
        # ASS has no escape: a word joiner keeps a backslash from beginning a command.
        text = cue.text.replace("\\", "\\\u2060").replace("\n", "\\N")
        shown = SubtitleSet.create(
            text=f"0,0,Default,,0,0,0,,{text}".encode(), start=0, end=length, pts=start * 1000
        )
        packet = stream.codec_context.encode_subtitle(shown)
        packet.stream, packet.time_base = stream, Fraction(1, 1000)
        packet.pts = packet.dts = start
        packet.duration = length
        yield packet


# What providers write into their files.
def _provider_marks(files: Sequence[Path]) -> tuple[dict[str, str], list[bytes], list[str]]:
    """Tags, XMP packets, and all of it told in lines."""
    tags: dict[str, str] = {}
    packets: list[bytes] = []
    signed = False
    for file in files:
        with open_media(file) as container:
            found = {name: text for name, text in container.metadata.items() if name not in _TECHNICAL}
        tags |= {name: text[:2000] for name, text in found.items() if name not in tags}
        boxes = list(_own_boxes(file))
        if any(OURS in content for kind, content in boxes if kind == XMP_BOX):
            tags = {name: text for name, text in tags.items() if name not in ("comment", "language")}
        else:
            signed |= any(kind == C2PA_BOX for kind, _ in boxes)
        packets += [
            content
            for kind, content in boxes
            if kind == XMP_BOX and content and OURS not in content and content not in packets
        ]
    told = [f"{name}: {text[:200]}" for name, text in sorted(tags.items())]
    told += [f"XMP of {len(packet)} bytes" for packet in packets]
    if signed:
        told.append(
            "C2PA content credentials, which are valid for its own file only: it is kept under renders/"
        )
    if "comment" in tags:  # ours takes the name
        tags["provider_comment"] = tags.pop("comment")
    return tags, packets, told


def _own_boxes(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """The `uuid` boxes at the top of an MP4: which, and what is in them (as much as is kept)."""
    with path.open("rb") as file:
        at, end = 0, path.stat().st_size
        while at + 8 <= end:
            file.seek(at)
            size, kind = struct.unpack(">I4s", file.read(8))
            head = 8
            if size == 1:
                size, head = struct.unpack(">Q", file.read(8).ljust(8, b"\0"))[0], 16
            size = size or end - at
            if size < head:
                return
            if kind == b"uuid":
                name = file.read(16)
                yield name, file.read(size - head - 16) if size - head - 16 <= LARGEST_MARK else b""
            at += size
