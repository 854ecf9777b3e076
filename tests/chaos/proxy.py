"""A forward proxy as companies have them, which may lose the answer to the one paid request."""

import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

#: What belongs to one connection (RFC 9110 §7.6.1), and is said anew.
HOP_BY_HOP = {"proxy-connection", "connection", "keep-alive", "transfer-encoding", "content-length"}
SUBMIT = "/fal-ai/kling-video/ai-avatar/v2/pro"


class ForwardProxy:
    """Passes on plain requests. `lost`: "lost" answers the first paid one with a page, "cut" not at all."""

    def __init__(self, *, lost: str = "") -> None:
        self.posts, self.requests = 0, 0
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                """Nothing."""

            def pass_on(self) -> None:
                proxy.requests += 1
                target = urlsplit(self.path)
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                paid = self.command == "POST" and target.path == SUBMIT
                proxy.posts += paid
                status, headers, answer = forward(self.command, target, self.headers.items(), body)
                if paid and lost == "cut":
                    self.close_connection = True
                    return
                if paid and lost:
                    status, headers, answer = (
                        502,
                        [("Content-Type", "text/html")],
                        b"<html>Bad gateway</html>",
                    )
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                length = (
                    dict(headers).get("Content-Length", "0") if self.command == "HEAD" else str(len(answer))
                )
                if "Content-Length" not in dict(headers):
                    self.send_header("Content-Length", length)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = pass_on  # noqa: N815 - names of http.server

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """A client that was killed."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def forward(command: str, target: Any, headers: Any, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
    """One request, and its whole answer."""
    upstream = http.client.HTTPConnection(target.netloc, timeout=60)
    try:
        passed = {name: value for name, value in headers if name.lower() not in HOP_BY_HOP}
        passed |= {"Content-Length": str(len(body))} if body or command in {"PUT", "POST"} else {}
        upstream.request(
            command, target.path + (f"?{target.query}" if target.query else ""), body or None, passed
        )
        answer = upstream.getresponse()
        data = answer.read()
        kept = HOP_BY_HOP - ({"content-length"} if command == "HEAD" else set())
        return answer.status, [(n, v) for n, v in answer.getheaders() if n.lower() not in kept], data
    finally:
        upstream.close()
