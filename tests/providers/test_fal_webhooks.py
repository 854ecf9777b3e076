"""fal's webhooks: who signed them."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from avatar.errors import ProviderUnavailable
from avatar.providers.fal_webhooks import FETCH_PAUSE, KEEP_KEYS, FalSignatures, delivered_id, read_keys
from tests.providers.signing import BODY, NAMES, SigningFal, publishing

NOW = 1_795_000_000


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def fal():
    one = SigningFal(NOW)
    async with publishing(one):
        yield one


@pytest.fixture
def signatures(fal, clock):
    return FalSignatures(fal.url, wall=lambda: NOW, clock=clock)


async def test_what_fal_signed_is_accepted(signatures, fal):
    """Ed25519 over id, user, time and hash of the body, any key of the document; the keys are fetched once."""
    fal.signing.append(Ed25519PrivateKey.generate())
    for key in fal.signing:
        assert await signatures.accepts(fal.deliver(key=key), BODY)
    assert fal.fetches == 1


@pytest.mark.parametrize("name", NAMES)
async def test_every_part_is_signed(signatures, fal, name):
    """Whatever of it is changed, another request's id above all, the delivery is refused."""
    changed = {"Timestamp": str(NOW + 1), "Signature": Ed25519PrivateKey.generate().sign(b"").hex()}
    assert not await signatures.accepts(fal.deliver(**{name: changed.get(name, "another")}), BODY)
    assert not await signatures.accepts(fal.deliver(), BODY + b" ")


@pytest.mark.parametrize("off", [-300, 300, -301, 301])
async def test_five_minutes_is_the_tolerance(signatures, fal, off):
    """A delivery that was kept back, or is ahead of its time, is refused, however genuine."""
    assert await signatures.accepts(fal.deliver(at=NOW + off), BODY) is (abs(off) <= 300)


@pytest.mark.parametrize(
    "changed",
    [
        *({name: ""} for name in NAMES),
        {"Timestamp": "soon"},
        {"Timestamp": "1e9"},
        {"Timestamp": "-1"},
        {"Timestamp": "٣"},
        {"Timestamp": "9" * 5000},
        {"Signature": "z" * 128},
        {"Signature": "00" * 63},
        {"Signature": "é" * 128},
        {"Request-Id": "x" * 10_000},
    ],
)
async def test_headers_that_fal_never_sends_are_refused_unasked(signatures, fal, changed):
    """Missing, odd or endless ones: refused, and nobody is asked for keys."""
    assert not await signatures.accepts(fal.deliver(**changed), BODY)
    assert not await signatures.accepts({}, BODY)
    assert fal.fetches == 0


async def test_a_new_key_is_noticed(signatures, fal, clock):
    """After a rotation the keys are fetched anew, once the pause is over; the old key is believed no more."""
    old = fal.deliver()
    assert await signatures.accepts(old, BODY)
    fal.signing = [Ed25519PrivateKey.generate()]
    clock.now += FETCH_PAUSE
    assert await signatures.accepts(fal.deliver(), BODY)
    assert not await signatures.accepts(old, BODY)


async def test_a_flood_of_forgeries_fetches_the_keys_once(signatures, fal, clock):
    """No match asks for the keys once a minute at most, and genuine deliveries are accepted all the while."""
    forged = fal.deliver(key=Ed25519PrivateKey.generate())
    assert await signatures.accepts(fal.deliver(), BODY)
    for _ in range(500):
        assert not await signatures.accepts(forged, BODY)
    assert await signatures.accepts(fal.deliver(), BODY)
    assert fal.fetches == 1
    clock.now += FETCH_PAUSE
    assert [await signatures.accepts(forged, BODY) for _ in range(3)] == [False] * 3
    assert fal.fetches == 2


async def test_keys_are_used_for_a_day(signatures, fal, clock):
    """Then they are fetched again; keys of yesterday are not believed when fal does not answer."""
    assert await signatures.accepts(fal.deliver(), BODY)
    fal.status = 503
    clock.now += KEEP_KEYS
    assert await signatures.accepts(fal.deliver(), BODY)
    clock.now += 1
    for _ in range(3):
        with pytest.raises(ProviderUnavailable):
            await signatures.accepts(fal.deliver(), BODY)
    assert fal.fetches == 2
    fal.status, clock.now = 200, clock.now + FETCH_PAUSE
    assert await signatures.accepts(fal.deliver(), BODY)


async def test_without_keys_nothing_is_judged(signatures, fal):
    """An answer without keys is no verdict on the delivery: it may come again."""
    fal.document = {"keys": []}
    with pytest.raises(ProviderUnavailable):
        await signatures.accepts(fal.deliver(), BODY)


@pytest.mark.parametrize(
    "document",
    [None, {}, {"keys": None}, {"keys": "x"}, {"keys": [None, 7, {}, {"x": 7}, {"x": "é"}, {"x": "AAAA"}]},
     {"keys": [{"crv": "P-256", "x": "A" * 43}]}],
)  # fmt: skip
def test_what_is_no_key_is_left_out(document):
    """A document of any shape is read; only Ed25519 keys of 32 bytes count."""
    assert read_keys(document) == ()


def test_padding_does_not_matter():
    """`x` is base64url without padding, by the documentation; with padding it is read as well."""
    for x in ("A" * 43, "A" * 43 + "="):
        assert len(read_keys({"keys": [{"x": x}]})) == 1


@pytest.mark.parametrize(
    ("body", "request_id"),
    [(BODY, "r-1"), (b"", None), (b"[]", None), (b'{"request_id": 7}', 7), (b"\xff{", None)],
)
def test_the_queue_s_id_is_the_one(body, request_id):
    """After a retry of fal's own, the gateway's id is another."""
    assert delivered_id(body) == request_id
