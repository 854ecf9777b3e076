"""What stays where something paid for was deleted by a rule: why it is gone, and what it was."""

from datetime import datetime

from pydantic import Field, ValidationError

from tasks.errors import ObjectNotFound
from tasks.forms import Model
from tasks.storage.store import Store

VIDEOS, RENDERS = "videos", "renders"


class Mark(Model):
    """One deleted thing: `expired/videos/<job_id>.json`, `expired/renders/<render_id>.json`."""

    name: str
    at: datetime = Field(description="when it was deleted, by the store's clock")
    days: int = Field(description="the rule that it was deleted by")
    keys: tuple[str, ...]
    renders: tuple[str, ...] = Field((), description="of a published video: object keys of its renders")


def mark_key(kind: str, name: str) -> str:
    return f"expired/{kind}/{name}.json"


async def read_mark(store: Store, kind: str, name: str) -> Mark | None:
    """Why something is gone; None if no rule deleted it. Raises `StoreUnavailable`."""
    try:
        blob = await store.get(mark_key(kind, name))
        return Mark.model_validate_json(blob.data)
    except (ObjectNotFound, ValidationError):
        return None
