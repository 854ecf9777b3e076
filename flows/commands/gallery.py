"""`avatar gallery`: look at what was rendered, in a browser."""

import argparse
import asyncio
import sys

from flows.commands.sites import ensure_bucket, listening_as_asked, say
from tasks.settings import AvatarSettings


def run(arguments: argparse.Namespace) -> int:
    from flows.gallery.serving import serve
    from flows.local import find, services

    settings = listening_as_asked(AvatarSettings(), "gallery", arguments)
    if arguments.host is None and arguments.port is None and (url := find(settings).gallery_url):
        say(f"The gallery of avatar up is already running: {url}")
        return 0
    if settings.store.endpoint:
        return serve(settings, say=say)
    with services(settings, api=False, say=lambda text: print(text, file=sys.stderr)) as running:
        settings = running.applied_to(settings)
        asyncio.run(ensure_bucket(settings))
        return serve(settings, say=say)
