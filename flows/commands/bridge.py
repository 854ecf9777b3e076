"""`avatar bridge`: take notifications of uploads from the bucket, and webhooks of providers."""

import argparse
import asyncio
import os
import sys

from flows.commands.sites import ensure_bucket, listening_as_asked, say
from tasks.settings import AvatarSettings


def run(arguments: argparse.Namespace) -> int:
    from flows.bridge.serving import check_reach
    from flows.local import environment, find, services
    from flows.local.prefect_api import PrefectAccess

    settings = listening_as_asked(AvatarSettings(), "bridge", arguments)
    check_reach(settings)
    if arguments.host is None and arguments.port is None and (url := find(settings).bridge_url):
        say(f"The bridge of avatar up is already running: {url}")
        return 0
    # A Prefect API of the user's is told as soon as it answers; another in its place would be told in vain.
    api_url = (PrefectAccess().api_url or "").rstrip("/")
    if settings.store.endpoint and api_url:
        return _serve(settings, api_url)
    with services(settings, api=not api_url, say=lambda text: print(text, file=sys.stderr)) as running:
        os.environ.update(environment(settings, running))
        return _serve(running.applied_to(settings), api_url or running.api_url)


def _serve(settings: AvatarSettings, api_url: str) -> int:
    from flows.bridge.serving import serve
    from flows.local.bridge import store_port
    from flows.local.record import StateDirectory

    if store_port(StateDirectory(settings.state_dir), settings):
        asyncio.run(ensure_bucket(settings))
    return serve(settings, api_url, say=say)
