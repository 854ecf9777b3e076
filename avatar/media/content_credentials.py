"""C2PA content credentials: who made a file, with which model, from which inputs, signed with the user's certificate.

The signed file is ours, written a moment ago, and the key is needed: so this is done in our own process, not in the
one that decodes what others made.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from avatar.media.disclosure import AI_MADE
from avatar.settings_sections import C2paSettings

INPUTS = "org.avatar-flows.inputs"
#: What the library's reader says of a file that it accepts: signed and unchanged, or by somebody on its list, too.
GOOD = ("Valid", "Trusted")


@dataclass(frozen=True)
class Origin:
    """What the credentials tell: the job, its title, the model, and the SHA-256 of each input by what it is."""

    job_id: str
    title: str
    model: str
    inputs: dict[str, str]


def sign(source: Path, target: Path, origin: Origin, settings: C2paSettings) -> str:
    """Write `source` to `target` with its credentials, and read them back.

    Returns:
        Who signed, as the reader tells it.

    Raises:
        ValueError: no certificate or key, the library is not installed, it refused, or its reader does.
    """
    try:
        from c2pa import Builder, C2paError, C2paSignerInfo, Reader, Signer
    except ImportError as error:
        raise ValueError("the library is not installed: pip install 'avatar-flows[c2pa]'") from error
    if settings.certificate is None or settings.key is None:
        raise ValueError("AVATAR_C2PA__CERTIFICATE and AVATAR_C2PA__KEY go together")
    try:
        info = C2paSignerInfo(
            alg=settings.algorithm.encode(),
            sign_cert=settings.certificate.read_bytes(),
            private_key=settings.key.read_bytes(),
            ta_url=str(settings.timestamp_url).encode() if settings.timestamp_url else None,
        )
        with (
            Signer.from_info(info) as signer,
            Builder(json.dumps(_manifest(origin))) as builder,
            source.open("rb") as plain,
            target.open("w+b") as signed,
        ):
            builder.sign(signer, "video/mp4", plain, signed)
        with target.open("rb") as written, Reader("video/mp4", written) as reader:
            return _signer(json.loads(reader.json()))
    except (C2paError, OSError, KeyError) as error:
        raise ValueError(" ".join(str(error).split())[:300] or type(error).__name__) from error


def _manifest(origin: Origin) -> dict[str, object]:
    made = {
        "action": "c2pa.created",
        "digitalSourceType": AI_MADE,
        "softwareAgent": {"name": origin.model},
    }
    return {
        "claim_generator_info": [{"name": "avatar-flows"}],
        "title": origin.title or origin.job_id,
        "format": "video/mp4",
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [made]}},
            {"label": INPUTS, "data": {"job": origin.job_id, "sha256": origin.inputs}},
        ],
    }


def _signer(told: dict[str, object]) -> str:
    state = told.get("validation_state")
    if state not in GOOD:
        raise ValueError(
            f"its own reader calls it {state}: {json.dumps(told.get('validation_status'))[:200]}"
        )
    manifests = told["manifests"]
    signature = manifests[told["active_manifest"]]["signature_info"]  # type: ignore[index]
    return f"{signature.get('common_name') or signature.get('issuer')} ({str(state).lower()})"
