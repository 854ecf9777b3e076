"""`avatar up`, `deploy`, `gallery`, `bridge`, `export` and `repair`: what serves, deploys, copies and mends."""

import argparse
import asyncio
import dataclasses
import getpass
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from avatar.errors import AvatarError, InvalidInput
from avatar.settings import AvatarSettings
from avatar.store.store import Store
from avatar.workspace import Workspace

# A workspace for commands that need the store and nothing else.
T = TypeVar("T")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def with_store(work: Callable[[Workspace], Awaitable[T]]) -> T:
    """Run `work` with a workspace on the configured store, or on the embedded one, started if need be."""
    from avatar.local import services

    async def run(settings: AvatarSettings) -> T:
        async with Workspace(settings) as workspace:
            await workspace.store.ensure_bucket()
            return await work(workspace)

    with services(AvatarSettings(), api=False, say=_say) as running:
        return asyncio.run(run(running.for_runs(AvatarSettings())))


# What `avatar gallery` and `avatar bridge` share: where they listen, and a bucket that is there.
def listening_as_asked(
    settings: AvatarSettings, section: str, arguments: argparse.Namespace
) -> AvatarSettings:
    """The settings, with what the command line says about host and port of a section of them."""
    before = getattr(settings, section)
    given: dict[str, Any] = {"host": arguments.host, "port": arguments.port}
    stated = before.model_dump(exclude_unset=True)
    stated |= {name: value for name, value in given.items() if value is not None}
    return settings.model_copy(update={section: type(before).model_validate(stated)})


async def ensure_bucket(settings: AvatarSettings) -> None:
    """Create the bucket of a store of our own: before the first job it may have none."""
    store = Store(settings.store)
    try:
        await store.ensure_bucket()
    finally:
        await store.aclose()


def say(text: str) -> None:
    print(text, flush=True)


# `avatar bridge`: take notifications of uploads from the bucket, and webhooks of providers.
def run_bridge(arguments: argparse.Namespace) -> int:
    from avatar.local import find, services
    from avatar.local.prefect_client import PrefectAccess
    from avatar.web.bridge import check_reach

    settings = listening_as_asked(AvatarSettings(), "bridge", arguments)
    check_reach(settings)
    if arguments.host is None and arguments.port is None and (url := find(settings).bridge_url):
        say(f"The bridge of avatar up is already running: {url}")
        return 0
    # A Prefect API of the user's is told as soon as it answers; another in its place would be told in vain.
    api_url = (PrefectAccess().api_url or "").rstrip("/")
    if settings.store.endpoint and api_url:
        return _serve(settings, api_url)
    with services(settings, api=not api_url, say=_say) as running:
        return _serve(running.for_runs(settings), api_url or running.api_url)


def _serve(settings: AvatarSettings, api_url: str) -> int:
    from avatar.local.state_directory import StateDirectory
    from avatar.web.bridge import serve

    if StateDirectory(settings.state_dir).bridge_port(settings.store.endpoint):
        asyncio.run(ensure_bucket(settings))
    return serve(settings, api_url, say=say)


# `avatar gallery`: look at what was rendered, in a browser.
def run_gallery(arguments: argparse.Namespace) -> int:
    from avatar.local import find, services
    from avatar.web.gallery import serve

    settings = listening_as_asked(AvatarSettings(), "gallery", arguments)
    if arguments.add_user:
        return _add_user(settings, arguments.add_user)
    if arguments.host is None and arguments.port is None and (url := find(settings).gallery_url):
        say(f"The gallery of avatar up is already running: {url}")
        return 0
    if settings.store.endpoint:
        return serve(settings, say=say)
    with services(settings, api=False, say=_say) as running:
        settings = running.applied_to(settings)
        asyncio.run(ensure_bucket(settings))
        return serve(settings, say=say)


def _add_user(settings: AvatarSettings, user: str) -> int:
    """Empty: no password, for those whom a trusted proxy names."""
    from avatar.web.users import add_user

    if settings.gallery.users is None:
        raise InvalidInput("There is no file of users.", hint="Set AVATAR_GALLERY__USERS to its path.")
    name, _, role = user.rpartition(":")
    password = getpass.getpass(f"Password of {name} (empty: none) ")
    add_user(Path(settings.gallery.users), name, role, password)
    say(f"{name} may {role} (in {settings.gallery.users}).")
    return 0


# `avatar export`: every video and its page as a folder that opens from disk.
def run_export(arguments: argparse.Namespace) -> int:
    from avatar.web.export_gallery import export_gallery

    folder = Path(arguments.folder).expanduser()
    done = with_store(lambda workspace: export_gallery(workspace, folder))
    if arguments.json:
        print(json.dumps(dataclasses.asdict(done) | {"index": str(folder / "index.html")}))
    else:
        print(f"{done.videos} videos: {done.copied} files copied, {done.unchanged} were there already.")
        print(f"Open {folder / 'index.html'}")
    for key in done.missing:
        print(f"Missing in the store: {key}", file=sys.stderr)
    return 1 if done.missing else 0


# `avatar repair`: the indexes, made anew from what they index.
def run_repair(arguments: argparse.Namespace) -> int:
    from avatar.job.index import rebuild

    done = with_store(lambda workspace: rebuild(workspace.store, workspace.journal, say=_say))
    if arguments.json:
        print(json.dumps(dataclasses.asdict(done)))
    else:
        print(
            f"{done.videos} videos and {done.requests} requests are indexed; {done.removed} old entries removed."
        )
    for job_id in done.unreadable:
        print(f"Cannot be read: videos/{job_id}/manifest.json", file=sys.stderr)
    return 1 if done.unreadable else 0


# `avatar up`: everything on one machine.
def run_up(_: argparse.Namespace) -> int:
    from avatar.local import run_up as keep_up

    return keep_up(AvatarSettings())


# `avatar deploy`: what `avatar up` deploys, on the Prefect server that PREFECT_API_URL names.
def run_deploy(arguments: argparse.Namespace) -> int:
    from avatar.local import environment, find
    from avatar.local.deploy import WorkPool, deploy, ensure_pool

    settings = AvatarSettings()
    running = find(settings)
    if not running.api_url:
        raise AvatarError(
            "There is no Prefect server to deploy to: PREFECT_API_URL is not set or does not answer, and `avatar up` "
            "does not run.",
            hint="Set PREFECT_API_URL, or start `avatar up`, which deploys by itself.",
        )
    variables = environment(settings, running)
    pool = WorkPool(arguments.pool, arguments.type, arguments.image)
    ensure_pool(variables, running.api_url, pool)
    names = deploy(variables, pool)
    if arguments.json:
        print(json.dumps({"api_url": running.api_url, "pool": pool.name, "deployments": names}))
    else:
        print(
            f"Deployed to {running.api_url}: {', '.join(names)}; with the accounts' limits and the automations."
        )
    return 0
