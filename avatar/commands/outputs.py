"""`avatar captions`: what a published video comes with, changed later. Costs nothing."""

import argparse
import json

from avatar.commands.serve import with_store
from avatar.errors import InvalidInput
from avatar.job.captions import caption_video
from avatar.job.publish import find_video
from avatar.models import Video
from avatar.workspace import Workspace


def run_captions(arguments: argparse.Namespace) -> int:
    """Captions added to a video, or put in place of those in the same language."""

    async def change(workspace: Workspace) -> Video:
        return await caption_video(workspace, await _video_of(workspace, arguments.job), arguments.files)

    video = with_store(change)
    if arguments.json:
        print(json.dumps(video.model_dump(mode="json", include={"job_id", "uri", "captions"})))
        return 0
    print(f"{video.job_id}  {video.uri}")
    for each in video.captions:
        about = ", approximate" if each.approximate else ""
        print(f"  {each.language or '?'}  {each.cues} cues{about}  {each.key}")
    return 0


async def _video_of(workspace: Workspace, job_id: str) -> Video:
    video = await find_video(workspace, job_id)
    if video is None:
        raise InvalidInput(f"There is no video of job {job_id!r}.", hint="`avatar status` lists job ids.")
    return video
