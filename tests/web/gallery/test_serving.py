"""`avatar gallery` and `avatar export` as processes, as a person starts them."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import httpx
import pytest

from avatar.local.environment import flatten
from tests.web.gallery.manifests import make_video, put_manifest, put_video

COMMAND = [sys.executable, "-m", "avatar"]


@pytest.fixture
def environment(make_settings):
    """Of a process that uses this test's store."""
    return os.environ | flatten("AVATAR_", make_settings().model_dump(exclude_unset=True))


@contextmanager
def gallery(environment, *arguments):
    """A running `avatar gallery`, and the address it said."""
    command = [*COMMAND, "gallery", "--port", "0", *arguments]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, env=environment, text=True, stdout=pipe, stderr=pipe)
    try:
        said = process.stdout.readline()
        assert said.startswith("Gallery http://"), said + process.communicate()[1]
        yield process, said.split()[1]
    finally:
        process.kill()
        process.communicate()


def run(environment, *arguments):
    return subprocess.run(
        [*COMMAND, *arguments], env=environment, text=True, capture_output=True, check=False, timeout=60
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_gallery_serves_until_it_is_told_to_end(store, environment, number):
    """Pages and ranges over a real connection; Ctrl-C or SIGTERM ends it with 0 and no complaint, mid-download too."""
    body = bytes(3 * 2**20)
    video = await put_video(store, 1)
    await store.put(video.key, body, content_type="video/mp4")
    with gallery(environment) as (process, url):
        async with httpx.AsyncClient(base_url=url) as client:
            assert "hello number 1" in (await client.get("")).text
            answer = await client.get(f"media/{video.key}", headers={"range": "bytes=-10"})
            assert (answer.status_code, answer.content) == (206, bytes(10))
            async with client.stream("GET", f"media/{video.key}") as download:
                await anext(download.aiter_bytes(1000))
                process.send_signal(number)
                _, complaints = await asyncio.to_thread(process.communicate, timeout=30)
    assert (process.returncode, complaints) == (0, "")


def test_a_taken_port_is_told(environment):
    """Exit 1, and the way out."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run(environment, "gallery", "--port", port)
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in done.stderr
    assert "--port" in done.stderr


def links_of(page):
    return re.findall(r'(?:src|href|poster)="([^"#]+)"', page.read_text())


async def test_an_exported_folder_needs_nothing_else(store, environment, tmp_path):
    """Every link of every page leads to a file in the folder, and the files are what is in the store."""
    videos = [await put_video(store, number) for number in (1, 2)]
    folder = tmp_path / "out"
    done = run(environment, "export", str(folder), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["videos"], told["copied"], told["missing"]) == (2, 6, [])
    pages = [*folder.rglob("*.html")]
    assert len(pages) == 3
    for page in pages:
        for link in links_of(page):
            assert (page.parent / link).is_file(), (page, link)
    assert (folder / "media" / videos[0].key).read_bytes() == b"video"


def snapshot(folder):
    return {
        path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.rglob("*") if path.is_file()
    }


async def test_a_second_export_changes_nothing_but_what_is_new(store, environment, tmp_path):
    """Files that are there are neither fetched nor written again; a new video is added, a removed one kept."""
    old = await put_video(store, 1)
    folder = tmp_path / "out"
    assert run(environment, "export", str(folder)).returncode == 0
    before = snapshot(folder)
    again = run(environment, "export", str(folder))
    assert "0 files copied, 4 were there already" in again.stdout
    assert snapshot(folder) == before
    await store.remove(old.manifest_key)
    await put_video(store, 2)
    assert run(environment, "export", str(folder)).returncode == 0
    assert (folder / "videos" / f"{old.job_id}.html").is_file()
    index = (folder / "index.html").read_text()
    assert ("number 2" in index, "number 1" in index) == (True, False)


async def test_a_video_missing_in_the_store_is_told(store, environment, tmp_path):
    """Exit 1 with the key; the rest is exported, and its page says that the file is not here."""
    video = make_video(1)
    await put_manifest(store, video)
    done = run(environment, "export", str(tmp_path / "out"))
    assert done.returncode == 1
    assert f"Missing in the store: {video.key}" in done.stderr
    page = (tmp_path / "out" / "videos" / f"{video.job_id}.html").read_text()
    assert "The video file is not here" in page
    assert "<video" not in page


async def test_an_export_stays_in_its_folder(store, environment, tmp_path):
    """Keys in a manifest that lead out of the folder, or out of what is served, are not followed."""
    secret = {"poster_key": "videos/../../../escaped", "contact_key": "journal/x"}
    await store.put("journal/x", b"secret", content_type="image/jpeg")
    await put_manifest(store, make_video(1, **secret))
    folder = tmp_path / "deep" / "out"
    assert run(environment, "export", str(folder)).returncode == 1
    assert {path for path in tmp_path.rglob("*") if "escaped" in path.name or "journal" in str(path)} == set()


async def test_a_folder_of_something_else_is_left_alone(store, environment, tmp_path):
    """Exit 2 before anything is written, if the folder is not empty and not an export."""
    (tmp_path / "index.html").write_text("mine")
    done = run(environment, "export", str(tmp_path))
    assert (done.returncode, (tmp_path / "index.html").read_text()) == (2, "mine")
    assert [path.name for path in tmp_path.iterdir() if path.name != "state"] == ["index.html"]
