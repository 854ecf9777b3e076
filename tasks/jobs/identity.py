"""Names derived from content, so that the same thing asked for again is recognised, whoever asks."""

import hashlib
import json
from typing import Any

from tasks.models import AvatarJob, Portrait, Segment

#: Raise when the meaning of a job's inputs changes, so that published videos are made anew.
JOB_VERSION = 1
#: Raise when what is sent for a render changes, so that renders are bought anew.
RENDER_VERSION = 1


def job_id(job: AvatarJob, *, portrait_sha256: str, voice_sha256: str, model: str) -> str:
    """Identity of a job: 32 hexadecimal digits. The provider is no part of it, the model is."""
    return _digest(
        version=JOB_VERSION,
        portrait=portrait_sha256,
        voice=voice_sha256,
        prompt=job.prompt,
        model=model,
        continuity=job.continuity,
        take=job.take,
    )


def render_id(*, portrait: Portrait, segment: Segment, prompt: str, model: str, take: int) -> str:
    """Identity of a render: the same model behind two doors is the same render, bought once."""
    return _digest(
        version=RENDER_VERSION,
        portrait=portrait.sha256,
        segment=segment.sha256,
        prompt=prompt,
        model=model,
        take=take,
    )


def _digest(**parts: Any) -> str:
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
