"""The inbox as Prefect sees it: a task that files uploads away, and a page that tells how they ended."""

from collections.abc import Sequence
from html import escape

from prefect import get_run_logger, task
from prefect.artifacts import acreate_markdown_artifact
from prefect.cache_policies import NO_CACHE

from avatar.errors import AvatarError
from avatar.inbox.finish import Outcomes, as_filed, decide_ending, file_away, write_end
from avatar.inbox.sweep import describe
from avatar.inbox.upload_owner import Ending, Filed, Taken, Waiting
from avatar.inbox.uploads import Inbox, in_turns
from avatar.workspace import Workspace
from tasks.artifacts import write_artifact
from tasks.results import passes_by_itself

#: Uploads on the page.
SHOWN = 200


@task(
    task_run_name="file uploads away",
    retries=3,
    retry_delay_seconds=[1, 3, 10],
    retry_condition_fn=passes_by_itself,
    cache_policy=NO_CACHE,
    persist_result=False,
)
async def file_uploads(
    workspace: Workspace, taken: Sequence[Taken], outcomes: Outcomes, stopped: AvatarError | None = None
) -> list[Filed]:
    """Write down how every upload ended, then move them; what cannot be moved now is moved by a later sweep."""
    inbox = Inbox(workspace)
    ended = [decide_ending(inbox, each, outcomes.get(each.signature, ()), stopped) for each in taken]
    # All ends are written before anything is moved: a run that goes on from here must not render what has failed.
    decided = await in_turns(lambda each: write_end(inbox, each), ended)
    return await in_turns(lambda each: _file(inbox, each), [each for each in decided if each is not None])


async def _file(inbox: Inbox, taken: Taken) -> Filed:
    try:
        return await file_away(inbox, taken)
    except AvatarError as error:
        get_run_logger().warning("%s is filed by the next sweep: %s", taken.name, error)
        return as_filed(taken, inbox.folder(taken.name))


async def show_uploads(inbox: Inbox, filed: Sequence[Filed], waiting: Sequence[Waiting]) -> None:
    """Tell how uploads ended and what waits, in the log and as a page."""
    logger = get_run_logger()
    for each in filed:
        log = logger.info if each.ending is Ending.DONE else logger.warning
        changed = " It was changed meanwhile and is taken again." if each.changed else ""
        log("%s: %s, %s.%s", each.name, each.ending, each.where, changed)
    for one in waiting:
        logger.warning(describe(inbox, one))
    if filed or waiting:
        page = as_markdown(inbox, filed, waiting)
        done = sum(each.ending is Ending.DONE for each in filed)
        artifact = acreate_markdown_artifact(
            key="inbox",
            markdown=page,
            description=f"{done} of {len(filed)} uploads done, {len(waiting)} wait",
        )
        await write_artifact(artifact, logger)


def as_markdown(inbox: Inbox, filed: Sequence[Filed], waiting: Sequence[Waiting]) -> str:
    """The page of one sweep."""
    text = "## Inbox\n"
    if filed:
        text += "\n| upload | how it ended | where it is | |\n| --- | --- | --- | --- |\n"
    for each in filed[:SHOWN]:
        told = "" if each.ending is Ending.DONE else each.told
        text += f"| {_cell(each.name)} | {each.ending} | `{_cell(each.where)}` | {_cell(told)} |\n"
    if waiting:
        text += "\n### Not complete\n\n" + "".join(
            f"- {_cell(describe(inbox, each))}\n" for each in waiting[:SHOWN]
        )
    return text


def _cell(text: str) -> str:
    """One line of a Markdown table that cannot be left: names are written by others."""
    return escape(" ".join(text.split()), quote=False).replace("|", "\\|").replace("`", "'")
