"""Providers pointed at a stand-in, and something to submit."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from avatar.models import Submission
from avatar.providers import open_provider
from avatar.providers.base import Provider, RenderInputs
from avatar.settings import AvatarSettings
from avatar.stored_models import Asset, Portrait, ProviderName, Segment
from tests.sandbox.fixtures import sandbox, sandbox_inputs, sandbox_process  # noqa: F401 - fixtures

KEY = "sandbox-key"
RENDER_ID = "5e" * 32
LINKS = {
    "portrait_url": "https://store.example/portrait.png?X-Amz-Signature=c0ffee",
    "voice_url": "https://store.example/voice.wav?X-Amz-Signature=c0ffee",
}


def asset(name: str, content_type: str) -> Asset:
    sha256 = hashlib.sha256(name.encode()).hexdigest()
    return Asset(key=f"assets/{sha256}.{name[-3:]}", sha256=sha256, size=1, content_type=content_type)


def make_inputs(**changes) -> RenderInputs:
    """Inputs for one render; the links lead nowhere unless changed."""
    portrait, voice = asset("portrait.png", "image/png"), asset("voice.wav", "audio/wav")
    given = {
        "render_id": RENDER_ID,
        "portrait": Portrait(source=portrait, asset=portrait, sha256=portrait.sha256, width=480, height=640),
        "segment": Segment(index=0, start=0, seconds=2.5, asset=voice, sha256=voice.sha256),
        "prompt": "smiling",
        **LINKS,
    }
    return RenderInputs(**given | changes)


def make_submission(provider: str = "fal", *, age: float = 60.0, **changes) -> Submission:
    """A receipt, given `age` seconds ago."""
    given = {
        "render_id": RENDER_ID,
        "provider": provider,
        "request_id": "r-1",
        "submitted_at": datetime.now(UTC) - timedelta(seconds=age),
        "generation": "v1" if provider == "pixazo" else "queue",
    }
    return Submission(**given | changes)


def make_settings(url: str, **changes) -> AvatarSettings:
    """Settings with both paid providers at `url`, and short pauses."""
    given = {
        "fal": {"key": KEY, "queue_url": url, "rest_url": url, "api_url": f"{url}/v1"},
        "pixazo": {"key": KEY, "base_url": url},
        "download": {"allow_private_hosts": True, "attempts": 3},
        "polling": {"min_interval": 0.02, "max_interval": 0.1},
    }
    return AvatarSettings(_env_file=None, **given | changes)


def open_at(url: str, name: str, **changes) -> Provider:
    return open_provider(ProviderName(name), make_settings(url, **changes), None)


@pytest.fixture
def open_sandboxed(sandbox) -> Callable[..., Provider]:  # noqa: F811 - the fixture
    """Opens a provider at the sandbox."""
    return lambda name, **changes: open_at(sandbox.url, name, **changes)


@pytest.fixture
def inputs(sandbox_inputs) -> RenderInputs:  # noqa: F811 - the fixture
    """Inputs that a provider can fetch."""
    return make_inputs(portrait_url=f"{sandbox_inputs}/portrait.png", voice_url=f"{sandbox_inputs}/voice.wav")
