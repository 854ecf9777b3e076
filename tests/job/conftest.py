import asyncio
from collections.abc import Callable

import pytest

from tests.money.clock import QuickLoop


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """What goes by the store in memory waits for nothing, like the rules of money."""
    in_memory = item.path.stem == "test_reconcile"
    return {"quick": QuickLoop} if in_memory else {"asyncio": asyncio.new_event_loop}
