"""Webhooks arrive as fal documents them."""

import base64
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

pytest_plugins = ["tests.sandbox.fixtures"]

FAL = "/fal-ai/kling-video/ai-avatar/v2/pro"


class Inbox(http.server.BaseHTTPRequestHandler):
    """Takes webhooks: the first is answered with a 500, so that it is sent again."""

    posted: ClassVar[list[tuple[dict[str, str], bytes]]] = []

    def do_POST(self) -> None:
        self.posted.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(500 if len(self.posted) == 1 else 200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class TestWebhooks:
    @pytest.fixture
    def inbox(self) -> Iterator[str]:
        Inbox.posted.clear()
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Inbox) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            yield f"http://127.0.0.1:{server.server_port}/hook?render=r1"
            server.shutdown()
            thread.join()

    def test_are_repeated_and_signed_as_fal_documents(self, sandbox, fal_wire, body, inbox):
        """Ed25519 over id, user, time and body hash verifies with the key of the JWKS; a 500 brings it again."""
        receipt = fal_wire.post(FAL, json=body, params={"fal_webhook": inbox}).json()
        sandbox.wait_for("webhooks_sent", 2)
        (headers, raw), again = Inbox.posted
        assert again[1] == raw
        told = json.loads(raw)
        assert (told["request_id"], told["status"]) == (receipt["request_id"], "OK")
        assert told["payload"]["video"]["content_type"] == "video/mp4"
        names = ("Request-Id", "User-Id", "Timestamp")
        signed = "\n".join(
            [*(headers[f"X-Fal-Webhook-{name}"] for name in names), hashlib.sha256(raw).hexdigest()]
        )
        (key,) = fal_wire.get("/.well-known/jwks.json").json()["keys"]
        public = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(key["x"] + "="))
        public.verify(bytes.fromhex(headers["X-Fal-Webhook-Signature"]), signed.encode())

    def test_tell_of_a_failure(self, sandbox, fal_wire, body, inbox):
        """A failed request is told as ERROR with the model's own error as payload."""
        sandbox.behave("submit", "fail", kind="content_policy_violation")
        fal_wire.post(FAL, json=body, params={"fal_webhook": inbox})
        sandbox.wait_for("webhooks_sent", 1)
        told = json.loads(Inbox.posted[0][1])
        assert (told["status"], told["error"]) == ("ERROR", "Invalid status code: 422")
        assert told["payload"]["detail"][0]["type"] == "content_policy_violation"

    def test_may_come_twice_or_never(self, sandbox, fal_wire, body, inbox):
        """Deliveries repeat, or fail to happen, as armed; the first of two is tried again after its 500."""
        sandbox.behave("submit", "webhooks", count=0)
        sandbox.behave("submit", "webhooks", count=2)
        receipts = [fal_wire.post(FAL, json=body, params={"fal_webhook": inbox}).json() for _ in range(2)]
        state = sandbox.wait_for("webhooks_sent", 3)
        assert {sent["request_id"] for sent in state["webhooks"]} == {receipts[1]["request_id"]}
