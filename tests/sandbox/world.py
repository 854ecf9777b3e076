"""Everything one sandbox holds, and what the wires share."""

import asyncio
import hmac
import shutil
import tempfile
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from tests.sandbox.behaviours import Armed
from tests.sandbox.jobs import Job
from tests.sandbox.ledger import Ledger
from tests.sandbox.options import Options
from tests.sandbox.studio import Studio
from tests.sandbox.webhooks import Herald


class World:
    """One sandbox. `base_url` is where it listens; `foreign_url` is another host and port of the same server."""

    def __init__(self, options: Options, session: aiohttp.ClientSession) -> None:
        self.initial = options
        self.base_url = self.foreign_url = ""
        self.session = session
        self.temporary = "" if options.media_dir else tempfile.mkdtemp(prefix="avatar-sandbox-")
        self.media = Path(options.media_dir or self.temporary)
        self.media.mkdir(parents=True, exist_ok=True)
        self.ended = asyncio.Event()
        self._begin(options)

    def _begin(self, options: Options) -> None:
        self.options = options
        self.ledger = Ledger()
        self.armed = Armed()
        self.uploads: dict[str, tuple[bytes, str]] = {}
        self.tokens: set[str] = set()
        self.herald = Herald(self.session, self.result_body)
        self.studio = Studio(options, self.media, self.session, self.herald)
        self.ended.set()  # lets go of whoever hangs
        self.ended = asyncio.Event()

    async def reset(self, overrides: dict[str, Any]) -> None:
        """Forget everything; options go back to those of the start, with `overrides`."""
        options = self.initial.changed(**overrides)
        await self.studio.close()
        self._begin(options)

    async def close(self) -> None:
        self.ended.set()
        await self.studio.close()
        await self.session.close()
        shutil.rmtree(self.temporary, ignore_errors=True) if self.temporary else None

    def knows(self, key: str) -> bool:
        """Whether a key is accepted; without configured keys any is."""
        known = self.options.key
        return bool(key) and (not known or any(hmac.compare_digest(key, one) for one in known))

    def media_url(self, job: Job) -> str:
        return f"{self.base_url}/media/{job.media_id}.mp4"

    def result_body(self, job: Job) -> dict[str, Any]:
        """The finished render in fal's shape."""
        size = job.video.stat().st_size if job.video else 0
        file = {
            "url": self.media_url(job),
            "content_type": "video/mp4",
            "file_name": "output.mp4",
            "file_size": size,
        }
        return {"video": file} | ({"duration": job.seconds} if self.options.tell_duration else {})

    def state(self, *, brief: bool) -> dict[str, Any]:
        """What `/__sandbox__/state` shows; brief leaves the lists out."""
        jobs = list(self.studio.jobs.values())
        report = self.ledger.report() | {
            "base_url": self.base_url,
            "foreign_url": self.foreign_url,
            "accepts": len(jobs),
            "started": sum(job.started is not None for job in jobs),
            "ended": sum(job.ended is not None for job in jobs),
            "charged_seconds": round(sum(job.seconds for job in jobs), 3),
            "webhooks": self.herald.deliveries,
            "webhooks_sent": len(self.herald.deliveries),
            "armed": self.armed.remaining(),
            "accepted": [job.record() for job in jobs],
        }
        lists = ("received", "credentials", "accepted", "webhooks", "misdeeds", "uploads")
        return {name: value for name, value in report.items() if not (brief and name in lists)}


WORLD = web.AppKey("world", World)


def world_of(request: web.Request) -> World:
    return request.app[WORLD]
