"""Looks everywhere that an installation keeps or says something."""

import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

from minio import Minio

from avatar.settings_sections import StoreSettings
from tests.security.conftest import encodings

#: A link that opens something, and the address of a webhook, which is a capability.
SIGNED = re.compile(rb"(?i)x-amz-(?:signature|credential)(?:=|%3d|%253d)")
WEBHOOK = re.compile(
    rb"webhooks(?:/|%2f)(?:fal|pixazo)(?:/|%2f)[0-9a-f]{32}(?:/|%2f)\d+(?:/|%2f)[0-9a-f]{40}"
)

#: Places by name, and what stands there.
Places = Iterator[tuple[str, bytes]]


def database(path: Path) -> Places:
    """Every cell of every table, and the files as they are: pages may hold what was deleted."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as connection:
        connection.text_factory = bytes
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            cursor = connection.execute(f'SELECT * FROM "{table.decode()}"')
            columns = [column[0] for column in cursor.description]
            for row in cursor:
                for column, cell in zip(columns, row, strict=True):
                    yield (
                        f"table {table.decode()}.{column}",
                        cell if isinstance(cell, bytes) else str(cell).encode(),
                    )
    for each in sorted(path.parent.glob(f"{path.name}*")):
        yield f"file {each.name}", each.read_bytes()


def folder(root: Path, *, without: Callable[[Path], bool]) -> Places:
    """Every file below, but those that are meant to hold secrets."""
    for path in sorted(root.rglob("*")):
        if path.is_file() and not without(path):
            yield f"file {path.relative_to(root)}", path.read_bytes()


def open_client(settings: StoreSettings) -> Minio:
    keys = (settings.access_key, settings.secret_key)
    access, secret = (key.get_secret_value() if key else "" for key in keys)
    return Minio(settings.endpoint or "", access, secret, secure=False, region="us-east-1")


def bucket(settings: StoreSettings) -> Places:
    """Every object with its metadata, media too."""
    client = open_client(settings)
    for item in client.list_objects(settings.bucket, recursive=True):
        with closing(client.get_object(settings.bucket, item.object_name)) as answer:
            body, headers = answer.read(), dict(answer.headers)
            answer.release_conn()
        yield f"object {item.object_name}", body + str(headers).encode()


def traces(places: Places, secrets: Mapping[str, str]) -> list[str]:
    """Where something stands that should not: `<what> in <place>`."""
    wanted = {name: list(encodings(secret)) for name, secret in secrets.items()}
    found = set[str]()
    for place, content in places:
        found |= {
            f"{name} in {place}" for name, forms in wanted.items() if any(form in content for form in forms)
        }
        found |= {
            f"{name} in {place}"
            for name, pattern in (("a signed link", SIGNED), ("a webhook's address", WEBHOOK))
            if pattern.search(content)
        }
    return sorted(found)
