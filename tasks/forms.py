"""The base of every model of the project, and how it looks as a run form in the Prefect UI."""

from typing import Any

from pydantic import BaseModel, ConfigDict


def _one_input(schema: dict[str, Any]) -> None:
    """Give every field that may be None one input in the run form, left empty for None.

    As generated, the Prefect UI asks for a type first (`str` or `None`). Its server accepts null for a field that is
    not required and has no default, whatever its type (prefect/utilities/schema_tools/validation.py of 3.9.1).
    """
    for field in schema.get("properties", {}).values():
        options = [option for option in field.get("anyOf", ()) if option.get("type") != "null"]
        if len(options) < len(field.get("anyOf", ())) and field.get("default", ...) is None:
            del field["anyOf"], field["default"]
            field.update(options[0])


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=_one_input)
