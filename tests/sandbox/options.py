"""What can be set when a sandbox starts, and changed by `reset`."""

import argparse
from dataclasses import dataclass, fields, replace
from typing import Any


@dataclass(frozen=True)
class Options:
    """Every field is also a command-line flag (`render_seconds` is `--render-seconds`)."""

    port: int = 0
    render_seconds: float = 2.0
    queue_seconds: float = 0.0
    pixazo_generation: str = "v1"
    v2_submit_status: int = 202
    slots: int = 0  # renders at once per key; 0 is no limit
    key: tuple[str, ...] = ()  # accepted keys; empty accepts any
    admin_key: str = "sandbox-admin-key"  # the only one that may read bills
    payloads: bool = True  # whether requests are listed with their inputs
    lists_running: bool = True  # whether requests are listed that have not ended; fal does not say
    unit: str = "second"  # what fal's list of prices counts in
    price_factor: float = 1.0  # the account's prices, to those of the models' pages
    bill_factor: float = 1.0  # what is billed, to what was made (bills go wrong: fal-ai/fal#1175)
    extra_seconds: float = 0.04  # how much longer the video is than the voice
    tell_duration: bool = True  # fal's page calls `duration` required and leaves it out of its own example
    min_seconds: float = 2.0
    max_seconds: float = 60.0
    max_audio_bytes: int = 5_000_000
    max_image_bytes: int = 10_000_000
    min_image_side: int = 300
    max_aspect: float = 2.5
    fetch_seconds: float = 20.0  # how long an input may take to download
    frame_rate: int = 25
    max_side: int = 320  # longest side of the video, in pixels
    leash: bool = False  # stop when standard input closes: a test that is killed leaves no server behind
    media_dir: str = ""  # where videos are kept; empty is a temporary directory

    def changed(self, **overrides: Any) -> "Options":
        """A copy with some fields replaced; raises `TypeError` for a name that is not an option."""
        lists = {name: tuple(value) for name, value in overrides.items() if isinstance(value, list)}
        return replace(self, **{**overrides, **lists})


def parse(argv: list[str] | None = None) -> Options:
    parser = argparse.ArgumentParser(prog="python -m tests.sandbox", description=__doc__)
    for field in fields(Options):
        flag = "--" + field.name.replace("_", "-")
        if isinstance(field.default, tuple):
            parser.add_argument(flag, action="append", metavar="SECRET")
        elif isinstance(field.default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=field.default)
        else:
            parser.add_argument(flag, type=type(field.default), default=field.default)
    given = vars(parser.parse_args(argv))
    return Options(**{**given, "key": tuple(given["key"] or ())})
