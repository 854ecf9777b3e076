"""fal's own client in our place: it must pay ten times for one lost answer, or the sandbox proves nothing."""

import json
import subprocess
import sys
from time import monotonic

from tests.chaos.ground import Ground
from tests.chaos.victims import ROOT
from tests.chaos.witness import Verdict

ROW = "peer: fal-client 1.0.3, answer lost"
#: Its tries, by its source (`MAX_ATTEMPTS`).
POSTS = 10


def carry_out(ground: Ground) -> Verdict:
    began = monotonic()
    sandbox = ground.sandboxes.get()
    try:
        sandbox.reset()
        sandbox.behave("submit", "drop", times=99)
        body = json.dumps({"image_url": "http://127.0.0.1:9/a.png", "audio_url": "http://127.0.0.1:9/a.wav"})
        command = [sys.executable, "-m", "tests.sandbox.stock_client", "lost", sandbox.url, sandbox.key, body]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
        accepts = sandbox.state(brief=True)["accepts"]
    finally:
        ground.sandboxes.put(sandbox)
    verdict = Verdict(ROW, payments=accepts, doubles=accepts - 1, seconds=monotonic() - began)
    if accepts != POSTS:
        verdict.faults.append(f"{accepts} accepted requests instead of {POSTS}: the sandbox is not faithful")
    return verdict
