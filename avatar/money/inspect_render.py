"""One look at the video of a render: the pass that tells whether it plays also finds what publishing asks of it.

A look is made ready before the render is sent (`avatar.job.produce`), taken when its video is fetched
(`avatar.money.collect`), and used when it is published. Where there is none, the video is decoded again.
"""

import asyncio
import logging
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from avatar.errors import AvatarError
from avatar.media.decoder_calls import inspect_video
from avatar.media.facts import Stills, VideoFacts, check_bytes
from avatar.models import Plan
from avatar.store.objects import hash_file
from avatar.store.store import Store
from avatar.stored_models import Check, Render, Segment

log = logging.getLogger("avatar.look")


@dataclass(frozen=True)
class Beside:
    """What a render is compared with: its voice in the store, how long that is, and whether stills are made of it."""

    voice_key: str
    seconds: float
    stills: bool

    @classmethod
    def of(cls, plan: Plan, segment: Segment) -> "Beside":
        """The render of a single segment is the video; one of several is only a part of it."""
        if len(plan.segments) == 1:
            return cls(plan.voice.heard.key, plan.voice.seconds, stills=True)
        return cls(segment.asset.key, segment.seconds, stills=False)


@dataclass(frozen=True)
class Seen:
    """What a look found, and of which bytes."""

    sha256: str
    facts: VideoFacts
    checks: tuple[Check, ...]
    pictures: tuple[bytes, ...]

    def of_file(self, path: Path, stills: Stills) -> tuple[VideoFacts, tuple[Check, ...]]:
        """The same of a file that holds the same picture and sound; its stills are written."""
        for target, picture in zip((stills.poster, stills.contact), self.pictures, strict=True):
            target.write_bytes(picture)
        size = check_bytes(self.facts, path.stat().st_size)
        return self.facts, tuple(size if check.name == size.name else check for check in self.checks)


@dataclass
class Look:
    """How to look at a render's video, and what was seen. Files are put down in `scratch` on their way."""

    store: Store
    scratch: Path
    beside: Beside
    seen: Seen | None = field(default=None)

    async def take(self, path: Path) -> VideoFacts | None:
        """What `probe_video` tells, or None: then that one decides, since this look may fail for other reasons."""
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            voice = Path(folder) / f"voice.{self.beside.voice_key.rsplit('.', 1)[-1]}"
            try:
                await self.store.fetch(self.beside.voice_key, voice)
                self.seen = await asyncio.to_thread(self._see, path, voice)
            except (AvatarError, OSError) as error:
                log.info("%s is looked at again when it is published: %s", path.name, error)
                return None
        return self.seen.facts

    def _see(self, path: Path, voice: Path) -> Seen:
        stills = Stills(voice.with_name("poster.jpg"), voice.with_name("contact.jpg"))
        wanted = stills if self.beside.stills else None
        facts, checks = inspect_video(path, self.beside.seconds, voice=voice, stills=wanted)
        pictures = (stills.poster.read_bytes(), stills.contact.read_bytes()) if wanted else ()
        return Seen(hash_file(path), facts, checks, pictures)


def take_seen(looks: dict[str, Look], plan: Plan, segment: Segment, render: Render) -> Seen | None:
    """What was seen of this very file beside this very voice, if it was; once."""
    look = looks.pop(render.render_id, None)
    if look is None or look.seen is None or look.beside != Beside.of(plan, segment):
        return None
    return look.seen if look.seen.sha256 == render.sha256 else None
