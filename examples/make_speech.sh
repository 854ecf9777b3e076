#!/bin/sh
# Makes the example voices beside this script: espeak-ng speaks, LAME (through PyAV) compresses.
# PYTHON=.venv/bin/python examples/make_speech.sh
set -eu
here=$(dirname "$0")

speak() {
    espeak-ng -v en-us+f3 -s 150 -g 2 "$@"
}

speak -w "$here/speech.wav" \
    "Hello! This is avatar flows. A portrait and a voice go in, and a talking video comes out."
speak -w "$here/speech-95s.wav" -m -f "$here/speech-95s.ssml"

"${PYTHON:-python3}" - "$here" <<'PY'
import sys
from pathlib import Path

import av

for name in ("speech", "speech-95s"):
    wav = Path(sys.argv[1]) / f"{name}.wav"
    with av.open(str(wav)) as source, av.open(str(wav.with_suffix(".mp3")), "w") as target:
        sound = source.streams.audio[0]
        stream = target.add_stream("libmp3lame", rate=sound.rate, layout="mono", bit_rate=64_000)
        resampler = av.AudioResampler(format="s16p", layout="mono", rate=sound.rate)
        for frame in [*source.decode(sound), None]:
            for ready in resampler.resample(frame):
                target.mux(stream.encode(ready))
        target.mux(stream.encode(None))
PY
rm "$here/speech-95s.wav"
