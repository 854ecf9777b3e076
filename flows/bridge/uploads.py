"""What lies in the inbox, as far as the bridge has to know: which uploads there are, and which are whole."""

from collections.abc import Iterable
from datetime import UTC, datetime

from tasks.inbox.contents import read_contents
from tasks.inbox.looking import in_turns, is_manifest
from tasks.inbox.models import Inbox, Upload, file_of, is_usable


class Uploads:
    """The folders of the inbox that wait to be taken."""

    def __init__(self, inbox: Inbox) -> None:
        self.inbox = inbox

    async def names(self) -> list[str]:
        """All of them, whole or not. Raises `StoreUnavailable`."""
        prefix = self.inbox.prefix
        found = await self.inbox.store.list(prefix, recursive=False)
        folders = [stat.key.removeprefix(prefix)[:-1] for stat in found if stat.key.endswith("/")]
        # One that the store cannot be asked for would have it asked for ever.
        return [name for name in folders if name and name[0] != "." and is_usable(f"{prefix}{name}/file")]

    async def states(self, names: Iterable[str]) -> dict[str, str]:
        """Of those that a run can do something with, what tells each from an earlier one by the same name.

        One with a fault is among them: the run files it away with the reason. Raises `StoreUnavailable`.
        """
        found = await in_turns(self._state, names)
        return {name: state for name, state in found if state}

    async def _state(self, name: str) -> tuple[str, str]:
        upload = await self._find(name)
        whole = upload is not None and not (await read_contents(self.inbox, upload)).missing
        # The same files dropped again have the same signature, but another time.
        return name, f"{upload.signature} {upload.modified.isoformat()}" if upload and whole else ""

    async def _find(self, name: str) -> Upload | None:
        """The upload as it is now; None if it is gone, or a manifest makes it a batch's."""
        listed = await self.inbox.store.list(self.inbox.folder(name))
        stats = [stat for stat in listed if not stat.key.endswith("/")]
        if not stats or any(is_manifest(stat.key) for stat in stats):
            return None
        modified = max(stat.modified for stat in stats)
        age = (datetime.now(UTC) - modified).total_seconds()
        return Upload(name, tuple(file_of(stat) for stat in stats), modified, age)
