"""`continuity=chain`: every segment starts from the last frame of the one before it."""

import asyncio
import hashlib
import tempfile
from pathlib import Path

from tasks.jobs.ingest import hash_file
from tasks.media.poster import last_frame
from tasks.models import Asset, Plan, Portrait, Render, Segment
from tasks.renders.order import order_for
from tasks.workspace import Workspace

#: Names how the frame is taken. It is part of the identity of what is rendered from it.
CHAIN_SPEC = "f1"


async def continue_from(workspace: Workspace, plan: Plan, render: Render) -> Plan:
    """The plan with the last frame of `render` as its portrait.

    The frame is named by the render it was taken from, and taken once: another library version may decode it a
    little differently, which must not make the next render look new.
    """
    key = f"assets/{render.sha256}.{CHAIN_SPEC}.png"
    kept = await workspace.store.exists(key)
    if kept is None or kept.sha256 is None:
        with tempfile.TemporaryDirectory(dir=workspace.scratch) as folder:
            video, frame = Path(folder) / "video.mp4", Path(folder) / "frame.png"
            await workspace.store.download(render.key, video)
            await asyncio.to_thread(last_frame, video, frame)
            digest = await asyncio.to_thread(hash_file, frame)
            kept = await workspace.store.put_file(key, frame, content_type="image/png", sha256=digest)
    asset = Asset(key=key, sha256=kept.sha256 or "", size=kept.size, content_type="image/png")
    identity = hashlib.sha256(f"{render.sha256}:{CHAIN_SPEC}".encode()).hexdigest()
    portrait = Portrait(
        source=plan.portrait.source, asset=asset, sha256=identity, width=render.width, height=render.height
    )
    return plan.model_copy(update={"portrait": portrait})


async def hand_on_claim(
    workspace: Workspace, first: Plan, now: Plan, segment: Segment, claimed_on: str | None
) -> None:
    """The price was claimed under the id the segment has with the first portrait; move it to its real id."""
    if claimed_on is None:
        return
    order = order_for(workspace, now, segment)
    placeholder = order_for(workspace, first, segment)
    await workspace.budget.move(claimed_on, placeholder.render_id, order.render_id, order.quoted)
