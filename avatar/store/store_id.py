"""Which store this is: an id that a bucket is given once, in `index/store.json`, and keeps wherever it is copied to.

Two stores have two journals, and neither knows what was paid for by the other.
"""

import json
import secrets
from datetime import UTC, datetime

from avatar.errors import ObjectNotFound, StoreUnavailable, StoreUnfit
from avatar.store.store import Store

KEY = "index/store.json"


async def store_identity(store: Store, *, lost: str | None = None) -> str:
    """The store's id, made on first use; `lost` is put back where it had one. Raises `StoreUnavailable`."""
    try:
        return _parse((await store.get(KEY)).data)
    except ObjectNotFound:
        made = {"format": 1, "id": lost or secrets.token_hex(16), "made_at": datetime.now(UTC).isoformat()}
        await store.create(KEY, json.dumps(made).encode())
        return _parse((await store.get(KEY)).data)


async def require_store(store: Store, identity: str | None) -> None:
    """Refuse to work if this is not the store by that id. None: no id is known to compare with.

    Raises:
        StoreUnfit: it is another, or has no id.
        StoreUnavailable: its id cannot be read.
    """
    if identity is None:
        return
    try:
        found = _parse((await store.get(KEY)).data)
    except ObjectNotFound:
        raise StoreUnfit(
            f"The store in use (bucket {store.bucket!r}) has no `{KEY}`, by which this Prefect server knows the store that "
            "its jobs are kept in: it is another store, or that object was deleted. Nothing was sent or spent.",
            hint="Check AVATAR_STORE__ENDPOINT and AVATAR_STORE__BUCKET. If this is the right store, `avatar deploy` with "
            "these settings puts its id back.",
        ) from None
    if identity == found:
        return
    raise StoreUnfit(
        f"The store in use (bucket {store.bucket!r}) is not the one that this Prefect server's jobs are kept in. It has "
        "a journal of its own, which does not know what was paid for. Nothing was sent or spent.",
        hint="Set AVATAR_STORE__ENDPOINT and AVATAR_STORE__BUCKET as they were for `avatar deploy`. If the store was moved: "
        f"stop everything, copy the whole bucket, `{KEY}` included, and run `avatar deploy` with its new address.",
    )


def _parse(data: bytes) -> str:
    try:
        found = json.loads(data)["id"]
    except (ValueError, TypeError, KeyError):
        found = None
    if not isinstance(found, str) or not found:
        raise StoreUnavailable(
            f"{KEY}, by which this store is told from others, cannot be read. Nothing was sent or spent.",
            hint="Remove that object if nothing else uses the bucket: a new one is made.",
        )
    return found
