"""Whatever is asked of a store costs the same with twice as many videos in it."""

from benchmarks.growth import count_requests


async def test_requests_do_not_grow_with_what_is_kept(tmp_path):
    """Beyond a week of them."""
    few, many = [await count_requests(tmp_path, kept) for kept in (1_000, 2_000)]
    assert few["expire, nothing old"] < 20
    assert few == many
