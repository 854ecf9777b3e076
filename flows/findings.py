"""What `avatar doctor` says of one thing it looked at."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `hint` is what to do; empty when all is well."""

    name: str
    status: Status
    detail: str
    hint: str = ""
