"""Every kind of call this project makes over TLS, to one server; prints what became of each as JSON. Run as a program."""

import asyncio
import json
import sys
import tempfile
from collections.abc import Awaitable
from datetime import timedelta
from pathlib import Path

from avatar.errors import AvatarError
from avatar.job.inputs import fetch_input
from avatar.local.prefect_client import healthy
from avatar.providers.download import fetch_video
from avatar.providers.fal_platform import upload
from avatar.providers.fal_webhooks import FalSignatures
from avatar.settings_sections import DownloadSettings, StoreSettings
from avatar.store.store import Store
from avatar.stored_models import Asset
from tests.providers.conftest import make_inputs, make_settings, make_submission, open_at

ASSET = Asset(key="assets/x.png", sha256="0" * 64, size=1, content_type="image/png")
HEADERS = {
    "x-fal-webhook-request-id": "r",
    "x-fal-webhook-user-id": "u",
    "x-fal-webhook-timestamp": "0",
    "x-fal-webhook-signature": "0" * 128,
}


async def outcome(call: Awaitable[object]) -> str:
    """`answered`, or the error's type and text."""
    try:
        await call
    except AvatarError as error:
        return f"{type(error).__name__}: {error}"
    return "answered"


async def prefect_api(url: str) -> None:
    if not await asyncio.to_thread(healthy, url):
        raise AvatarError("does not answer")


async def all_calls(url: str, folder: Path) -> dict[str, str]:
    settings = make_settings(url, download={"allow_private_hosts": True, "attempts": 1})
    keys = {"access_key": "access", "secret_key": "secret"}
    store = Store(StoreSettings(endpoint=url.removeprefix("https://"), secure=True, **keys))
    fal, pixazo = (open_at(url, name) for name in ("fal", "pixazo"))
    calls = {
        "fal submit": fal.submit(make_inputs()),
        "fal status": fal.poll(make_submission("fal")),
        "Pixazo submit": pixazo.submit(make_inputs()),
        "Pixazo status": pixazo.poll(make_submission("pixazo")),
        "fal upload": upload(fal._rest, store, ASSET, timedelta(days=1)),
        "webhook keys": FalSignatures(f"{url}/jwks.json", wall=lambda: 0.0).accepts(HEADERS, b"{}"),
        "download": fetch_video(f"{url}/v.mp4", folder / "v.mp4", settings=DownloadSettings(allow_private_hosts=True, attempts=1)),
        "input": fetch_input(settings, f"{url}/p.png", folder / "p.png", what="portrait"),
        "store read": store.get("key"),
        "store write": store.put("key", b"1", content_type="text/plain"),
        "store create": store.create("key", b"1"),
        "Prefect API": prefect_api(url),
    }  # fmt: skip
    told = {name: await outcome(call) for name, call in calls.items()}
    await store.aclose()
    return told


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(asyncio.run(all_calls(sys.argv[1], Path(scratch)))))
