"""`avatar label`: what a video is called, changed later. Costs nothing, and changes neither its job nor its file."""

import argparse
import json

from avatar.commands.serve import with_store
from avatar.errors import InvalidInput
from avatar.job.publish import find_video, name_video
from avatar.models import AvatarJob, Video
from avatar.workspace import Workspace


def names_of(arguments: argparse.Namespace) -> dict[str, object]:
    """Title, language and labels as a job takes them; only what was given."""
    labels = dict(_pair(text) for text in arguments.label)
    given = {"title": arguments.title, "language": arguments.language, "labels": labels or None}
    return {name: value for name, value in given.items() if value is not None}


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InvalidInput(f"--label {text!r} is not KEY=VALUE, as in campaign=spring. Nothing was changed.")
    return key.strip(), value.strip()


def run(arguments: argparse.Namespace) -> int:
    names = AvatarJob.model_validate({"portrait": "-", "voice": "-", **names_of(arguments)})

    async def change(workspace: Workspace) -> Video:
        video = await find_video(workspace, arguments.job)
        if video is None:
            raise InvalidInput(
                f"There is no video of job {arguments.job!r}.", hint="`avatar status` lists job ids."
            )
        title, language = arguments.title, arguments.language
        return await name_video(workspace, video, title=title, language=language, labels=names.labels)

    video = with_store(change)
    if arguments.json:
        print(
            json.dumps({"job_id": video.job_id, **video.model_dump(include={"title", "language", "labels"})})
        )
    else:
        labels = ", ".join(f"{key}={value}" for key, value in sorted(video.labels.items()))
        print("  ".join(filter(None, (video.job_id, video.title, video.language, labels))))
    return 0
