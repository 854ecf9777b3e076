"""Providers: ways of getting a render made, all behind the contract of `base`."""

from collections.abc import Callable
from dataclasses import asdict, replace
from decimal import Decimal
from typing import TYPE_CHECKING, cast

from avatar.models import PREVIEW, Limits
from avatar.providers.base import Provider
from avatar.providers.known_models import KnownModel, find_model
from avatar.stored_models import ProviderName

if TYPE_CHECKING:
    from avatar.settings import AvatarSettings
    from avatar.store.store import Store

    Maker = Callable[[AvatarSettings, Store, KnownModel], Provider]


def open_provider(
    name: ProviderName, settings: "AvatarSettings", store: "Store", model: str | None = None
) -> Provider:
    """The provider by that name for a model (None: the settings' one), with its limits as the settings override them.

    Makes no connection. Whether it may be asked is told by its `check_offered` and `check_configured`.
    """
    found = find_model(settings, None if model == PREVIEW else model)
    provider = _maker(name)(settings, store, found)
    known = asdict(provider.limits)
    overrides = {key: value for key, value in settings.limits if value is not None and key in known}
    provider.limits = replace(provider.limits, **overrides)
    return provider


def describe_provider(
    name: ProviderName, settings: "AvatarSettings", model: str | None = None
) -> "tuple[Decimal, Limits]":
    """Price per second in US dollars, and limits: for a quote, which needs neither key nor store.

    Raises:
        NotConfigured: the model is unknown, off, or not to be had there.
    """
    provider = open_provider(name, settings, cast("Store", None), model)
    provider.check_offered()
    return provider.price_per_second, provider.limits


def _maker(name: ProviderName) -> "Maker":
    """Imported when asked for: each brings its own heavy dependencies."""
    if name is ProviderName.FAL:
        from avatar.providers.fal import Fal

        return Fal
    if name is ProviderName.PIXAZO:
        from avatar.providers.pixazo import Pixazo

        return Pixazo
    from avatar.providers.preview import Preview

    return Preview
