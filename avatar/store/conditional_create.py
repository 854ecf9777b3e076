"""That a store refuses to create over an object, proved once and kept with its identity: safe payment rests on it.

The proof, `index/creates/<digest>.json`, is of one address and bucket: copied elsewhere, it proves nothing there. It is
believed for a day, since another server may stand behind the same address one day.
"""

import hashlib
from contextlib import suppress

from avatar.errors import ObjectNotFound, StoreUnavailable
from avatar.store.store import Store

#: For how long it is believed, in seconds by the store's clock.
PROOF_SECONDS = 86400.0


def proof_key(store: Store) -> str:
    place = f"{store.place}/{store.bucket}"
    return f"index/creates/{hashlib.sha256(place.encode()).hexdigest()[:32]}.json"


async def ensure_bucket(store: Store) -> None:
    """Make the bucket unless it is there. One in which the proof lies is, which answers both in one request."""
    try:
        store.proved = store.proved or await _is_proved(store)
    except StoreUnavailable:
        store.proved = False  # perhaps there is no bucket
    if not store.proved:
        await store.ensure_bucket()


async def keeps_conditional_create(store: Store) -> bool:
    """As `Store.proves_conditional_create`, but what any process proved is believed. Raises `StoreUnavailable`."""
    if not store.proved:
        store.proved = await _is_proved(store)
    if store.proved:
        return True
    proved = await store.proves_conditional_create()
    if proved:
        with suppress(StoreUnavailable):  # the next process proves it again
            await store.put(proof_key(store), b'{"format": 1}', content_type="application/json")
    return proved


async def _is_proved(store: Store) -> bool:
    try:
        age = (await store.get(proof_key(store))).stat.age
    except ObjectNotFound:
        return False
    return age is not None and 0 <= age < PROOF_SECONDS
