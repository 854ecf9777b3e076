"""What the `avatar` command's verbs do. Each module is imported only when its verb is used."""

import argparse
import importlib
import json
import sys
from typing import Any

#: Verb to module; each has `run(arguments) -> exit code`.
_MODULES = {
    "generate": "flows.commands.generate",
    "batch": "flows.commands.batch",
    "quote": "flows.commands.quote",
    "status": "flows.commands.status",
    "resolve": "flows.commands.settle",
    "cancel": "flows.commands.settle",
    "up": "flows.commands.up",
    "deploy": "flows.commands.deploy",
    "doctor": "flows.commands.doctor",
    "gallery": "flows.commands.gallery",
    "bridge": "flows.commands.bridge",
    "export": "flows.commands.export",
}


def run(arguments: argparse.Namespace) -> int:
    """Run one verb; turn its errors into one paragraph and an exit code."""
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from tasks.errors import AvatarError, InvalidInput

    verb = importlib.import_module(_MODULES[arguments.command])
    try:
        return int(verb.run(arguments))
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
    print(f"avatar: {error}", file=sys.stderr)
    if error.hint:
        print(f"Next: {error.hint}", file=sys.stderr)
    if as_json:
        print(json.dumps({"error": error.describe()}))


def _first_fault(error: Exception) -> str:
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return f"A setting cannot be read: {error}"
    fault = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in fault["loc"])
    return f"{where}: {fault['msg']} ({error.title}). Nothing was sent or spent."
