"""Batches against a real store and a provider's stand-in: what is paid, and what is told of each row."""

from collections import Counter

import pytest

from tasks.batches.models import RowState


async def test_every_row_is_published_and_paid_once(works, manifest, rows, sandbox):
    """Twenty-four rows, ten at a time: one accept each; run again, nothing is sent and nothing is billed."""
    batch = manifest(rows(24))
    first = await works.run(batch)
    assert first.states == {RowState.PUBLISHED: 24}, first.troubles
    again = await works.run(batch, run="run-2")
    assert again.states == {RowState.ALREADY: 24}
    assert (again.billed, again.batch_id) == (0, first.batch_id)
    seen = sandbox.state()
    assert (seen["posts"], seen["accepts"], seen["leaks"]) == (24, 24, [])
    assert Counter(job["request_id"] for job in seen["accepted"]).most_common(1)[0][1] == 1
