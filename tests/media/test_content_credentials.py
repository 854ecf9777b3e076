"""Content credentials are read by the C2PA library's own reader, and break when the file is changed."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from avatar.job.publish import publish_video
from avatar.settings_sections import C2paSettings
from tests.job.test_publish import rendered
from tests.money.conftest import footage, inputs, make_workspace, plan  # noqa: F401 - fixtures
from tests.money.scripted import Scripted

c2pa = pytest.importorskip("c2pa")
USES = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
    "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip


def certificate(subject, issuer, key, signed_by, *, authority):
    def named(name):
        return x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Test"),
                x509.NameAttribute(NameOID.COMMON_NAME, name),
            ]
        )

    now, used = datetime.now(UTC), {"key_cert_sign"} if authority else {"digital_signature"}
    made = (
        x509.CertificateBuilder()
        .subject_name(named(subject))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signed_by.public_key()), critical=False
        )
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
        .add_extension(x509.KeyUsage(**{use: use in used for use in USES}), critical=True)
    )
    if not authority:
        purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        made = made.add_extension(purposes, critical=False)
    return made.sign(signed_by, hashes.SHA256()).public_bytes(Encoding.PEM)


@pytest.fixture
def c2pa_settings(tmp_path):
    authority, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    chain = certificate("Anna", "CA", key, authority, authority=False)
    (tmp_path / "chain.pem").write_bytes(
        chain + certificate("CA", "CA", authority, authority, authority=True)
    )
    (tmp_path / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return C2paSettings(certificate=tmp_path / "chain.pem", key=tmp_path / "key.pem")


def read(path):
    with path.open("rb") as file, c2pa.Reader("video/mp4", file) as reader:
        return json.loads(reader.json())


async def test_what_is_published_is_signed(make_workspace, plan, footage, c2pa_settings, tmp_path):  # noqa: F811
    """By the certificate's holder, with the model and the inputs' hashes; a changed byte is seen."""
    workspace = make_workspace(Scripted("req-1", video=footage), c2pa=c2pa_settings)
    ready = plan.model_copy(update={"formats": ("1:1",)})
    video = await publish_video(workspace, ready, [await rendered(workspace, ready)])
    assert (video.credentials, video.forms[0].credentials) == ("Anna (valid)", "Anna (valid)")
    for key in (video.key, video.forms[0].key):
        await workspace.store.download(key, tmp_path / "signed.mp4")
        told = read(tmp_path / "signed.mp4")
        assertions = {
            each["label"]: each["data"] for each in told["manifests"][told["active_manifest"]]["assertions"]
        }
        action = assertions["c2pa.actions.v2"]["actions"][0]
        assert action["digitalSourceType"].endswith("/trainedAlgorithmicMedia")
        assert action["softwareAgent"]["name"] == plan.model
        assert assertions["org.avatar-flows.inputs"]["sha256"]["portrait"] == plan.portrait.source.sha256
    data = bytearray((tmp_path / "signed.mp4").read_bytes())
    data[len(data) // 2] ^= 255
    (tmp_path / "changed.mp4").write_bytes(data)
    assert read(tmp_path / "changed.mp4")["validation_state"] == "Invalid"


async def test_what_cannot_be_signed_says_so(make_workspace, plan, footage, c2pa_settings):  # noqa: F811
    """It is paid for, and published. The key is not the certificate's."""
    other = ec.generate_private_key(ec.SECP384R1())
    c2pa_settings.key.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    workspace = make_workspace(Scripted("req-1", video=footage), c2pa=c2pa_settings)
    video = await publish_video(workspace, plan, [await rendered(workspace, plan)])
    assert video.state == "published"
    assert video.credentials.startswith("not signed: ")
