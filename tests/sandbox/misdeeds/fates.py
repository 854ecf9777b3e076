"""What becomes of a job that is accepted and answered honestly: armed on `submit`.

Any other misdeed on a submit takes the same decisions as `fate={…}`, so that an answer can be lost for a job
that fails, say.
"""

import uuid
from dataclasses import replace
from typing import Any

from aiohttp import web

from tests.sandbox.behaviours import fate_of
from tests.sandbox.call import Call, Misdeed
from tests.sandbox.jobs import Failure
from tests.sandbox.renderer import DEFECTS

ODD_ID = "odd/../id?with#every \"kind' of <character>%2F&ü"


async def decided(call: Call, **decision: Any) -> web.StreamResponse:
    call.request["fate"] = replace(fate_of(call.request), **decision)
    return await call.honest()


async def fail(call: Call) -> web.StreamResponse:
    """The job fails with kind, message; fal: result status=422 and body (flat=true for the flat shape);
    Pixazo: status word=FAILED, the text in field name=error.
    """
    return await decided(call, failure=Failure.parse(call.args))


async def never(call: Call) -> web.StreamResponse:
    """The job never completes."""
    return await decided(call, never=True)


async def odd_id(call: Call) -> web.StreamResponse:
    """The job's id is value, by default one with slashes, quotes and spaces; length=N pads it."""
    name = call.args.get("value", ODD_ID + uuid.uuid4().hex)
    return await decided(call, request_id=name + "x" * (call.args.get("length", 0) - len(name)))


async def pace(call: Call) -> web.StreamResponse:
    """The job takes render_seconds and queue_seconds of its own."""
    names = ("render_seconds", "queue_seconds")
    return await decided(call, **{name: call.args[name] for name in names if name in call.args})


async def defective(call: Call) -> web.StreamResponse:
    """The video has a defect: black, frozen, silent, no_audio, no_video, short, long or late_voice."""
    if call.args["defect"] not in DEFECTS:
        return web.json_response({"sandbox": f"unknown defect; one of {DEFECTS}"}, status=599)
    return await decided(call, defect=call.args["defect"])


async def webhooks(call: Call) -> web.StreamResponse:
    """The job's webhook is delivered count=0 times, delay=0 seconds after the end."""
    return await decided(call, webhooks=call.args.get("count", 0), webhook_delay=call.args.get("delay", 0.0))


DEEDS: dict[str, Misdeed] = {
    "fail": fail,
    "never": never,
    "odd_id": odd_id,
    "pace": pace,
    "defective": defective,
    "webhooks": webhooks,
}
