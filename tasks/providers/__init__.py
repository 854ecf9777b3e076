"""Providers: ways of getting a render made, all behind the contract of `base`."""

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from tasks.models import ProviderName
from tasks.providers.base import Provider

if TYPE_CHECKING:
    from tasks.settings import AvatarSettings
    from tasks.storage.store import Store


def open_provider(name: ProviderName, settings: "AvatarSettings", store: "Store") -> Provider:
    """The provider by that name, with its limits as the settings override them. Makes no connection."""
    provider = _provider_class(name)(settings, store)
    known = asdict(provider.limits)
    overrides = {key: value for key, value in settings.limits if value is not None and key in known}
    provider.limits = replace(provider.limits, **overrides)
    return provider


def _provider_class(name: ProviderName) -> type[Provider]:
    """Imported when asked for: each brings its own heavy dependencies."""
    if name is ProviderName.FAL:
        from tasks.providers.fal import Fal

        return Fal
    if name is ProviderName.PIXAZO:
        from tasks.providers.pixazo import Pixazo

        return Pixazo
    from tasks.providers.preview import Preview

    return Preview
