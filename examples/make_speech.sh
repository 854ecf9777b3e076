#!/bin/sh
# Makes the example voices beside this script: espeak-ng speaks, FFmpeg's LAME (through PyAV) compresses.
# Needs espeak-ng and the project's environment. PYTHON=.venv/bin/python examples/make_speech.sh
set -eu
cd "$(dirname "$0")"
voice="-v en-us+f3 -s 150 -g 2"

espeak-ng $voice -w speech.wav "Hello! This is avatar flows. A portrait and a voice go in, \
and a talking video comes out."

espeak-ng $voice -w speech-95s.wav -m -f speech-95s.ssml

"${PYTHON:-python3}" - <<'PY'
import av

for name in ("speech", "speech-95s"):
    with av.open(f"{name}.wav") as source, av.open(f"{name}.mp3", "w") as target:
        sound = source.streams.audio[0]
        stream = target.add_stream("libmp3lame", rate=sound.rate, layout="mono", bit_rate=64_000)
        resampler = av.AudioResampler(format="s16p", layout="mono", rate=sound.rate)
        for frame in source.decode(sound):
            for ready in resampler.resample(frame):
                target.mux(stream.encode(ready))
        for ready in resampler.resample(None):
            target.mux(stream.encode(ready))
        target.mux(stream.encode(None))
PY
rm speech-95s.wav
