"""Voices.

Their length is what was decoded, whatever they claim. What the provider does not take as it is goes to it as MP3.
"""

import base64
import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from PIL import Image

from tests.cases import FileCase
from tests.media.recordings import EXAMPLES, encode, tone, write_video, write_wav

RATE = 44100
PCM, FLOAT = 1, 3
CHANGED = (
    "is a file whose bytes were changed as if they were text, which is not read as a voice. "
    "Fetch it anew, as bytes: no text mode, no `response.text`."
)


def content(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def copied(example: str) -> Callable[[Path], object]:
    return lambda path: path.write_bytes((EXAMPLES / example).read_bytes())


def wav(
    rate: int = 8000, *, seconds: float = 3, level: float = 0.3, claimed: int | None = None
) -> Callable[[Path], object]:
    """16-bit PCM; `claimed` bytes in its headers instead of what is there."""
    return lambda path: path.write_bytes(pcm(seconds, rate, 1, level, claimed))


def pcm(seconds: float, rate: int, channels: int, level: float = 0.3, claimed: int | None = None) -> bytes:
    data = (tone(seconds, rate, channels, level).T * 32767).clip(-32768, 32767).astype("<i2").tobytes()
    return riff(
        data, struct.pack("<HHIIHH", PCM, channels, rate, rate * channels * 2, channels * 2, 16), claimed
    )


def riff(data: bytes, form: bytes, claimed: int | None = None) -> bytes:
    size = len(data) if claimed is None else claimed
    head = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", size)
    return b"RIFF" + struct.pack("<I", min(len(head) + size, 2**32 - 1)) + head + data


def rf64(path: Path) -> None:
    """The form of WAV for more than 4 GB."""
    data = (tone(3, 8000)[0] * 32767).astype("<i2").tobytes()
    sizes = struct.pack("<QQQI", 72 + len(data), len(data), len(data) // 2, 0)
    form = struct.pack("<HHIIHH", PCM, 1, 8000, 16000, 2, 16)
    path.write_bytes(
        b"RF64\xff\xff\xff\xffWAVEds64" + struct.pack("<I", len(sizes)) + sizes
        + b"fmt " + struct.pack("<I", len(form)) + form + b"data\xff\xff\xff\xff" + data
    )  # fmt: skip


def floats(change: Callable[[np.ndarray], None] | None = None) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        samples = tone(3, 8000)[0].astype("<f4")
        if change:
            change(samples)
        path.write_bytes(riff(samples.tobytes(), struct.pack("<HHIIHH", FLOAT, 1, 8000, 32000, 4, 32)))

    return write


def spoil(value: float) -> Callable[[np.ndarray], None]:
    def change(samples: np.ndarray) -> None:
        samples[1000] = value

    return change


def encoded(codec: str, rate: int = RATE, channels: int = 1, seconds: float = 3) -> Callable[[Path], object]:
    return lambda path: encode(path, tone(seconds, rate, channels), codec, rate)


def cut(kept: float, codec: str, rate: int = RATE) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        encode(path, tone(6, rate), codec, rate)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])

    return write


def lasting(samples: int) -> Callable[[Path], object]:
    """So many samples at 8 kHz."""
    return lambda path: write_wav(path, np.resize(tone(1, 8000), (1, samples)), 8000)


def with_cover(path: Path) -> None:
    """An MP3 behind 12 MB of ID3: a cover picture of noise, and a title."""
    noise = np.random.default_rng(1).integers(0, 255, (2000, 2000, 3), dtype=np.uint8)
    cover = path.with_suffix(".png")
    Image.fromarray(noise).save(cover, compress_level=0)
    picture = frame(b"APIC", b"\0image/png\0\x03\0" + cover.read_bytes())
    cover.unlink()
    tag = picture + frame(b"TIT2", b"\0" + b"long " * 100_000)
    path.write_bytes(b"ID3\x04\0\0" + syncsafe(len(tag)) + tag + (EXAMPLES / "speech.mp3").read_bytes())


def frame(kind: bytes, data: bytes) -> bytes:
    return kind + syncsafe(len(data)) + b"\0\0" + data


def syncsafe(size: int) -> bytes:
    return bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))


def variable(path: Path, *, index: bool) -> None:
    """An MP3 of variable bit rate, from loud noise to near silence, with or without an index (Xing)."""
    samples = np.concatenate(
        [tone(4, level=0.02), np.random.default_rng(1).normal(0, 0.2, (1, 4 * RATE))], axis=1
    )
    with av.open(str(path), "w", format="mp3", options={"write_xing": str(int(index))}) as output:
        stream = output.add_stream(
            "libmp3lame", rate=RATE, layout="mono", options={"q": "4", "flags": "+qscale"}
        )
        stream.codec_context.qscale = True
        sound = av.AudioFrame.from_ndarray(samples.astype(np.float32), format="fltp", layout="mono")
        sound.sample_rate, sound.pts = RATE, 0
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=RATE, frame_size=1152)
        for ready in (*resampler.resample(sound), *resampler.resample(None)):
            output.mux(stream.encode(ready))
        output.mux(stream.encode(None))


def lying(old: bytes, new: bytes, *, of: Callable[[Path], object]) -> Callable[[Path], object]:
    """A file in which a claim was changed; `old` is found at its first place."""

    def write(path: Path) -> None:
        of(path)
        assert old in path.read_bytes()
        path.write_bytes(path.read_bytes().replace(old, new, 1))

    return write


def at(offset: int, new: bytes, *, of: Callable[[Path], object]) -> Callable[[Path], object]:
    """A file with other bytes at a place."""

    def write(path: Path) -> None:
        of(path)
        data = bytearray(path.read_bytes())
        data[offset : offset + len(new)] = new
        path.write_bytes(data)

    return write


def box_at(name: bytes, offset: int, new: bytes, *, of: Callable[[Path], object]) -> Callable[[Path], object]:
    """An MP4 with other bytes in a box, counted from the box's name."""

    def write(path: Path) -> None:
        of(path)
        at(path.read_bytes().index(name) + offset, new, of=lambda _: None)(path)

    return write


def planes(path: Path) -> None:
    """Sixteen channels, each by itself in memory."""
    samples = np.tile((tone(3, 48000).T * 8000).astype(np.int16), (1, 16)).reshape(1, -1)
    sound = av.AudioFrame.from_ndarray(samples, format="s16", layout="hexadecagonal")
    sound.sample_rate, sound.pts = 48000, 0
    with av.open(str(path), "w") as output:
        stream = output.add_stream("wavpack", rate=48000, layout="hexadecagonal")
        resampler = av.AudioResampler(format=stream.format, layout=stream.layout, rate=48000)
        for ready in resampler.resample(sound):
            output.mux(stream.encode(ready))
        output.mux(stream.encode(None))


def surround(channels: int) -> Callable[[Path], object]:
    """PCM of so many channels, the sound in each."""
    return lambda path: path.write_bytes(pcm(3, 48000, channels, 0.08))


def claiming_frames(path: Path) -> None:
    """The number of frames, which follows the mark and its flags."""
    data = (EXAMPLES / "speech.mp3").read_bytes()
    mark = max(data.find(b"Xing"), data.find(b"Info"))
    path.write_bytes(data[: mark + 8] + b"\xff\xff\xff\xff" + data[mark + 12 :])


def joined(*writers: Callable[[Path], object]) -> Callable[[Path], object]:
    """Files one after another in one, as services send their pieces."""

    def write(path: Path) -> None:
        data = b""
        for writer in writers:
            writer(path)
            data += path.read_bytes()
        path.write_bytes(data)

    return write


def without_index(path: Path) -> None:
    with av.open(str(path), "w", format="mp3", options={"write_xing": "0", "id3v2_version": "0"}) as output:
        _add(output, output.add_stream("libmp3lame", rate=RATE, layout="mono"), tone(3))


def _add(output, stream, samples: np.ndarray) -> None:
    sound = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
    sound.sample_rate, sound.pts = stream.rate, 0
    resampler = av.AudioResampler(format=stream.format, layout="mono", rate=stream.rate)
    for ready in (*resampler.resample(sound), *resampler.resample(None)):
        output.mux(stream.encode(ready))
    output.mux(stream.encode(None))


def two_sounds(first: np.ndarray, second: np.ndarray) -> Callable[[Path], object]:
    """A recording with two tracks, such as screen recorders make: the computer's sound, and the microphone."""

    def write(path: Path) -> None:
        with av.open(str(path), "w") as output:
            streams = [output.add_stream("aac", rate=RATE, layout="mono") for _ in range(2)]
            for stream, samples in zip(streams, (first, second), strict=True):
                _add(output, stream, samples)

    return write


def unknown_second(path: Path) -> None:
    two_sounds(tone(3), tone(3))(path)
    data = path.read_bytes()
    at = data.rindex(b"A_AAC")
    path.write_bytes(data[:at] + b"A_XYZ" + data[at + 5 :])


def upside_down(path: Path) -> None:
    write_wav(path, np.concatenate([tone(3), -tone(3)]))


def sound_blaster(path: Path) -> None:
    data = (tone(3, 10000)[0] * 127 + 128).astype(np.uint8).tobytes()
    head = b"Creative Voice File\x1a" + struct.pack("<HHH", 26, 0x010A, 0x1129)
    path.write_bytes(head + b"\x01" + (len(data) + 2).to_bytes(3, "little") + bytes([156, 0]) + data + b"\0")


def telephone(path: Path) -> None:
    """GSM 06.10, whose frames of 33 bytes begin alike."""
    noise = np.random.default_rng(1).integers(0, 256, (150, 33), dtype=np.uint8)
    noise[:, 0] = 0xD0 | noise[:, 0] & 15
    path.write_bytes(noise.tobytes())


def bare_samples(path: Path) -> None:
    path.write_bytes((tone(3, 24000)[0] * 32767).astype("<i2").tobytes())


def posted(path: Path) -> None:
    """A WAV within what a form sent with it."""
    wav()(path)
    head = b"--x\r\nContent-Disposition: form-data; name=voice\r\n\r\n"
    path.write_bytes(head + path.read_bytes() + b"\r\n--x--\r\n")


def taken_for_text(path: Path) -> None:
    path.write_bytes(SPOKEN.read_bytes().decode(errors="replace").encode())


def with_text_ends(path: Path) -> None:
    """Sent in a text mode."""
    path.write_bytes(SPOKEN.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))


def filmed(codec: str, picture: str) -> Callable[[Path], object]:
    """A film of three seconds."""

    def write(path: Path) -> None:
        with av.open(str(path), "w") as output:
            film = output.add_stream(picture, rate=25, width=64, height=64, pix_fmt="yuv420p")
            voice = output.add_stream(codec, rate=48000, layout="mono")
            for number in range(75):
                frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), number, np.uint8), format="rgb24")
                frame.pts = number
                output.mux(film.encode(frame))
            output.mux(film.encode(None))
            _add(output, voice, tone(3, 48000))

    return write


def short_layer_two(path: Path) -> None:
    named = path.with_suffix(".mp2")
    encode(named, tone(2.5, 48000, 2), "mp2", 48000)
    named.rename(path)


def live(path: Path) -> None:
    with av.open(str(path), "w", options={"live": "1"}) as output:
        _add(output, output.add_stream("libopus", rate=48000, layout="mono"), tone(3, 48000))


def fragmented(path: Path) -> None:
    options = {"movflags": "frag_keyframe+empty_moov", "frag_duration": "500000"}
    with av.open(str(path), "w", options=options) as output:
        _add(output, output.add_stream("aac", rate=RATE, layout="mono"), tone(3))


def tagged(path: Path) -> None:
    """An MP3 with a tag in front and another behind."""
    encode(path, tone(3), "libmp3lame")
    path.write_bytes(path.read_bytes() + b"TAG" + b"a title".ljust(125, b"\0"))


SPOKEN = EXAMPLES / "speech.mp3"
SILENCE = np.zeros((1, 3 * 8000), np.float32)
HLS = b"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nfile:///etc/hostname\n#EXTINF:3,\nhttp://127.0.0.1:9/voice.mp3\n"
DASH = b'<?xml version="1.0"?><MPD><Period><AdaptationSet><Representation><BaseURL>http://127.0.0.1:9/a.mp4</BaseURL>'

CASES = [
    FileCase("stereo with one channel upside down", "accepted: its channels cancel each other in mono: the left one is used; converted to MP3", "voice.wav", upside_down),
    FileCase("a speech service's WAV that claims 2³¹ bytes", "accepted: given a true header", "voice.wav", wav(claimed=0x7FFF_FFFF)),
    FileCase("a speech service's WAV that claims 2,000,000,000 bytes", "accepted: converted to MP3", "voice.wav", wav(claimed=2_000_000_000)),
    FileCase("an MP3 behind a server's answer", "accepted: given a true header", "voice.mp3", lambda path: path.write_bytes(b"HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\n\r\n" + SPOKEN.read_bytes())),
    FileCase("a WAV within a form", "voice.wav is a WAV behind 51 bytes that are none of it. Leave them out: `tail -c +52 voice.wav > OUT.wav`.", "voice.wav", posted),
    FileCase("an MP3 that was read as text", f"voice.mp3 {CHANGED}", "voice.mp3", taken_for_text),
    FileCase("an MP3 that was sent in a text mode", f"voice.mp3 {CHANGED}", "voice.mp3", with_text_ends),
    FileCase("A-law called so", "voice.al is A-law by its name, which has no header to know it by. Convert it (`ffmpeg -f alaw -ar 8000 -i voice.al voice.wav`).", "voice.al", lambda path: path.write_bytes(bytes(range(128, 256)) * 90)),
    FileCase("three WAVs glued together", "accepted: 3 files glued together: all of them are used; converted to MP3", "voice.wav", joined(wav(), wav(), wav())),
    FileCase("three WAVs glued together, of no size", "accepted: 3 files glued together: all of them are used; converted to MP3", "voice.wav", joined(*[wav(claimed=0xFFFF_FFFF)] * 3)),
    FileCase("MP3s glued together, an index for the first alone", "accepted: its index tells of less than its 6.0 s: all of it is used; converted to MP3", "voice.mp3", joined(encoded("libmp3lame"), without_index)),
    FileCase("MP3s glued together, each with its index", "accepted: 2 files glued together: all of them are used; converted to MP3", "voice.mp3", joined(encoded("libmp3lame"), encoded("libmp3lame"))),
    FileCase("an MP3 behind zeros", "accepted: given a true header", "voice.mp3", lambda path: path.write_bytes(bytes(4000) + SPOKEN.read_bytes())),
    FileCase("AAC without a container", "accepted: converted to MP3", "voice.aac", encoded("aac")),
    FileCase("AAC without a container, silent at first", "accepted: converted to MP3", "voice.aac", lambda path: encode(path, np.concatenate([np.zeros((1, 4 * RATE), np.float32), tone(4)], axis=1), "aac")),
    FileCase("a video whose picture outlasts its sound", "accepted: a video file: its sound is used; converted to MP3", "voice.mov", lambda path: write_video(path, seconds=4, sound=3)),
    FileCase("two sounds, the first silent", "accepted: holds 2 sounds: number 2 is used, number 1 is silent; converted to MP3", "voice.mkv", two_sounds(tone(3) * 0, tone(3))),
    FileCase("two sounds, the second of a kind nobody knows", "accepted: holds 2 sounds: number 1 is used, number 2 cannot be decoded; converted to MP3", "voice.mkv", unknown_second),
    FileCase("a telephone's GSM", "accepted: clipped: its loudest parts are cut off; converted to MP3", "voice.gsm", telephone),
    FileCase("Sound Blaster's VOC", "accepted: converted to MP3", "voice.voc", sound_blaster),
    FileCase("MXF, as cameras have it", "accepted: a video file: its sound is used; converted to MP3", "voice.mxf", filmed("pcm_s16le", "mpeg2video")),
    FileCase("AAC as broadcasters send it (LATM)", "accepted: converted to MP3", "voice.loas", lambda path: encode(path, tone(3), "aac", container="latm")),
    FileCase("AMR, as telephones record it", "accepted: converted to MP3", "voice.amr", encoded("libopencore_amrnb", 8000)),
    FileCase("MP2 under a name that says nothing", "accepted: converted to MP3", "voice.bin", short_layer_two),
    FileCase("AIFF-C", "accepted: converted to MP3", "voice.aif", lambda path: encode(path, tone(3), "pcm_s16le", container="aiff")),
    FileCase("Core Audio (CAF)", "accepted: converted to MP3", "voice.caf", encoded("alac")),
    FileCase("a browser's recording (WebM of no length)", "accepted: converted to MP3", "voice.webm", live),
    FileCase("an MP4 in fragments", "accepted: converted to MP3", "voice.mp4", fragmented),
    FileCase("G.722 called so", "voice.g722 is G.722 by its name, which has no header to know it by. Convert it (`ffmpeg -f g722 -i voice.g722 voice.wav`).", "voice.g722", encoded("g722", 16000)),
    FileCase("WAVs glued together, of two rates", "accepted: 2 files glued together: all of them are used; its sample rate changes on the way; converted to MP3", "voice.wav", joined(wav(8000), wav(16000))),
    FileCase("a WAV with an MP3 glued to it", "accepted: 2 files glued together: all of them are used; converted to MP3", "voice.wav", joined(wav(22050), encoded("libmp3lame", 22050))),
    FileCase("an MP3 with a WAV glued to it", "accepted: 2 files glued together: all of them are used; converted to MP3", "voice.mp3", joined(encoded("libmp3lame", 22050), wav(22050))),
    FileCase("a FLAC with a WAV glued to it", "accepted: 2 files glued together: all of them are used; converted to MP3", "voice.flac", joined(encoded("flac", 22050), wav(22050))),
    FileCase("Oggs glued together, of two forms", "accepted: 2 files glued together: all of them are used; its sample rate changes on the way; converted to MP3", "voice.ogg", joined(encoded("flac", 22050), encoded("flac", 44100))),
    FileCase("MP3s glued together, each between its tags", "accepted: 2 files glued together: all of them are used; converted to MP3", "voice.mp3", joined(*[tagged] * 2)),
    FileCase("a WAV of reversed bytes (RIFX)", "voice.wav is a WAV of reversed bytes (RIFX), which is not read as a voice. Export it as MP3 or WAV.", "voice.wav", at(0, b"RIFX", of=wav())),
    FileCase("a voice message of WeChat (SILK)", "voice.amr is a voice message as WeChat and QQ keep it (SILK), which is not read as a voice. Save it as MP3 from the app that plays it.", "voice.amr", content(b"\x02#!SILK_V3" + bytes(300))),
    FileCase("samples without a header, called .wav", "voice.wav has no header: it seems to be bare samples (PCM), whose rate only their maker knows. Give it a header, with the right rate: `ffmpeg -f s16le -ar 24000 -ac 1 -i voice.wav with-header.wav`.", "voice.wav", bare_samples),
    FileCase("a service's JSON called .mp3", "voice.mp3 is JSON, which is not read as a voice. Perhaps a service's answer: it tells what went wrong, or holds the file as base64.", "voice.mp3", content(b'{"error": {"message": "quota exceeded"}}')),
    FileCase("base64 called .mp3", "voice.mp3 is base64 text, which is not read as a voice. Decode it (`base64 -d IN > OUT`).", "voice.mp3", lambda path: path.write_bytes(base64.encodebytes(SPOKEN.read_bytes()))),
    FileCase("MIDI", "voice.mid is notes without sound (MIDI), which is not read as a voice. Export it as WAV from the program that plays it.", "voice.mid", content(b"MThd\0\0\0\6\0\1\0\1\0\x60" + bytes(100))),
    FileCase("no bytes at all", "voice.mp3 is empty (0 bytes). Copy or download it again.", "voice.mp3", content(b"")),
    FileCase("a text", "voice.mp3 is a text, which is not read as a voice. Give the file itself; or it is a service's answer: look into it.", "voice.mp3", content(b"This is a shopping list.\n" * 50)),
    FileCase("a web page", "voice.wav is a web page, which is not read as a voice. Perhaps a download that failed: fetch it again, and look at what came.", "voice.wav", content(b"<!DOCTYPE html><html><body>403 Forbidden</body></html>")),
    FileCase("a portrait", "voice.mp3 is a PNG, which is no sound: is it the portrait? Use an MP3 or WAV file.", "voice.mp3", copied("portrait.png")),
    FileCase("a playlist of other files and addresses (HLS)", "voice.mp3 is a playlist, which is not read as a voice. Give the sound itself.", "voice.mp3", content(HLS)),
    FileCase("a playlist of other files (concat)", "voice.mp3 is a playlist, which is not read as a voice. Give the sound itself.", "voice.mp3", content(b"ffconcat version 1.0\nfile /etc/hostname\n")),
    FileCase("a playlist (DASH)", "voice.m4a is XML, which is not read as a voice. Perhaps a service's answer: look into it.", "voice.m4a", content(DASH)),
    FileCase("a description of a stream (SDP)", "voice.mp3 is a description of a stream (SDP), which is not read as a voice. Give the sound itself.", "voice.mp3", content(b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n")),
    FileCase("half an MP3", "accepted: declares 6.0 s, but only 3.0 s could be decoded: it may be cut off; converted to MP3", "voice.mp3", cut(0.5, "libmp3lame")),
    FileCase("half a WAV", "accepted: declares 6.0 s, but only 3.0 s could be decoded: it may be cut off; converted to MP3", "voice.wav", cut(0.5, "pcm_s16le")),
    FileCase("half a FLAC", "accepted: damaged: 1 packets could not be decoded; declares 6.0 s, but only 2.6 s could be decoded: it may be cut off; converted to MP3", "voice.flac", cut(0.5, "flac")),
    FileCase("half an M4A, its index lost", "voice.m4a is an M4A, but damaged, or it claims what no sound can. Use an MP3 or WAV file.", "voice.m4a", cut(0.5, "aac")),
    FileCase("half an Ogg", "accepted: has no end mark: it may be cut off; converted to MP3", "voice.ogg", cut(0.5, "libopus", 48000)),
    FileCase("the header of a WAV and nothing more", "voice.wav holds no sound: not one sample could be decoded. Export it anew, as MP3 or WAV, or use another copy.", "voice.wav", wav(seconds=0)),
    FileCase("an ID3 tag and nothing more", "voice.mp3 is an MP3, but damaged, or it claims what no sound can. Use an MP3 or WAV file.", "voice.mp3", content(b"ID3\x04\0\0\0\0\x0f\x76" + bytes(2038))),
    FileCase("silence", "voice.wav is silent all through (3.0 s). Was the microphone on?", "voice.wav", lambda path: write_wav(path, SILENCE, 8000)),
    FileCase("silence, as FLAC", "voice.flac is silent all through (3.0 s). Was the microphone on?", "voice.flac", lambda path: encode(path, SILENCE, "flac", 8000)),
    FileCase("nothing but dither", "voice.wav is silent all through (3.0 s). Was the microphone on?", "voice.wav", wav(level=0.0005)),
    FileCase("a hardly audible voice", "accepted: very quiet (-55 dBFS)", "voice.wav", wav(level=0.004)),
    FileCase("a voice recorded too loud", "accepted: clipped: its loudest parts are cut off", "voice.wav", wav(level=3.0)),
    FileCase("a WAV that claims ten times its size", "accepted: declares 30.0 s, but only 3.0 s could be decoded: it may be cut off; converted to MP3", "voice.wav", wav(claimed=480_000)),
    FileCase("a WAV that claims half its size", "accepted: its header tells of less than its 3.0 s: all of it is used; converted to MP3", "voice.wav", wav(claimed=24_000)),
    FileCase("a WAV that claims no size, as streams are written", "accepted: given a true header", "voice.wav", wav(claimed=0xFFFF_FFFF)),
    FileCase("a WAV that claims a size of 0", "accepted: given a true header", "voice.wav", wav(claimed=0)),
    FileCase("a WAV of no channels", "voice.wav has no sound in it. Use an MP3 or WAV file.", "voice.wav", at(22, b"\0\0", of=wav())),
    FileCase("a WAV of 65,535 channels", "voice.wav has no sound in it. Use an MP3 or WAV file.", "voice.wav", at(22, b"\xff\xff", of=wav())),
    FileCase("a WAV of 0 Hz", "voice.wav is a WAV, but damaged, or it claims what no sound can. Use an MP3 or WAV file.", "voice.wav", at(24, bytes(4), of=wav())),
    FileCase("a WAV of 1 Hz", "voice.wav has 1 samples a second; a voice needs 4000 at least. Export it anew, as MP3 or WAV, or use another copy.", "voice.wav", at(24, b"\1\0\0\0", of=wav())),
    FileCase("a WAV of 4 GHz", "voice.wav is a WAV, but damaged, or it claims what no sound can. Use an MP3 or WAV file.", "voice.wav", at(24, b"\xff\xff\xff\xff", of=wav())),
    FileCase("a WAV of a format nobody knows", "voice.wav holds no sound: not one sample could be decoded. Export it anew, as MP3 or WAV, or use another copy.", "voice.wav", at(20, b"\x77\x77", of=wav())),
    FileCase("a FLAC that claims 60 h", "accepted: declares 247678.8 s, but only 3.0 s could be decoded: it may be cut off; converted to MP3", "voice.flac", at(21, b"\xf2\x8b\x0a\x2f\x00", of=encoded("flac"))),
    FileCase("an MP4 that claims 60 h", "accepted: converted to MP3", "voice.m4a", box_at(b"mdhd", 20, b"\x7f\xff\xff\xff", of=encoded("aac"))),
    FileCase("an MP4 whose index has 4 billion entries", "voice.m4a is an M4A, but damaged, or it claims what no sound can. Use an MP3 or WAV file.", "voice.m4a", box_at(b"stsz", 12, b"\xff\xff\xff\xff", of=encoded("aac"))),
    FileCase("an MP3 whose index claims 4 billion frames", "accepted: declares 112195064.0 s, but only 8.2 s could be decoded: it may be cut off; converted to MP3", "voice.mp3", claiming_frames),
    FileCase("an MP3 of variable bit rate with an index", "accepted", "voice.mp3", lambda path: variable(path, index=True)),
    FileCase("an MP3 of variable bit rate without an index", "accepted: has no index: players may take its 8.0 s for 18.3 s; converted to MP3", "voice.mp3", lambda path: variable(path, index=False)),
    FileCase("an MP3 behind a cover picture of 12 MB", "accepted: converted to MP3", "voice.mp3", with_cover),
    FileCase("a video: its sound is taken", "accepted: a video file: its sound is used; converted to MP3", "voice.mp4", lambda path: write_video(path, seconds=3, sound=3)),
    FileCase("a video with two sound tracks", "accepted: a video file: its sound is used; holds 2 sounds: number 1 is used; converted to MP3", "voice.mp4", lambda path: write_video(path, seconds=3, sound=3, tracks=2)),
    FileCase("a video without sound", "voice.mp4 has no sound in it. Use an MP3 or WAV file.", "voice.mp4", lambda path: write_video(path, sound=None)),
    FileCase("8 kHz", "accepted", "voice.wav", wav(8000)),
    FileCase("96 kHz", "accepted", "voice.wav", wav(96000)),
    FileCase("192 kHz", "accepted", "voice.wav", wav(192_000)),
    FileCase("192 kHz, as FLAC", "accepted: converted to MP3", "voice.flac", encoded("flac", 192_000)),
    FileCase("A-law, as telephones have it", "accepted: converted to MP3", "voice.wav", encoded("pcm_alaw", 8000)),
    FileCase("24 bit", "accepted", "voice.wav", encoded("pcm_s24le")),
    FileCase("32-bit floats", "accepted: converted to MP3", "voice.wav", floats()),
    FileCase("64-bit floats", "accepted: converted to MP3", "voice.wav", encoded("pcm_f64le")),
    FileCase("ADPCM (IMA)", "accepted: converted to MP3", "voice.wav", encoded("adpcm_ima_wav")),
    FileCase("ADPCM (Microsoft)", "accepted: converted to MP3", "voice.wav", encoded("adpcm_ms")),
    FileCase("RF64", "accepted: converted to MP3", "voice.wav", rf64),
    FileCase("Wave64", "accepted: converted to MP3", "voice.w64", encoded("pcm_s16le")),
    FileCase("6 channels", "accepted: converted to MP3", "voice.wav", surround(6)),
    FileCase("8 channels (7.1)", "accepted: converted to MP3", "voice.wav", surround(8)),
    FileCase("64 channels", "voice.wav has 64 channels at 48000 Hz, which cannot be mixed. Export it in mono or stereo.", "voice.wav", surround(64)),
    FileCase("16 channels, as WavPack", "voice.wv has 16 channels at 48000 Hz, which cannot be mixed. Export it in mono or stereo.", "voice.wv", planes),
    FileCase("a sample that is no number (NaN)", "voice.wav holds samples that are not numbers (NaN or infinite). Export it anew, as MP3 or WAV, or use another copy.", "voice.wav", floats(spoil(np.nan))),
    FileCase("a sample that is infinite", "voice.wav holds samples that are not numbers (NaN or infinite). Export it anew, as MP3 or WAV, or use another copy.", "voice.wav", floats(spoil(np.inf))),
    FileCase("a sample of 10³⁰", "voice.wav holds samples that are not numbers (NaN or infinite). Export it anew, as MP3 or WAV, or use another copy.", "voice.wav", floats(spoil(1e30))),
    FileCase("an MP3 called .wav", "accepted: named .wav, but its content is mp3", "voice.wav", copied("speech.mp3")),
    FileCase("a WAV called .mp3", "accepted: named .mp3, but its content is wav", "voice.mp3", wav()),
    FileCase("a name without a suffix", "accepted", "voice", wav()),
    FileCase("2 s less one sample", "The voice is 1.999875 s long; the shortest accepted is 2 s.", "voice.wav", lasting(15_999)),
    FileCase("2 s, the shortest", "accepted", "voice.wav", lasting(16_000)),
    FileCase("60 s, the longest that is sent whole", "accepted", "voice.wav", lasting(480_000)),
    FileCase("60 s and one sample", "accepted: cut into 2 segments", "voice.wav", lasting(480_001)),
]  # fmt: skip
