"""The run forms of the deployments: what a person needs to fill them in."""

import importlib
import inspect
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml
from pydantic import BaseModel

from avatar.errors import BudgetRefused
from avatar.models import AvatarJob
from avatar.money.quote import check_price
from avatar.settings_sections import BudgetSettings
from avatar.stored_models import ProviderName, Quote

ROOT = Path(__file__).parents[1]


def forms() -> Iterator[type[BaseModel]]:
    """The model of every parameter of every deployment in prefect.yaml."""
    for deployment in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]:
        module, _, name = deployment["entrypoint"].rpartition(".")
        function = getattr(importlib.import_module(module), name).fn
        yield from (
            get_type_hints(function)[parameter] for parameter in inspect.signature(function).parameters
        )


def fields() -> list[Any]:
    return [
        pytest.param(schema, id=f"{form.__name__}.{name}")
        for form in dict.fromkeys(forms())
        for name, schema in form.model_json_schema()["properties"].items()
    ]


@pytest.mark.parametrize("field", fields())
def test_every_field_says_what_it_wants(field: dict[str, Any]) -> None:
    """A title, a description, an example unless there is a choice to pick from, and bounds."""
    is_choice = "$ref" in field or field.get("type") == "boolean"
    assert field["description"].endswith((".", "`"))
    assert field.get("title") or is_choice
    assert field.get("examples") or is_choice
    bounds = {"integer": ("minimum", "maximum"), "number": ("minimum", "maximum")}
    assert all(bound in field for bound in bounds.get(field.get("type", ""), ()))
    if field.get("type") == "string":
        assert {"maxLength", "pattern", "enum"} & set(field)


@pytest.mark.parametrize("field", fields())
def test_no_field_asks_for_a_type_first(field: dict[str, Any]) -> None:
    """What may be left out is left empty: the Prefect UI shows a choice of types for `anyOf`."""
    assert "anyOf" not in field


def test_a_limit_is_named_as_where_it_was_set() -> None:
    """By the field of the form, the column of a manifest and the option of the command."""
    quote = Quote(
        provider=ProviderName.FAL, seconds=9, price_per_second=Decimal("0.115"), amount=Decimal("1.035")
    )
    job = AvatarJob(portrait="a.png", voice="b.mp3", max_cost=Decimal(1))
    title = AvatarJob.model_fields["max_cost"].title
    with pytest.raises(BudgetRefused, match=rf"{title} \(max_cost, --max-cost\)"):
        check_price(quote, job, BudgetSettings())
