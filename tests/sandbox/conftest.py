"""What the sandbox's own tests share."""

from typing import Any

import httpx
import pytest

FAL = "/fal-ai/kling-video/ai-avatar/v2/pro"


@pytest.fixture
def body(sandbox_inputs: str) -> dict[str, str]:
    return {"image_url": f"{sandbox_inputs}/portrait.png", "audio_url": f"{sandbox_inputs}/voice.wav"}


@pytest.fixture
def finished(fal_wire: httpx.Client, body: dict[str, str]) -> Any:
    """Submit, wait for the end by the stream, and return the receipt."""

    def run() -> dict[str, Any]:
        receipt: dict[str, Any] = fal_wire.post(FAL, json=body).json()
        fal_wire.get(receipt["status_url"] + "/stream")
        return receipt

    return run


@pytest.fixture
def video_url(fal_wire: httpx.Client, finished: Any) -> str:
    url: str = fal_wire.get(finished()["response_url"]).json()["video"]["url"]
    return url
