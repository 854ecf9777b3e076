"""Filing away: an upload that has ended leaves the inbox, and is never lost on the way.

Every file is copied, the copy is verified, and only then the original is removed, if it is still the one that was
copied. Whoever finds it half done goes on with it: the note of the upload says where to.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from avatar.errors import ObjectNotFound, StoreUnavailable
from avatar.inbox.jobs import as_filed
from avatar.inbox.look import DONE, FAILED, in_turns
from avatar.inbox.take import forget, note
from avatar.inbox.uploads import Ending, File, Filed, Inbox, Taken, file_of

_PLACES = {Ending.DONE: (DONE, "result.json"), Ending.FAILED: (FAILED, "reason.txt")}
_TYPES = {"result.json": "application/json", "reason.txt": "text/plain; charset=utf-8"}


async def decide(inbox: Inbox, judged: Taken) -> Taken | None:
    """Write the end of an upload down, and where it will be filed. None: another run has taken it over."""
    if judged.ending in _PLACES:
        judged = judged.model_copy(update={"folder": await _free_folder(inbox, judged)})
    return judged if await note(inbox, judged) else None


async def _free_folder(inbox: Inbox, taken: Taken) -> str:
    """`.done/<name>/`; if something was filed there before, a folder in it that nobody else has."""
    place = _PLACES[taken.ending or Ending.FAILED][0]
    folder = f"{inbox.prefix}{place}{taken.name}/"
    if not await inbox.store.list(folder):
        return folder
    return f"{folder}{datetime.now(UTC):%Y%m%d-%H%M%S}-{taken.signature[:6]}/"


async def file_away(inbox: Inbox, taken: Taken) -> Filed:
    """Move an upload to where its note says. May be repeated.

    A folder that has changed since it was taken is copied as far as it is still the same, and stays as it is: it is
    taken again as it is now, and what is published already costs nothing then.
    """
    if taken.ending not in _PLACES:
        return as_filed(taken, inbox.folder(taken.name))
    here = [
        file_of(stat)
        for stat in await inbox.store.list(inbox.folder(taken.name))
        if not stat.key.endswith("/")
    ]
    ours = [file for file in here if file in taken.files]
    copied = await in_turns(lambda file: _copy(inbox, taken, file), ours)
    await _tell(inbox, taken)
    changed = len(ours) < len(here) or not all(copied) or not await _remove(inbox, taken, ours)
    await forget(inbox, [taken.signature])
    return as_filed(taken, taken.folder, changed=changed)


async def _copy(inbox: Inbox, taken: Taken, file: File) -> bool:
    """Whether a verified copy of the file is in place. False: it has been changed or removed meanwhile."""
    target = _target(inbox, taken, file)
    there = await inbox.store.exists(target)
    if there is not None and (there.size, there.etag) == (file.size, file.etag):
        return True
    try:
        copy = await inbox.store.copy(file.key, target)
        source = await inbox.store.stat(file.key)
    except ObjectNotFound:
        return False
    if file_of(source) != file:
        # Of what was written over it a copy has been made: it is no part of this upload.
        await inbox.store.remove(target)
        return False
    # The ETag of an upload in parts does not survive a copy.
    alike = "-" in file.etag or "-" in copy.etag or copy.etag == file.etag
    if copy.size != file.size or not alike:
        await inbox.store.remove(target)
        raise StoreUnavailable(f"The store did not copy {file.key} as it is. It was not removed.")
    return True


def _target(inbox: Inbox, taken: Taken, file: File) -> str:
    return taken.folder + file.key.removeprefix(inbox.folder(taken.name))


async def _tell(inbox: Inbox, taken: Taken) -> None:
    """Write what is told beside the files, under a name that none of them has."""
    name = _PLACES[taken.ending or Ending.FAILED][1]
    kind, used = _TYPES[name], {_target(inbox, taken, file) for file in taken.files}
    while taken.folder + name in used:
        name = f"_{name}"
    key = taken.folder + name
    await inbox.store.put(key, taken.told.encode(), content_type=kind, like=inbox.folder(taken.name))


async def _remove(inbox: Inbox, taken: Taken, files: Sequence[File]) -> bool:
    """Remove the originals. False, and nothing more is removed, once one of them is found changed.

    What is no voice goes first: a folder without its portrait is taken by nobody meanwhile.
    """
    voices = {row.get("voice") for row in taken.rows}
    for file in sorted(files, key=lambda file: inbox.address(file.key) in voices):
        now = await inbox.store.exists(file.key)
        if now is None:
            continue
        if file_of(now) != file:
            return False
        await inbox.store.remove(file.key)
    return True
