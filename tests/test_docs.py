"""docs/settings.md lists every setting as the models have it. `UPDATE_DOCS=1` writes it anew."""

import os
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from avatar.settings import AvatarSettings, default_state_dir

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
HEAD = """# Settings

Read from the environment, then from the `.env` file of the directory where the command, `avatar up` or the worker was
started; `AVATAR_ENV_FILE` names another file. `avatar doctor` tells which file was read. Secrets are never
printed. An unknown name within a group is an error, so that a typo is seen. `avatar doctor` tells whether what is set
works.
"""
COLUMNS = "| Variable | Default | Values | What it does |\n| --- | --- | --- | --- |\n"
BOUNDS = {"ge": "≥ {:g}", "gt": "> {:g}", "le": "≤ {:g}", "lt": "< {:g}"}

Setting = tuple[str, FieldInfo]


def settings(model: type[BaseModel], prefix: str) -> Iterator[Setting]:
    """Every setting that is a value, by the variable that sets it."""
    for name, field in model.model_fields.items():
        variable = prefix + name.upper()
        if is_group(field):
            yield from settings(field.annotation, f"{variable}__")
        else:
            yield variable, field


def is_group(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def page() -> str:
    """The page as the models have it."""
    fields = AvatarSettings.model_fields.items()
    alone = [("AVATAR_" + name.upper(), field) for name, field in fields if not is_group(field)]
    parts = [HEAD, "## General\n", table(alone)]
    for name, field in fields:
        if is_group(field):
            parts += [
                f"## {name.capitalize()}\n",
                table(settings(field.annotation, f"AVATAR_{name.upper()}__")),
            ]
    return "\n".join(parts)


def table(rows: Any) -> str:
    return COLUMNS + "".join(
        f"| `{variable}` | {default(field)} | {values(field)} | {field.description} |\n"
        for variable, field in rows
    )


def default(field: FieldInfo) -> str:
    if field.default_factory is default_state_dir:
        return f"`~/{default_state_dir().relative_to(Path.home())}`"
    value = field.default
    if value is None:
        return "unset"
    text = (
        value.value
        if isinstance(value, Enum)
        else str(value).lower()
        if isinstance(value, bool)
        else str(value)
    )
    return f"`{text}`"


def values(field: FieldInfo) -> str:
    """Choices, bounds or the kind of text, as far as the model says."""
    kinds = get_args(field.annotation) or (field.annotation,)
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{kind}`" for kind in kinds)
    for kind in kinds:
        if kind is SecretStr:
            return "secret"
        if isinstance(kind, type) and issubclass(kind, Enum):
            return ", ".join(f"`{choice.value}`" for choice in kind)
        if kind is bool:
            return "`true`, `false`"
    limits = [
        (name, getattr(rule, name)) for rule in field.metadata for name in BOUNDS if hasattr(rule, name)
    ]
    return ", ".join(BOUNDS[name].format(bound) for name, bound in limits)


@pytest.mark.parametrize(
    ("variable", "field"), [pytest.param(*each, id=each[0]) for each in settings(AvatarSettings, "AVATAR_")]
)
def test_every_setting_says_what_it_does(variable: str, field: FieldInfo) -> None:
    """Each has a description, written as a sentence."""
    assert field.description, f"{variable} has no description"
    assert field.description.endswith(".")


def test_the_page_is_what_the_models_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/settings.md is up to date; if not: `UPDATE_DOCS=1 python -m pytest tests/test_docs.py`."""
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    if os.environ.get("UPDATE_DOCS"):
        PAGE.write_text(page())
    assert PAGE.read_text() == page()
