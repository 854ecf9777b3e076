"""What a person may choose, by the name that it has where they read of it.

The Prefect UI has a form with titles, the command has options, and a manifest columns. A text that may be read at any of
them names all three; at the first two, only their own is left.
"""

import re
from collections.abc import Callable

#: By the field of a job or a batch: the form's title, and the command's option.
CHOICES = {
    "accept": ("Accept", "--accept"),
    "max_cost": ("Highest price", "--max-cost"),
    "model": ("Model", "--model"),
    "on_bad_rows": ("On bad rows", "--on-bad-rows"),
    "provider": ("Provider", "--provider"),
    "take": ("Take", "--force"),
    "trim": ("Trim", "--trim"),
}
#: Fields that are arguments of the command, and those that are options given once for each of several.
ARGUMENTS = ("portrait", "voice", "manifest")
REPEATED = {"labels": "label", "formats": "format"}


def named(field: str) -> str:
    """A choice by all its names."""
    title, option = CHOICES[field]
    return f"{title} ({field}, {option})"


_NAMED = re.compile("|".join(re.escape(named(field)) for field in CHOICES))


def at_form(text: str) -> str:
    """A text as it is read beside a form."""
    return _replace(text, lambda title, _: f"“{title}”")


def at_command(text: str) -> str:
    """A text as it is read on a terminal."""
    return _replace(text, lambda _, option: option)


def given_as(model: str, place: tuple[int | str, ...]) -> str:
    """What a field of a model is given by on a terminal: a variable of the settings, else an argument or an option."""
    if model == "AvatarSettings":
        return f"AVATAR_{'__'.join(map(str, place)).upper()}"
    name = str(place[0])
    if name in ARGUMENTS:
        return name.upper()
    return CHOICES[name][1] if name in CHOICES else f"--{REPEATED.get(name, name.replace('_', '-'))}"


def _replace(text: str, choose: Callable[[str, str], str]) -> str:
    by_names = {named(field): choose(*names) for field, names in CHOICES.items()}
    return _NAMED.sub(lambda match: by_names[match[0]], text)
