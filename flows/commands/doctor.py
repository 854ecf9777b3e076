"""`avatar doctor`: whether a job started now would go through."""

import argparse

from tasks.settings import AvatarSettings


def run(arguments: argparse.Namespace) -> int:
    from flows.doctor import run_doctor

    return run_doctor(AvatarSettings(), as_json=arguments.json)
