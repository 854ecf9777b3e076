"""The gallery over a store of its own, asked without a network."""

from contextlib import AsyncExitStack

import httpx
import pytest

from avatar.web.gallery import build_app
from avatar.workspace import Workspace

BASE = "http://127.0.0.1:4299"


@pytest.fixture
async def open_gallery(make_settings):
    """Opens galleries with their lifespan; keywords override settings."""
    async with AsyncExitStack() as stack:

        async def open_one(**overrides):
            workspace = Workspace(make_settings(**overrides))
            stack.push_async_callback(workspace.aclose)
            app = build_app(workspace)
            await stack.enter_async_context(app.router.lifespan_context(app))
            transport = httpx.ASGITransport(app)
            return await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url=BASE))

        yield open_one


@pytest.fixture
async def gallery(open_gallery):
    return await open_gallery()
