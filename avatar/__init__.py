"""Talking avatar videos from a portrait and a voice: never paid for twice, never lost.

A job from Python, with the free preview and the embedded store of this machine:

    import asyncio
    from avatar import AvatarJob, AvatarSettings, generate, services

    settings = AvatarSettings(provider="preview")
    with services(settings, api=False) as running:
        job = AvatarJob(portrait="examples/portrait.png", voice="examples/speech.mp3")
        video = asyncio.run(generate(job, running.applied_to(settings)))
    print(video.uri, video.seconds, video.cost.billed)

With `AVATAR_STORE__ENDPOINT` set, `generate(job)` alone does. What is named in `__all__` is public and stays; all
else may change. The flows that Prefect runs are in `flows`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avatar.errors import (
        AvatarError,
        InvalidInput,
        OutcomeUnknown,
        ProviderFailure,
        Refused,
        StoreUnavailable,
        VideoRejected,
    )
    from avatar.job.generate import generate, quote
    from avatar.local.services import services
    from avatar.models import AvatarJob, Plan, Video
    from avatar.settings import AvatarSettings
    from avatar.stored_models import Quote

__all__ = [
    "AvatarError",
    "AvatarJob",
    "AvatarSettings",
    "InvalidInput",
    "OutcomeUnknown",
    "Plan",
    "ProviderFailure",
    "Quote",
    "Refused",
    "StoreUnavailable",
    "Video",
    "VideoRejected",
    "generate",
    "quote",
    "services",
]

_MODULES = {
    "avatar.errors": (
        "AvatarError", "InvalidInput", "OutcomeUnknown", "ProviderFailure", "Refused", "StoreUnavailable",
        "VideoRejected",
    ),
    "avatar.job.generate": ("generate", "quote"),
    "avatar.local.services": ("services",),
    "avatar.models": ("AvatarJob", "Plan", "Video"),
    "avatar.settings": ("AvatarSettings",),
    "avatar.stored_models": ("Quote",),
}  # fmt: skip
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Imported when it is first used, so that `avatar --help` loads no library."""
    if name not in _HOME:
        raise AttributeError(f"module 'avatar' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
