"""The models that can be asked for: `models.toml`, changed and added to by the settings `AVATAR_MODELS__…`."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avatar.errors import NotConfigured
from avatar.models import Limits
from avatar.option_names import named
from avatar.settings_sections import ModelSettings
from avatar.stored_models import ProviderName

if TYPE_CHECKING:
    from avatar.settings import AvatarSettings


@dataclass(frozen=True)
class Offer:
    """Where a model is to be had.

    Attributes:
        endpoint: fal's endpoint id, or the path of Pixazo's product.
        price_per_second: US dollars.
        source: of both.
    """

    endpoint: str
    price_per_second: Decimal
    source: str = ""


@dataclass(frozen=True)
class KnownModel:
    """One model, under the name that it has in ids."""

    name: str
    title: str
    enabled: bool
    prompt: bool
    limits: Limits
    offers: Mapping[ProviderName, Offer]
    parameters: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def offer(self, provider: ProviderName) -> Offer:
        """Where `provider` has it. Raises `NotConfigured` if that is not known, or the model is off."""
        variable = f"AVATAR_MODELS__{plain_name(self.name).upper()}"
        if not self.enabled:
            raise NotConfigured(
                f"The model {self.name} is off. {' '.join(self.notes)} Nothing was sent or spent.",
                provider=provider,
                hint=f"Choose another model ({named('model')}), or set {variable}__ENABLED=true (docs/models.md).",
            )
        if provider not in self.offers:
            raise NotConfigured(
                f"Where {provider} has the model {self.name} is not known. Nothing was sent or spent.",
                provider=provider,
                hint=f"Choose another {named('provider')} or {named('model')}, or set {variable}__{provider.upper()}__ENDPOINT and "
                "__PRICE_PER_SECOND (docs/models.md).",
            )
        return self.offers[provider]


def known_models(settings: "AvatarSettings") -> dict[str, KnownModel]:
    """All of them by name, in the table's order, those of the settings at the end."""
    table = {name: dict(entry) for name, entry in _table().items()}
    names = {plain_name(name): name for name in table}
    for given, change in settings.models.items():
        name = names.setdefault(plain_name(given), given.lower().replace("_", "-"))
        table[name] = _merged(table.get(name, {}), change.model_dump(exclude_unset=True))
    return {name: _read(name, entry) for name, entry in table.items()}


def find_model(settings: "AvatarSettings", name: str | None = None) -> KnownModel:
    """The model by that name, or the one the settings name. One that nobody knows is off, and had nowhere."""
    chosen, known = name or settings.model, known_models(settings)
    for model in known.values():
        if plain_name(model.name) == plain_name(chosen):
            return model
    note = f"Nothing is known of it; there are {', '.join(known)}."
    return KnownModel(chosen, chosen, enabled=False, prompt=True, limits=Limits(), offers={}, notes=(note,))


@cache
def _table() -> dict[str, dict[str, Any]]:
    return tomllib.loads(Path(__file__).with_name("models.toml").read_text("utf-8"), parse_float=Decimal)


def _read(name: str, entry: Mapping[str, Any]) -> KnownModel:
    checked = ModelSettings.model_validate(entry)
    offers = {ProviderName.FAL: checked.fal, ProviderName.PIXAZO: checked.pixazo}
    limits = {key: value for key, value in checked.limits if value is not None} if checked.limits else {}
    return KnownModel(
        name=name,
        title=checked.title or name,
        enabled=checked.enabled is not False,
        prompt=checked.prompt is not False,
        limits=replace(Limits(), **limits),
        offers={
            provider: Offer(offer.endpoint.strip("/"), offer.price_per_second, offer.source)
            for provider, offer in offers.items()
            if offer is not None and offer.endpoint and offer.price_per_second is not None
        },
        parameters=checked.parameters or {},
        notes=checked.notes,
    )


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """`new` over `old`, table by table."""
    both = {
        name: _merged(old[name], value)
        if isinstance(value, dict) and isinstance(old.get(name), dict)
        else value
        for name, value in new.items()
    }
    return {**old, **both}


def plain_name(name: str) -> str:
    """A name as a variable of the environment can have it: dots and dashes are underscores there."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
