"""The limits of the providers' accounts, as Prefect's global concurrency limits: people see and change them in its UI."""

import contextlib
import math
from dataclasses import dataclass

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from tasks.models import ProviderName
from tasks.settings import AvatarSettings

#: The providers that have an account.
PAID = (ProviderName.FAL, ProviderName.PIXAZO)


@dataclass(frozen=True)
class Limit:
    """One limit as the settings want it.

    Attributes:
        name: what Prefect calls it.
        slots: how many at a time; of a rate, how many at once after a pause.
        per_second: slots that become free by themselves in a second; 0 if they are given back.
        stated: whether the user wrote it in the settings, so that it stands above what the UI says.
    """

    name: str
    slots: int
    per_second: float = 0.0
    stated: bool = False


def renders_limit(settings: AvatarSettings, provider: ProviderName) -> Limit:
    """Renders that the account has at a time: AVATAR_FAL__AT_ONCE, AVATAR_PIXAZO__AT_ONCE."""
    section = settings.fal if provider is ProviderName.FAL else settings.pixazo
    return Limit(f"avatar-{provider}", section.at_once, stated="at_once" in section.model_fields_set)


def submits_limit(settings: AvatarSettings, provider: ProviderName) -> Limit:
    """Paid requests a second: AVATAR_FAL__SUBMITS_PER_SECOND, AVATAR_PIXAZO__SUBMITS_PER_SECOND."""
    section = settings.fal if provider is ProviderName.FAL else settings.pixazo
    rate = section.submits_per_second
    stated = "submits_per_second" in section.model_fields_set
    return Limit(f"avatar-{provider}-submits", max(1, math.floor(rate)), rate, stated)


async def ensure_limit(client: PrefectClient, wanted: Limit) -> None:
    """Create a limit that is missing. One that is there is the user's, unless the settings state another."""
    try:
        found = await client.read_global_concurrency_limit_by_name(wanted.name)
    except ObjectNotFound:
        limit = GlobalConcurrencyLimitCreate(
            name=wanted.name, limit=wanted.slots, slot_decay_per_second=wanted.per_second
        )
        with contextlib.suppress(ObjectAlreadyExists):  # another run was faster
            await client.create_global_concurrency_limit(limit)
        return
    if wanted.stated and (found.limit, found.slot_decay_per_second) != (wanted.slots, wanted.per_second):
        change = GlobalConcurrencyLimitUpdate(limit=wanted.slots, slot_decay_per_second=wanted.per_second)
        with contextlib.suppress(ObjectNotFound):  # somebody deleted it just now
            await client.update_global_concurrency_limit(wanted.name, change)


async def ensure_limits(client: PrefectClient, settings: AvatarSettings) -> list[str]:
    """The limits of every account; returns their names."""
    wanted = [make(settings, provider) for provider in PAID for make in (renders_limit, submits_limit)]
    for limit in wanted:
        await ensure_limit(client, limit)
    return [limit.name for limit in wanted]
