"""The peer's side: fal-client as it is, in the script its README suggests, as often as ordered (`driven.Order`).

It submits, waits and downloads; it checks, journals and stores nothing.
"""

import os
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import fal_client
import httpx

from benchmarks.driven import Job, Order, Report, cpu_seconds, order_given
from tests.sandbox.stock_client import MODEL, reroute


def run(client: fal_client.SyncClient, order: Order, folder: Path) -> Report:
    if order.warm:
        run(client, replace(order, jobs=1, warm=False), folder)
    before = cpu_seconds()
    with ThreadPoolExecutor(order.at_a_time) as threads:
        jobs = [threads.submit(one, client, order, folder, number) for number in range(order.jobs)]
        return Report(tuple(job.result() for job in jobs), cpu_seconds() - before)


def one(client: fal_client.SyncClient, order: Order, folder: Path, number: int) -> Job:
    time.sleep(number * order.gap)
    seen: dict[str, Any] = {}

    def update(status: fal_client.Status) -> None:
        if isinstance(status, fal_client.Completed):
            seen["noticed"] = time.time()

    began = time.time()
    arguments = {"image_url": order.portrait, "audio_url": order.voice, "prompt": f"bench {uuid.uuid4()}"}
    result = client.subscribe(
        MODEL, arguments, on_enqueue=lambda request_id: seen.update(id=request_id), on_queue_update=update
    )
    download(result["video"]["url"], folder / f"{seen['id']}.mp4")
    return Job(seen["id"], began, seen["noticed"], time.time())


def download(url: str, path: Path) -> None:
    with httpx.stream("GET", url) as response, path.open("wb") as file:
        response.raise_for_status()
        for chunk in response.iter_bytes():
            file.write(chunk)


def main() -> None:
    reroute(os.environ["SANDBOX_URL"])
    with tempfile.TemporaryDirectory() as folder:
        run(fal_client.SyncClient(key=os.environ["SANDBOX_KEY"]), order_given(), Path(folder)).tell()


if __name__ == "__main__":
    main()
