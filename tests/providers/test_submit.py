"""The paid POST on real sockets: whatever breaks, it is sent once, and what is said of it is true."""

import asyncio

import pytest

from avatar.errors import NotConfigured, NotSent, OutcomeUnknown, SubmitRefused, Throttled
from avatar.providers.wire import tls
from tests.providers.conftest import KEY, RENDER_ID, make_inputs, open_at
from tests.providers.sockets import Visit, closed_port, serving, silence

ACCEPTED = {"request_id": "r-1", "status": "IN_QUEUE"}
PAID = ["fal", "pixazo"]
WAITS = pytest.mark.parts  # for a real time-out: not among the quick tests


async def drop(visit: Visit) -> None:
    """Read the request and hang up."""


async def reset(visit: Visit) -> None:
    visit.reset()


async def hang_up_in_the_headers(visit: Visit) -> None:
    await visit.say("HTTP/1.1 200 OK\r\nContent-Ty")


async def hang_up_in_the_body(visit: Visit) -> None:
    await visit.say('HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{"request_id": "r-1", ')


async def speak_another_language(visit: Visit) -> None:
    await visit.say("220 mail.example ESMTP\r\n")


async def drip(visit: Visit) -> None:
    """A byte now and then: no single read times out."""
    await visit.say("HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n")
    while True:
        await visit.say(" ")
        await asyncio.sleep(0.05)


async def lie_about_compression(visit: Visit) -> None:
    await visit.answer(200, b"not gzip", Content_Encoding="gzip")


async def flood(visit: Visit) -> None:
    await visit.answer(200, b'{"x":"' + b"x" * 3_000_000 + b'"}')


@pytest.mark.parametrize("name", PAID)
@pytest.mark.parametrize(
    "act",
    [drop, reset, hang_up_in_the_headers, hang_up_in_the_body, speak_another_language, lie_about_compression, flood,
     pytest.param(silence, marks=WAITS), pytest.param(drip, marks=WAITS)],
)  # fmt: skip
async def test_a_lost_answer_is_unknown_after_one_post(name, act):
    """Whatever breaks after the request left: one POST, no second, and the way to settle it."""
    async with serving(act) as server:
        provider = open_at(server.url, name, journal={"lease_seconds": 2})
        with pytest.raises(OutcomeUnknown) as caught:
            await provider.submit(make_inputs())
    assert (len(server.asked("POST")), server.connections) == (1, 1)
    text = str(caught.value)
    assert f"avatar resolve {RENDER_ID} --request-id" in caught.value.hint
    assert "--not-charged" in caught.value.hint
    assert caught.value.render_id == RENDER_ID
    assert KEY not in text
    assert "c0ffee" not in text


@pytest.mark.parametrize("name", PAID)
async def test_a_request_cut_while_it_is_written_is_unknown(name):
    """A reset before the whole request was read is unknown: the part that left may have been enough."""

    async def reset_early(visit: Visit) -> None:
        await visit.reader.read(10)
        visit.reset()

    async with serving(reset_early, read=False) as server:
        with pytest.raises(OutcomeUnknown):
            await open_at(server.url, name).submit(make_inputs(prompt="x" * 2000))
    assert server.connections == 1


@pytest.mark.parametrize("name", PAID)
@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{closed}", "http://no-such-host.invalid", "https://127.0.0.1:{closed}"]
)
async def test_what_cannot_connect_is_not_sent(name, url):
    """Refused connections and unknown names are not sent: nothing was spent, and it may be tried again."""
    with pytest.raises(NotSent, match="Nothing was spent"):
        await open_at(url.format(closed=closed_port()), name).submit(make_inputs())


@pytest.mark.parametrize("name", PAID)
async def test_a_failed_handshake_is_not_sent(name):
    """TLS to a port that speaks plain HTTP never carries the request."""
    async with serving(lambda visit: visit.answer(400), read=False) as server:
        with pytest.raises(NotSent):
            await open_at(server.url.replace("http:", "https:"), name).submit(make_inputs())


@WAITS
@pytest.mark.parametrize("name", PAID)
async def test_a_handshake_that_hangs_is_not_sent(name):
    """A time-out before the request began is not sent."""
    async with serving(silence, read=False) as server:
        provider = open_at(server.url.replace("http:", "https:"), name, journal={"lease_seconds": 2})
        with pytest.raises(NotSent):
            await provider.submit(make_inputs())


@pytest.mark.parametrize(
    ("words", "kind", "hint"),
    [
        ("User is locked. Reason: Exhausted balance. Top up your balance.", "balance", "Add credit"),
        ("User is locked. Reason: Admin lock.", "locked", "why the account is locked"),
        ("Out of call volume quota. Quota will be replenished in 02:11:40.", "quota", "quota is replenished"),
        ("Forbidden", "key_refused", "Check the key"),
    ],
)
async def test_a_refused_account_is_told_by_its_words(words, kind, hint):
    """One status means a wrong key, no credit, a lock or a quota: what to do depends on the words."""
    async with serving(lambda visit: visit.answer(403, {"detail": words})) as server:
        with pytest.raises(SubmitRefused) as caught:
            await open_at(server.url, "fal").submit(make_inputs())
    assert (caught.value.kind, caught.value.status) == (kind, 403)
    assert hint in caught.value.hint


@pytest.mark.parametrize("name", PAID)
async def test_a_turn_that_is_over_once_connected_is_not_sent(name):
    """A machine that slept while connecting asks before the first byte leaves, and does not send it."""
    async with serving(lambda visit: visit.answer(200, ACCEPTED)) as server:
        with pytest.raises(NotSent, match="its turn was over"):
            await open_at(server.url, name).submit(make_inputs(may_send=lambda: False))
    assert (server.connections, server.visits) == (1, [])


@pytest.mark.parametrize("name", PAID)
async def test_a_success_that_names_no_request_is_kept_as_it_came(name):
    """The answer may be the only trace of a paid request: it comes with the error."""
    async with serving(lambda visit: visit.answer(200, '{"code": 200, "data": {"id": "r-9"}}')) as server:
        with pytest.raises(OutcomeUnknown) as caught:
            await open_at(server.url, name).submit(make_inputs())
    assert caught.value.answer == '{"code": 200, "data": {"id": "r-9"}}'


@pytest.mark.parametrize("name", PAID)
async def test_a_proxy_that_refuses_is_not_sent(name, monkeypatch):
    """A proxy's CONNECT is not the request: refused there, nothing was sent to the provider."""
    async with serving(lambda visit: visit.answer(502)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("https_proxy", proxy.url)
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.setenv("no_proxy", "")
        with pytest.raises(NotSent):
            await open_at("https://provider.invalid", name).submit(make_inputs())
    assert [visit.line.split()[0] for visit in proxy.visits] == ["CONNECT"]


@pytest.mark.parametrize("name", PAID)
async def test_a_cancelled_submit_stays_a_cancellation(name):
    """A cancellation in mid-POST reaches the caller, who knows that the request may have left."""
    arrived = asyncio.Event()

    async def hold(visit: Visit) -> None:
        arrived.set()
        await silence(visit)

    async with serving(hold) as server:
        task = asyncio.create_task(open_at(server.url, name).submit(make_inputs()))
        await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert len(server.asked("POST")) == 1


@pytest.mark.parametrize("name", PAID)
async def test_a_redirected_submit_is_not_followed(name):
    """A 307 would repeat the POST elsewhere, with the key: it is not followed."""
    async with (
        serving(lambda visit: visit.answer(200, ACCEPTED)) as elsewhere,
        serving(lambda visit: visit.answer(307, Location=elsewhere.url)) as server,
    ):
        with pytest.raises(OutcomeUnknown):
            await open_at(server.url, name).submit(make_inputs())
    assert elsewhere.connections == 0


@pytest.mark.parametrize("name", PAID)
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "bad_request"),
        (401, "key_refused"),
        (402, "balance"),
        (403, "balance"),
        (422, "invalid_input"),
    ],
)
async def test_a_refusal_gives_the_providers_words(name, status, kind):
    """A refusal names status, kind and the provider's words, without what they quote of ours."""
    words = f"Balance too low for {KEY}, see https://user:pw@x.example/a?token=c0ffee#b now"
    async with serving(
        lambda visit: visit.answer(status, {"detail" if name == "fal" else "error": words})
    ) as server:
        with pytest.raises(SubmitRefused) as caught:
            await open_at(server.url, name).submit(make_inputs())
    assert (caught.value.status, caught.value.kind) == (status, kind)
    assert "Balance too low for [key], see https://x.example/a now" in str(caught.value)
    assert len(server.asked("POST")) == 1


@pytest.mark.parametrize("name", PAID)
async def test_a_throttled_submit_is_one_post(name):
    """429 is reported, with its Retry-After, and not repeated here."""
    async with serving(lambda visit: visit.answer(429, {"error": "later"}, Retry_After="3")) as server:
        with pytest.raises(Throttled) as caught:
            await open_at(server.url, name).submit(make_inputs())
    assert (caught.value.retry_after, len(server.visits)) == (3.0, 1)


@pytest.mark.parametrize("name", PAID)
@pytest.mark.parametrize("key", [None, "", "  ", "two words", "line\nbreak", "clé"])
async def test_an_unusable_key_sends_nothing(name, key):
    """A key that is missing or that no header can carry is refused before any connection."""
    async with serving(drop) as server:
        places = {"fal": "queue_url", "pixazo": "base_url"}
        provider = open_at(server.url, name, **{name: {"key": key, places[name]: server.url}})
        with pytest.raises(NotConfigured):
            await provider.submit(make_inputs())
    assert server.connections == 0


@pytest.mark.parametrize("name", PAID)
async def test_certificates_are_loaded_before_anything_is_noted(name, monkeypatch):
    """Unreadable ones are refused; and no time is lost on them between an intent and its request."""
    async with serving(drop) as server:
        provider = open_at(server.url, name)
        monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
        tls.cache_clear()
        with pytest.raises(NotConfigured, match="certificates"):
            provider.check_configured()
        monkeypatch.delenv("SSL_CERT_FILE")
        provider.check_configured()
    assert (tls.cache_info().currsize, server.connections) == (1, 0)


@pytest.mark.parametrize("name", PAID)
@pytest.mark.parametrize("do", ["drop", "rst", "half", "no_request_id"])
async def test_an_accepted_render_whose_answer_is_lost_was_asked_for_once(
    name, do, sandbox, open_sandboxed, inputs
):
    """The provider accepted, its answer was lost: it saw exactly one request."""
    sandbox.behave("submit", do)
    with pytest.raises(OutcomeUnknown):
        await open_sandboxed(name).submit(inputs)
    state = sandbox.state()
    assert (state["posts"], state["accepts"]) == (1, 1)


@pytest.mark.parametrize("name", PAID)
async def test_a_breakdown_that_names_the_request_is_a_receipt(name, sandbox, open_sandboxed, inputs):
    """A 503 around an accepted render's answer still carries its id, and the render is followed."""
    sandbox.behave("submit", "alter", status_code=503)
    submission = await open_sandboxed(name).submit(inputs)
    assert submission.request_id == sandbox.state()["accepted"][0]["request_id"]
