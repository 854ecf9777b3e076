"""`avatar captions`, `avatar formats`: what a published video comes with, made or changed later. Costs nothing."""

import argparse
import json

from avatar.commands.serve import with_store
from avatar.commands.status import whole_id
from avatar.errors import InvalidInput
from avatar.job.captions import caption_video
from avatar.job.formats import add_forms
from avatar.job.publish import find_video, require_published
from avatar.models import AvatarJob, Video
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


def run_formats(arguments: argparse.Namespace) -> int:
    """Forms made of a published video."""
    asked = AvatarJob.model_validate({"portrait": "-", "voice": "-", "formats": arguments.forms})

    async def make(workspace: Workspace) -> Video:
        return await add_forms(
            workspace, require_published(await _video_of(workspace, arguments.job)), asked.formats
        )

    video = with_store(make)
    if arguments.json:
        print(json.dumps(video.model_dump(mode="json", include={"job_id", "uri", "forms"})))
        return 0
    for form in video.forms:
        sound = f"{form.loudness:.1f} LUFS (before {form.loudness_before:.1f}), {form.peak:.1f} dBTP"
        print(f"{form.name:>12}  {form.width}×{form.height}  {sound}, SSIM {form.quality:.3f}  {form.uri}")
        for check in form.checks:
            if not check.passed:
                print(f"{'':>12}  {check.name} is {check.value}, should be {check.bound}")
    return 0


async def _video_of(workspace: Workspace, job_id: str) -> Video:
    video = await find_video(workspace, await whole_id(workspace, job_id))
    if video is None:
        raise InvalidInput(f"There is no video of job {job_id!r}.", hint="`avatar status` lists job ids.")
    return video
