"""Misbehaviours armed by a test, each for its next few matching requests."""

from dataclasses import asdict, dataclass, field
from typing import Any

from aiohttp import web

from tests.sandbox.jobs import Fate

#: What a behaviour may be armed on. A request matches by its operation, its finer name, or its provider's.
OPERATIONS = {
    "submit": "the paid POST",
    "status": "one look: fal GET, Pixazo v1 POST or v2 GET",
    "result_v1": "Pixazo's v1 look only",
    "status_v2": "Pixazo's v2 look only",
    "stream": "fal's server-sent events",
    "result": "fal's result",
    "cancel": "fal's cancel",
    "upload": "any step of an upload",
    "upload_token": "its token",
    "upload_file": "its POST of bytes",
    "upload_initiate": "its presigning",
    "upload_put": "its PUT of bytes",
    "uploaded": "reading what was uploaded",
    "media": "downloading a video",
    "history": "fal's list of the account's requests",
    "pricing": "fal's list of prices",
    "bills": "fal's billing events",
    "jwks": "the keys that fal's webhooks are signed with",
}


@dataclass
class Behaviour:
    """`do` this `on` the next `times` matching requests, after letting `skip` of them pass."""

    on: str
    do: str
    times: int = 1
    skip: int = 0
    provider: str = ""
    request_id: str = ""
    tag: str = ""
    args: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, order: dict[str, Any]) -> "Behaviour":
        """From JSON: whatever is no field of its own is an argument of the misdeed."""
        own = {
            name: value
            for name, value in order.items()
            if name in cls.__dataclass_fields__ and name != "args"
        }
        args = {name: value for name, value in order.items() if name not in own}
        if own.get("on") not in OPERATIONS:
            raise ValueError(f"unknown on={own.get('on')!r}; one of {', '.join(OPERATIONS)}")
        return cls(**own, args=args.pop("args", {}) | args)

    def matches(self, names: frozenset[str], request: web.Request) -> bool:
        wanted = (self.on in names, self.provider in {"", *names})
        tag = request.headers.get("X-Fal-Tags", "")
        return (
            all(wanted)
            and self.request_id in {"", request.match_info.get("request_id")}
            and self.tag in {"", tag}
        )


class Armed:
    """The behaviours waiting for their request, in the order they were armed."""

    def __init__(self) -> None:
        self._waiting: list[Behaviour] = []

    def add(self, behaviour: Behaviour) -> None:
        self._waiting.append(behaviour)

    def take(self, names: frozenset[str], request: web.Request) -> Behaviour | None:
        """The first that matches, used up by one."""
        for behaviour in self._waiting:
            if not behaviour.times or not behaviour.matches(names, request):
                continue
            if behaviour.skip:
                behaviour.skip -= 1
                continue
            behaviour.times -= 1
            return behaviour
        return None

    def remaining(self) -> list[dict[str, Any]]:
        return [asdict(behaviour) for behaviour in self._waiting if behaviour.times]


def fate_of(request: web.Request) -> Fate:
    """What a behaviour on the submit decided about the job, or nothing in particular."""
    fate: Fate = request.get("fate") or Fate()
    return fate


def names_of(route: str) -> frozenset[str]:
    """`fal.upload_token` answers to fal, upload_token and upload; `pixazo.result_v1` also to status."""
    provider, _, rest = route.partition(".")
    fine = rest.split(".", maxsplit=1)[0]
    broader = {"result_v1": "status", "status_v2": "status"}.get(fine, fine)
    if fine.startswith("upload_"):
        broader = "upload"
    return frozenset({provider, fine, broader})
