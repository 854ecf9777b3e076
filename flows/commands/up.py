"""`avatar up`: everything on one machine."""

import argparse

from tasks.settings import AvatarSettings


def run(_: argparse.Namespace) -> int:
    from flows.local import run_up

    return run_up(AvatarSettings())
