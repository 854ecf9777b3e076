"""What runs beside the renders ends when it is told to, also in the moment in which the server has answered."""

import asyncio
import logging
from types import SimpleNamespace
from uuid import UUID, uuid4

import pytest
from prefect.logging import disable_run_logger

from avatar.batch.run import RowRunner
from avatar.stored_models import ProviderName
from avatar.workspace import Workspace
from tasks import batch as batching
from tasks.turns import AccountLimit, CountedTurns, HeldSlot, TurnServer

LIMIT = AccountLimit("avatar-fal", 2)


def answering(answered: asyncio.Event, answer: object):
    """A request that is answered in the moment in which others hear that it was."""

    async def ask(*_: object, **__: object) -> object:
        await asyncio.sleep(0)
        answered.set()
        return answer

    return ask


async def test_a_batch_ends_while_the_server_takes_its_progress(make_settings, monkeypatch):
    """The answer and the end of the work at once: the block is left, where it waited for ever on Python 3.11."""
    answered = asyncio.Event()
    monkeypatch.setattr(batching, "acreate_progress_artifact", answering(answered, uuid4()))
    monkeypatch.setattr(batching, "aupdate_progress_artifact", answering(answered, None))
    runner = RowRunner(Workspace(make_settings()), batch_id="0" * 32, run="run", at_once=1, rows=1)
    with disable_run_logger():
        async with asyncio.timeout(20), batching.shown_progress(runner, ""):
            await answered.wait()
    assert answered.is_set()


async def test_a_question_to_the_server_that_is_cancelled_is_over():
    """Also in the moment of its answer: what comes after it is not done."""
    answered = asyncio.Event()
    answer = SimpleNamespace(json=lambda: {"lease_id": str(UUID(int=1)), "limits": [{}]})
    client = SimpleNamespace(increment_concurrency_slots_with_lease=answering(answered, answer))
    server = TurnServer(client, logging.getLogger("test"), None)
    asked = asyncio.create_task(server.lease(LIMIT))
    await answered.wait()
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    server.close()


class Broken:
    """A server with a defect in its answers, then without."""

    def __init__(self) -> None:
        self.asked = 0

    async def lease(self, limit: AccountLimit) -> HeldSlot:
        self.asked += 1
        await asyncio.sleep(0)
        if self.asked <= 2:
            raise KeyError("lease_id")
        return HeldSlot(uuid4(), 0.0)

    async def leave(self, limit: AccountLimit, requests: int) -> bool:
        return True

    async def release(self, lease: HeldSlot) -> None:
        pass

    def close(self) -> None:
        pass


async def test_a_defect_in_the_line_for_turns_reaches_those_who_wait(make_settings):
    """Nobody waits for ever for a turn that nobody asks for; the next one to come is served."""
    turns = CountedTurns(Broken(), make_settings())

    async def hold() -> str:
        async with turns.hold(ProviderName.FAL, under_way=False):
            return "its turn"

    async with asyncio.timeout(20):
        ended = await asyncio.gather(hold(), hold(), return_exceptions=True)
    assert [type(each) for each in ended] == [KeyError, KeyError]
    assert await hold() == "its turn"
    await turns.aclose()
