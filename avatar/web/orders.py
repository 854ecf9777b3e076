"""What the forms of the gallery's pages carry, and what it means: an order, its price, the answer to a waiting run."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from http import HTTPStatus
from typing import Any

import httpx
from starlette.exceptions import HTTPException

from avatar.errors import InvalidInput
from avatar.models import AvatarJob, Plan, ProviderName, Video

_ASSET = re.compile(r"assets/[0-9a-f]{64}\.[a-z0-9]{2,5}")
_ONCE = re.compile(r"[A-Za-z0-9_-]{16,64}")
_AMOUNT = re.compile(r"\$([0-9]+\.[0-9]{2})")
#: Voices of one order; more come as a manifest.
MOST_VOICES = 50


@dataclass(frozen=True)
class Order:
    """What was brought and asked for, as it stands in the page's address."""

    portrait: str = ""
    voices: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    prompt: str = "."
    title: str = ""

    @classmethod
    def of(cls, pairs: Sequence[tuple[str, str]]) -> "Order":
        """Raises `InvalidInput` for what no page of ours asks for."""
        given = dict(pairs)
        voices = tuple(dict.fromkeys(value for name, value in pairs if name == "voice" and value))
        keys = [*voices, *([given["portrait"]] if given.get("portrait") else [])]
        if not all(_ASSET.fullmatch(key) for key in keys) or len(voices) > MOST_VOICES:
            raise InvalidInput(
                f"An order is one portrait and up to {MOST_VOICES} voices that were brought here."
            )
        names = {
            value.partition("=")[0]: value.partition("=")[2][:120] for name, value in pairs if name == "name"
        }
        return cls(
            portrait=given.get("portrait", ""),
            voices=voices,
            names={key: names[key] for key in keys if key in names},
            prompt=given.get("prompt", "").strip()[:2500] or ".",
            title=" ".join(given.get("title", "").split())[:200],
        )

    @property
    def complete(self) -> bool:
        return bool(self.portrait and self.voices)

    def pairs(self) -> list[tuple[str, str]]:
        """Its fields, for an address or a form."""
        found = [("portrait", self.portrait), *(("voice", key) for key in self.voices)]
        found += [("name", f"{key}={name}") for key, name in self.names.items()]
        return [pair for pair in [*found, ("prompt", self.prompt), ("title", self.title)] if pair[1]]

    def named(self, key: str) -> str:
        return self.names.get(key, key.rpartition("/")[2])


@dataclass(frozen=True)
class Offer:
    """What one provider asks for an order. `fault` is why it cannot be had."""

    provider: ProviderName
    plans: tuple[Plan, ...] = ()
    owed: Decimal = Decimal(0)
    videos: tuple[Video, ...] = ()
    fault: str = ""


def refused(error: httpx.HTTPError) -> HTTPException:
    """What Prefect said to a request that it will not take; else that it may take it later."""
    if isinstance(error, httpx.HTTPStatusError) and error.response.is_client_error:
        said = " ".join(error.response.text.split())[:300]
        return HTTPException(HTTPStatus.CONFLICT, f"Prefect did not take it: {said}. Nothing was started.")
    return HTTPException(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "Prefect does not answer. Try again in a moment: what was started is not started twice.",
    )


def check_price(fields: Mapping[str, str], price: Decimal) -> None:
    """Raise 409 unless the price that was shown is still the price."""
    try:
        shown = Decimal(fields.get("price", ""))
    except InvalidOperation:
        shown = Decimal(-1)
    if shown != price:
        text = f"The price is ${price:.2f} now, and is not what was shown. Nothing was started; look at it again."
        raise HTTPException(HTTPStatus.CONFLICT, text)


def once_of(fields: Mapping[str, str]) -> str:
    once = fields.get("once", "")
    if not _ONCE.fullmatch(once):
        raise InvalidInput("This form is not complete. Nothing was started.")
    return once


def as_parameters(job: AvatarJob) -> dict[str, Any]:
    """The job as the run's form takes it: there, an amount is a number."""
    plain = job.model_dump(mode="json", exclude_unset=True)
    return plain | ({} if job.max_cost is None else {"max_cost": float(job.max_cost)})


def amount_of(question: Mapping[str, Any] | None) -> str:
    """The amount a question names first."""
    found = _AMOUNT.search(question["text"]) if question else None
    return found[1] if found else ""


def answer_for(schema: Mapping[str, Any], *, approve: bool) -> dict[str, Any]:
    """The answer in the form that the run asks for: a switch, or a choice of two."""
    for name, asked in (schema.get("properties") or {}).items():
        if asked.get("type") == "boolean":
            return {name: approve}
        options = asked.get("enum") or _options(schema, asked)
        wanted = [
            each
            for each in options
            if str(each).lower().startswith("approve" if approve else ("refuse", "deny"))
        ]
        if wanted:
            return {name: wanted[0]}
    raise HTTPException(HTTPStatus.CONFLICT, "This run asks for something else; answer it in the Prefect UI.")


def _options(schema: Mapping[str, Any], asked: Mapping[str, Any]) -> list[Any]:
    """The choices of a field that is described by reference."""
    reference = asked.get("$ref") or next((each.get("$ref", "") for each in asked.get("allOf") or ()), "")
    described = (schema.get("definitions") or schema.get("$defs") or {}).get(reference.rpartition("/")[2], {})
    return list(described.get("enum") or ())
