"""Certificates that verify, are made again when they must be, and only then."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.verification import PolicyBuilder, Store

from plugins.modules import site_certificate
from plugins.modules.site_certificate import (
    ENDS,
    Authority,
    Folder,
    UnfitError,
    Wanted,
    derived,
    end,
    faults,
    given,
    keep,
    parse,
    pem,
    private_pem,
    public_bytes,
    sign,
)

NOW = datetime(2026, 6, 1, tzinfo=UTC)
SECRET = "a secret of the site, 40 characters long"
WANTED = Wanted("ctl-1", ("ctl-1", "10.0.0.11"), timedelta(days=365), timedelta(days=60))


@pytest.fixture(scope="module")
def authority() -> Authority:
    return derived("site lab", SECRET)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """A folder whose files belong to whoever runs the test."""
    monkeypatch.setattr(site_certificate.os, "fchown", lambda *_: None)
    return Folder(tmp_path, "ctl-1", "root", check=False)


def verified(server: str, anchors: str, at: datetime = NOW) -> list[x509.Certificate]:
    """What a strict client says (RFC 5280 and the web's rules)."""
    leaf, *above = x509.load_pem_x509_certificates(server.encode())
    store = Store(x509.load_pem_x509_certificates(anchors.encode()))
    return PolicyBuilder().store(store).time(at).build_server_verifier(x509.DNSName("ctl-1")).verify(leaf, above)


def test_every_node_derives_the_same_authority(authority: Authority) -> None:
    other = derived("site lab", SECRET)
    assert public_bytes(other.key.public_key()) == public_bytes(authority.key.public_key())
    assert other.certificate.tbs_certificate_bytes == authority.certificate.tbs_certificate_bytes


def test_another_secret_or_site_is_another_authority(authority: Authority) -> None:
    keys = {public_bytes(derived(*of).key.public_key()) for of in [("site lab", SECRET + "x"), ("site b", SECRET)]}
    assert len({*keys, public_bytes(authority.key.public_key())}) == 3


def test_a_guessable_secret_is_refused() -> None:
    with pytest.raises(UnfitError, match="24 characters"):
        derived("site lab", "password")


def test_a_certificate_signed_on_one_node_verifies_with_the_authority_of_another(authority: Authority) -> None:
    certificate = sign(WANTED, ec.generate_private_key(ec.SECP256R1()), authority, NOW)
    chain = verified(pem(certificate), derived("site lab", SECRET).anchors)
    assert len(chain) == 2


def test_a_certificate_of_another_authority_does_not_verify(authority: Authority) -> None:
    certificate = sign(WANTED, ec.generate_private_key(ec.SECP256R1()), authority, NOW)
    with pytest.raises(x509.verification.VerificationError):
        verified(pem(certificate), derived("site lab", SECRET + "x").anchors)


def test_a_certificate_ends_with_its_authority(authority: Authority) -> None:
    certificate = sign(WANTED, ec.generate_private_key(ec.SECP256R1()), authority, ENDS - timedelta(days=10))
    assert end(certificate) == ENDS


@pytest.mark.parametrize(
    ("wanted", "at", "reason"),
    [
        (WANTED, NOW, []),
        (WANTED, NOW + timedelta(days=304), []),
        (WANTED, NOW + timedelta(days=306), ["the certificate ends on 2027-06-01"]),
        (WANTED, NOW + timedelta(days=400), ["the certificate ends on 2027-06-01"]),
        (replace(WANTED, names=("10.0.0.11", "ctl-1")), NOW, []),  # the order does not matter
        (replace(WANTED, names=("ctl-1",)), NOW, ["the certificate has other names"]),
        (replace(WANTED, names=("ctl-1", "10.0.0.11", "cloud.example")), NOW, ["the certificate has other names"]),
    ],
)
def test_when_a_certificate_is_made_again(
    authority: Authority, wanted: Wanted, at: datetime, reason: list[str]
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    assert faults(wanted, pem(sign(WANTED, key, authority, NOW)), key, authority, at) == reason


def test_a_certificate_of_another_key_or_authority_is_made_again(authority: Authority) -> None:
    key, other = ec.generate_private_key(ec.SECP256R1()), derived("site lab", SECRET + "x")
    text = pem(sign(WANTED, key, authority, NOW))
    stranger = ec.generate_private_key(ec.SECP256R1())
    assert faults(WANTED, text, stranger, authority, NOW) == ["the certificate belongs to another key"]
    assert faults(WANTED, text, key, other, NOW) == ["the certificate is not the authority's"]
    assert faults(WANTED, "", key, authority, NOW) == ["there is no certificate yet"]
    assert faults(WANTED, "rubbish", key, authority, NOW) == ["the certificate cannot be read"]


def test_files_are_written_once(authority: Authority, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    first, anchors, reasons = keep(folder, WANTED, authority, "", NOW)
    assert len(reasons) == 3
    assert folder.key_file.stat().st_mode & 0o777 == 0o640
    verified(folder.file.read_text(), folder.ca_file.read_text())
    monkeypatch.setattr(Folder, "_gid", lambda _: folder.key_file.stat().st_gid)
    key = folder.key_file.read_bytes()
    again, same, nothing = keep(folder, WANTED, derived("site lab", SECRET), "", NOW)
    assert (nothing, same) == ([], anchors)
    assert again == first
    renewed, _, why = keep(folder, WANTED, authority, "", NOW + timedelta(days=330))
    assert (len(why), renewed == first, folder.key_file.read_bytes()) == (1, False, key)


def test_check_mode_writes_nothing(authority: Authority, tmp_path: Path) -> None:
    _, _, reasons = keep(Folder(tmp_path, "ctl-1", "no such group", check=True), WANTED, authority, "", NOW)
    assert (len(reasons), list(tmp_path.iterdir())) == (3, [])


def test_a_former_authority_can_be_trusted_too(authority: Authority, folder: Folder) -> None:
    former = derived("site lab", SECRET + "x")
    _, anchors, _ = keep(folder, WANTED, authority, former.anchors, NOW)
    assert [one.public_key() for one in parse(anchors)] == [
        authority.certificate.public_key(),
        former.certificate.public_key(),
    ]


def an_authority(name: str, key: ec.EllipticCurvePrivateKey, above: str, signer: ec.EllipticCurvePrivateKey) -> str:
    builder = (
        x509.CertificateBuilder()
        .subject_name(site_certificate.common_name(name))
        .issuer_name(site_certificate.common_name(above))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW)
        .not_valid_after(ENDS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(site_certificate.usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    return pem(builder.sign(signer, site_certificate.hashes.SHA256()))


def test_ones_own_authority_and_the_one_above_it() -> None:
    """The server sends the intermediate; clients trust the root."""
    top, middle = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root, intermediate = an_authority("root", top, "root", top), an_authority("middle", middle, "root", top)
    authority = given(intermediate + root, private_pem(middle).decode())
    leaf = sign(WANTED, ec.generate_private_key(ec.SECP256R1()), authority, NOW)
    assert (authority.chain, authority.anchors) == (intermediate, root)
    assert len(verified(pem(leaf) + authority.chain, authority.anchors)) == 3


def test_a_key_that_is_not_the_authoritys_is_refused(authority: Authority) -> None:
    with pytest.raises(UnfitError, match="not the key"):
        given(authority.anchors, private_pem(derived("other", SECRET).key).decode())
    with pytest.raises(UnfitError, match="in PEM"):
        given("nothing", "nothing")
