"""The `avatar` command."""

import argparse
import atexit
import gc
import importlib
import json
import sys
from collections.abc import Sequence
from typing import Any

from avatar.commands.parser import build_parser

#: Verb to the function that carries it out; its module is imported only when the verb is used.
_VERBS = {
    "generate": "generate:run",
    "batch": "batch:run",
    "quote": "quote:run",
    "status": "status:run",
    "resolve": "status:run_settle",
    "cancel": "status:run_settle",
    "label": "status:run_label",
    "consent": "consent:run",
    "captions": "captions_and_formats:run_captions",
    "formats": "captions_and_formats:run_formats",
    "approve": "approve:run",
    "refuse": "approve:run",
    "up": "serve:run_up",
    "deploy": "serve:run_deploy",
    "doctor": "doctor:run",
    "mcp": "mcp:run",
    "gallery": "serve:run_gallery",
    "bridge": "serve:run_bridge",
    "export": "serve:run_export",
    "repair": "serve:run_repair",
}


def run(arguments: argparse.Namespace) -> int:
    """Run one verb; turn its errors into one paragraph and an exit code."""
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from avatar.errors import AvatarError, InvalidInput

    module, function = _VERBS[arguments.command].split(":")
    verb = getattr(importlib.import_module(f"avatar.commands.{module}"), function)
    try:
        return int(verb(arguments))
    except AvatarError as error:
        failure = error
    except (ValidationError, SettingsError) as error:
        failure = InvalidInput(_first_fault(error), hint="Check the arguments and the AVATAR_ settings.")
    except KeyboardInterrupt:
        print(
            "Stopped. Nothing that was paid for is lost: run the same command again.",
            file=sys.stderr,
        )
        return 130
    if arguments.debug:
        raise failure
    report(failure, as_json=getattr(arguments, "json", False))
    return failure.exit_code


def report(error: Any, *, as_json: bool) -> None:
    """Tell a person what happened; with --json, a machine too."""
    from avatar.option_names import at_command

    print(f"avatar: {at_command(str(error))}", file=sys.stderr)
    if error.hint:
        print(f"Next: {at_command(error.hint)}", file=sys.stderr)
    if as_json:
        print(json.dumps({"error": error.describe()}))


def _first_fault(error: Exception) -> str:
    from pydantic import ValidationError

    from avatar.option_names import given_as

    if not isinstance(error, ValidationError):
        return f"A setting cannot be read: {error}"
    fault = error.errors(include_input=False, include_url=False)[0]
    said = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "string_pattern_mismatch":
        said = _meant(fault["loc"][0]) or said
    where = f"{given_as(error.title, fault['loc'])}: " if fault["loc"] else ""
    return f"{where}{said.rstrip('.')}. Nothing was sent or spent."


def _meant(name: int | str) -> str:
    """What a job's field is for, in its own words: a pattern tells nobody."""
    from avatar.models import AvatarJob

    field = AvatarJob.model_fields.get(str(name))
    return f"it cannot be read. {field.description}" if field and field.description else ""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `avatar`. Returns the exit code."""
    # Looking for garbage takes a fifth of importing Prefect, and half a second at the end.
    gc.set_threshold(20_000)
    atexit.register(gc.freeze)
    return run(build_parser().parse_args(argv))
