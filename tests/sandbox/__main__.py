"""`python -m tests.sandbox`."""

import asyncio

from tests.sandbox.app import run
from tests.sandbox.options import parse

if __name__ == "__main__":
    asyncio.run(run(parse()))
