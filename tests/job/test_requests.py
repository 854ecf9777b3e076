"""What one job of one segment asks of the store, counted as it leaves the process."""

from collections import Counter

import pytest

from avatar import AvatarJob, generate
from benchmarks.requests import counted
from benchmarks.stage import PORTRAIT, VOICE
from tests.sandbox.running import Sandbox

#: By kind, for a job whose inputs are stored and whose store is proved to create conditionally.
MOST = Counter(GET=2, LIST=2, HEAD=2, PUT=17, DELETE=3)


@pytest.mark.parametrize("delivery", ["presign", "upload"])
async def test_a_job_asks_the_store_no_more_than_it_needs(
    make_settings, sandbox: Sandbox, monkeypatch, delivery
):
    """Nothing is fetched again, listed twice, or proved again; also where the inputs are copied to the provider."""
    for name, value in (sandbox.fal_env() | {"AVATAR_FAL__DELIVERY": delivery}).items():
        monkeypatch.setenv(name, value)
    settings = make_settings(provider="fal")
    for prompt in ("one", "two"):
        with counted() as seen:
            await generate(AvatarJob(portrait=str(PORTRAIT), voice=str(VOICE), prompt=prompt), settings)
    found = Counter(each.partition(" ")[0] for each in seen.store)
    assert found <= MOST, "\n".join(seen.store)
    assert sandbox.state()["posts"] == 2
