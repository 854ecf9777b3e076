"""The judge: what the provider counted against what lies in the store. Shares no code with the product.

Per trial, at its end:

- at most one paid request was accepted per render;
- the video of every paid request is in the store, byte for byte, and decodes; else its request id is in what the
  user was last shown, or the render id by which the provider's dashboard finds it;
- every manifest has its video, of the size and SHA-256 it names;
- the budget holds for each render what it was billed, once; and nothing for what was not charged.
"""

import functools
import hashlib
import io
import json
import re
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import av
import httpx
from minio import Minio
from minio.error import S3Error

from tests.chaos.ground import open_client
from tests.chaos.trial import Trial
from tests.chaos.victims import Shown

#: US dollars a second of video (fal's price of the model), and the fraction that sums are kept in.
PRICE, FRACTION = Decimal("0.115"), Decimal("0.0001")


@dataclass
class Verdict:
    """What one trial cost."""

    name: str
    kills: int = 0
    payments: int = 0
    doubles: int = 0
    losses: int = 0
    seconds: float = 0.0
    resolved: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not (self.doubles or self.losses or self.faults)


class Witness:
    """Reads one trial's sandbox and bucket."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.bucket = trial.store.bucket
        self.client: Minio = open_client(trial.store)

    def judge(self, last: Shown, *, published: bool = True) -> Verdict:
        """The verdict, given what the user was shown last and whether a video was to be had."""
        # Pixazo's requests bear no tag: they are taken for those of one render, which their trials have.
        trial, paid = self.trial, [job for job in self.trial.accepted() if not job["failed"]]
        verdict = Verdict(trial.name, trial.kills, payments=len(paid), resolved=trial.resolved)
        verdict.doubles = len(paid) - len({job["tag"] for job in paid})
        if last.published != published:
            verdict.faults.append(f"ended {describe(last)}")
        manifests = self.manifests()
        kept = {render["request_id"] for one in manifests for render in self.kept(one, verdict.faults)}
        lost = [job["request_id"] for job in paid if job["request_id"] not in kept]
        verdict.losses = sum(request_id not in last.text for request_id in lost)
        if published and len(manifests) != 1:
            verdict.faults.append(f"{len(manifests)} manifests")
        self.check_budget(paid, manifests, verdict.faults)
        return verdict

    def manifests(self) -> list[dict[str, Any]]:
        """Those of the jobs that this trial's renders were asked for."""
        jobs = {entry["job_id"] for render_id in self.render_ids() for entry in self.journal(render_id)}
        found = [self.read(f"videos/{job_id}/manifest.json") for job_id in sorted(jobs)]
        return [json.loads(data) for data in found if data is not None]

    def kept(self, manifest: dict[str, Any], faults: list[str]) -> list[dict[str, Any]]:
        """The renders of a manifest whose videos are in the store as the provider made them."""
        video = self.read(manifest["key"])
        if video is None or (digest(video), len(video)) != (manifest["sha256"], manifest["size"]):
            faults.append(f"manifest without its video {manifest['key']}")
        elif not plays(video):
            faults.append(f"{manifest['key']} does not play")
        return [render for render in manifest["renders"] if self.is_kept(render, faults)]

    def is_kept(self, render: dict[str, Any], faults: list[str]) -> bool:
        data = self.read(render["key"])
        if data is None or digest(data) != render["sha256"]:
            faults.append(f"render {render['key']} is not in the store")
            return False
        made = self.as_made(render["render_id"])
        if made is not None and made != data:
            faults.append(f"render {render['key']} is not what the provider made")
        return plays(data)

    def as_made(self, render_id: str) -> bytes | None:
        """The video as the provider serves it, by the address that the journal noted."""
        for entry in reversed(self.journal(render_id)):
            if entry.get("remote"):
                return httpx.get(entry["remote"]["url"], trust_env=False).content
        return None

    def journal(self, render_id: str) -> list[dict[str, Any]]:
        return [json.loads(self.read(key) or b"{}") for key in self.keys(f"journal/{render_id}/")]

    def render_ids(self) -> set[str]:
        """The renders of this trial's requests: as fal's were tagged, and all that the user was told of."""
        received = self.trial.sandbox.state()["received"]
        tagged = {seen["tag"].removeprefix("render=") for seen in received if seen["tag"]}
        return tagged | set(re.findall(r'"render_id": "([0-9a-f]{32})"', "".join(self.trial.told)))

    def check_budget(
        self, paid: list[dict[str, Any]], manifests: list[dict[str, Any]], faults: list[str]
    ) -> None:
        """What is counted for each render, against what the provider charges for it."""
        home = {render["request_id"] for one in manifests for render in one["renders"]}
        for render_id in self.render_ids():
            mine = {f"render={render_id}", None}
            charged = [job for job in paid if job["tag"] in mine]
            billed = sum((dollars(job["seconds"]) for job in charged), Decimal(0))
            counted = self.counted(render_id)
            # What failed may be charged or not (a 422 is not known to be free): its sum may stay set aside.
            failed = any(job["failed"] and job["tag"] in mine for job in self.trial.accepted())
            exact = {job["request_id"] for job in charged} <= home and not (failed and not charged)
            if counted < billed or (exact and counted != billed):
                faults.append(f"budget counts ${counted} for {render_id}, the provider charges ${billed}")

    def counted(self, render_id: str) -> Decimal:
        """What a render's claims count: what was settled, else the most that is set aside, over all days."""
        sums: dict[str, list[Decimal]] = {"open": [], "settled": []}
        for key in self.keys("budget/"):
            name, state, units, *_ = key.rsplit("/", 1)[1].split(".")
            if name == render_id:
                sums[state].append(int(units) * FRACTION)
        return sum(sums["settled"], Decimal(0)) if sums["settled"] else max(sums["open"], default=Decimal(0))

    def keys(self, prefix: str) -> list[str]:
        found = self.client.list_objects(self.bucket, prefix=prefix, recursive=True)
        return sorted(str(item.object_name) for item in found)

    def read(self, key: str) -> bytes | None:
        try:
            response = self.client.get_object(self.bucket, key)
        except S3Error as error:
            if error.code == "NoSuchKey":
                return None
            raise
        try:
            return bytes(response.read())
        finally:
            response.close()
            response.release_conn()


def dollars(seconds: float) -> Decimal:
    return (Decimal(f"{seconds:.3f}") * PRICE).quantize(FRACTION)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@functools.lru_cache(maxsize=64)
def plays(video: bytes) -> bool:
    """Whether every picture and all of the sound decode."""
    try:
        with av.open(io.BytesIO(video)) as container:
            pictures = sum(1 for _ in container.decode(video=0))
        with av.open(io.BytesIO(video)) as container:
            samples = sum(frame.samples for frame in container.decode(audio=0))
    except (av.FFmpegError, IndexError):
        return False
    return pictures > 0 and samples > 0


def describe(shown: Shown) -> str:
    if shown.published:
        return "published"
    text = shown.error.get("message") or shown.stderr[-300:]
    return f"with exit {shown.code}: {shown.error.get('type', '')} {text[:300]}"
