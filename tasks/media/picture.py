"""Watching a picture go by: where it shows nothing, and where it stands still."""

from dataclasses import dataclass

import numpy as np
from av.audio.frame import AudioFrame
from av.video.frame import VideoFrame
from numpy.typing import NDArray

Grey = NDArray[np.float32]

#: Seconds between looks. Faults worth refusing a video for last longer, and most of the cost is in looking.
LOOK_SECONDS = 0.1
#: Side of the small grey copy that is looked at, and of the blocks it is compared in, in pixels.
SIDE, BLOCK = 128, 8
#: A picture that varies less than this (standard deviation, 0-255) shows one colour.
FLAT = 5.0
#: A picture is another one when the block that changed most did so by this much on average (0-255). In
#: tests/media/clips.py a mouth of a twentieth of the width, on a picture otherwise still, does so by up to 4; a
#: frozen picture by up to 2, and by up to 7 in its first second when it is poorly encoded (the bound on seconds
#: allows for that). It is compared with the last one that differed, not with the one before, so that slow motion
#: adds up: a drift of 1 % of the width a second shows within half a second.
CHANGED = 3.0
#: Shorter stretches are not kept.
SHORTEST = 0.25


@dataclass(frozen=True)
class Stretch:
    """A part of a video, in seconds from its beginning."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


class PictureWatch:
    """Sees every frame of a video in order, and tells where it was blank and where it was still.

    Attributes:
        blank: stretches of one colour, black or another.
        still: stretches in which nothing changed.
    """

    def __init__(self) -> None:
        self.blank: list[Stretch] = []
        self.still: list[Stretch] = []
        self._next = 0.0
        self._now = 0.0
        self._blank_since: float | None = None
        self._still_since = 0.0
        self._shown: Grey | None = None

    def __call__(self, frame: VideoFrame | AudioFrame) -> None:
        if not isinstance(frame, VideoFrame):
            return
        self._now = max(self._now, frame.time or 0.0)
        if self._shown is None or self._now >= self._next:
            self._next = self._now + LOOK_SECONDS - 0.001
            self._look(grey_copy(frame))

    def finish(self, end: float) -> None:
        """The picture ended at `end` seconds."""
        self._now = max(self._now, end)
        self._end_still()
        self._end_blank()

    def _look(self, grey: Grey) -> None:
        if grey.std() >= FLAT:
            self._end_blank()
        elif self._blank_since is None:
            self._blank_since = self._now
        if self._shown is None or change(grey, self._shown) >= CHANGED:
            self._end_still()
            self._shown = grey

    def _end_still(self) -> None:
        if self._now - self._still_since >= SHORTEST:
            self.still.append(Stretch(self._still_since, self._now))
        self._still_since = self._now

    def _end_blank(self) -> None:
        if self._blank_since is not None and self._now > self._blank_since:
            self.blank.append(Stretch(self._blank_since, self._now))
        self._blank_since = None


def grey_copy(frame: VideoFrame) -> Grey:
    """The frame as `SIDE` x `SIDE` brightnesses, 0 to 255."""
    small = frame.reformat(width=SIDE, height=SIDE, format="gray", interpolation="AREA")
    return small.to_ndarray().astype(np.float32)


def change(one: Grey, other: Grey) -> float:
    """The mean difference in the block that differs most, 0 to 255."""
    blocks = np.abs(one - other).reshape(SIDE // BLOCK, BLOCK, SIDE // BLOCK, BLOCK)
    return float(blocks.mean(axis=(1, 3)).max())
