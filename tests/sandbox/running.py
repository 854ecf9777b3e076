"""A sandbox in a process of its own, held by a test."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[2]
KEY = "sandbox-key"
ADMIN_KEY = "sandbox-admin-key"
GREETING = "sandbox listening on "


class Sandbox:
    """The handle of a running sandbox. Every call is synchronous and short."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url
        self.key = KEY
        self.options: dict[str, Any] = {}  #: those of the last reset
        self._client = httpx.Client(base_url=url, timeout=30, trust_env=False)

    @classmethod
    @contextmanager
    def start(cls, **options: Any) -> Iterator["Sandbox"]:
        """Start one with `Options` as keywords (`render_seconds=0.5`); stopped at the end of the block."""
        sandbox = cls.launch(**options)
        try:
            yield sandbox
        finally:
            sandbox.stop()

    @classmethod
    def launch(cls, **options: Any) -> "Sandbox":
        """Start one that the caller stops."""
        command = [sys.executable, "-m", "tests.sandbox", *flags({"key": [KEY], "leash": True} | options)]
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith(GREETING):
            process.kill()
            raise RuntimeError(f"the sandbox did not start; exit {process.wait()}, it said: {line!r}")
        return cls(process, line.removeprefix(GREETING).strip())

    def stop(self) -> None:
        self._client.close()
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def state(self, *, brief: bool = False) -> dict[str, Any]:
        """Everything it saw: `posts`, `accepts`, `accepted`, `counts`, `credentials`, `leaks`, …"""
        return self._answer(self._client.get("/__sandbox__/state", params={"brief": "1"} if brief else None))

    def behave(self, on: str, do: str, *, times: int = 1, **args: Any) -> None:
        """Arm a misbehaviour (names: `GET /__sandbox__/behave`)."""
        self._answer(
            self._client.post("/__sandbox__/behave", json={"on": on, "do": do, "times": times, **args})
        )

    def rotate_webhook_key(self) -> None:
        """Have webhooks signed with a new key; the old one is published no more."""
        self._answer(self._client.post("/__sandbox__/rotate"))

    def reset(self, **options: Any) -> None:
        """Forget everything; `options` replace those of the start until the next reset."""
        self._answer(self._client.post("/__sandbox__/reset", json=options))
        self.options = options

    def wait_for(self, name: str, at_least: int = 1, *, seconds: float = 30.0) -> dict[str, Any]:
        """The state, once a count in it (`posts`, `accepts`, or one of `counts`) has been reached."""
        deadline = time.monotonic() + seconds
        while True:
            state = self.state(brief=True)
            if state.get(name, state["counts"].get(name, 0)) >= at_least:
                return self.state()
            if time.monotonic() > deadline:
                raise TimeoutError(f"{name} stayed below {at_least}: {state}")
            time.sleep(0.05)

    def fal_env(self) -> dict[str, str]:
        """Settings that make the product talk to this sandbox as fal."""
        return {
            "AVATAR_PROVIDER": "fal",
            "AVATAR_FAL__KEY": self.key,
            "AVATAR_FAL__QUEUE_URL": self.url,
            "AVATAR_FAL__REST_URL": self.url,
            "AVATAR_FAL__API_URL": f"{self.url}/v1",
            "AVATAR_BRIDGE__JWKS_URL": f"{self.url}/.well-known/jwks.json",
            "AVATAR_DOWNLOAD__ALLOW_PRIVATE_HOSTS": "true",
        }

    def pixazo_env(self) -> dict[str, str]:
        """Settings that make the product talk to this sandbox as Pixazo."""
        return {
            "AVATAR_PROVIDER": "pixazo",
            "AVATAR_PIXAZO__KEY": self.key,
            "AVATAR_PIXAZO__BASE_URL": self.url,
            "AVATAR_DOWNLOAD__ALLOW_PRIVATE_HOSTS": "true",
        }

    @staticmethod
    def _answer(response: httpx.Response) -> dict[str, Any]:
        if response.is_error:
            raise ValueError(f"the sandbox refused: {response.text}")
        answer: dict[str, Any] = response.json()
        return answer


def flags(options: dict[str, Any]) -> list[str]:
    """Options as command-line flags."""
    found = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            found.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            found += [f"{flag}={one}" for one in (value if isinstance(value, list | tuple) else [value])]
    return found
