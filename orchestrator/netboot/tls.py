"""The site's own authority, which the discovery image trusts and nothing else, and the boot service's certificate."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from orchestrator.errors import HalliganError

__all__ = ["Certificates", "ensure"]

_CA_LASTS = timedelta(days=3652)
_SERVER_LASTS = timedelta(days=397)
_RENEW = timedelta(days=30)
_SKEW = timedelta(days=1)  # clocks of machines without a battery are wrong; the agent corrects larger errors itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """Files in PEM: the authority's certificate, the server's certificate, and the server's key (0600)."""

    ca: Path
    cert: Path
    key: Path


def ensure(state_dir: Path, addresses: Sequence[str], *, now: float | None = None) -> Certificates:
    """Return the site's certificates, made in `state_dir/ca` where they are missing.

    `addresses` are IP addresses and DNS names of the server. Its certificate is made anew when it is for others, ends
    within 30 days, or is of another authority. The authority lasts ten years and is made once: every discovery image
    of the site believes it. `now` is UTC seconds, by default the clock's.

    Raises:
        HalliganError: a file is damaged or cannot be written; the authority has ended.
    """
    at = datetime.now(UTC) if now is None else datetime.fromtimestamp(now, UTC)
    folder = state_dir / "ca"
    found = Certificates(ca=folder / "ca.pem", cert=folder / "server.pem", key=folder / "server.key")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        authority, authority_key = _authority(folder, at)
        if not _good(found, authority, addresses, at):
            _issue(found, authority, authority_key, addresses, at)
    except OSError as error:
        raise HalliganError(f"cannot keep the site's certificates in {folder}: {error.strerror}") from error
    return found


def _authority(folder: Path, at: datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    cert_path, key_path = folder / "ca.pem", folder / "ca.key"
    if not cert_path.exists():  # the key is written first, so a key alone is a start that was cut off
        _make_authority(cert_path, key_path, at)
    try:
        certificate = x509.load_pem_x509_certificate(cert_path.read_bytes())
        key = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
    except (ValueError, FileNotFoundError) as error:
        raise HalliganError(
            f"the site's authority in {folder} is damaged: {error}",
            hint="Restore ca.pem and ca.key; or remove the folder and start again: machines that run the discovery "
            "image now must then be restarted.",
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise HalliganError(f"ca.key and ca.pem in {folder} do not belong together", hint="Restore both from a backup.")
    if certificate.not_valid_after_utc <= at:
        raise HalliganError(
            f"the site's authority {cert_path} ended on {certificate.not_valid_after_utc:%Y-%m-%d}",
            hint=f"Remove {folder} and start again; machines get the new one at their next network boot.",
        )
    return certificate, key


def _make_authority(cert_path: Path, key_path: Path, at: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Halligan site authority")])
    certificate = (
        _builder(name, name, key.public_key(), at, _CA_LASTS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(key_path, _pem(key), 0o600)
    _write(cert_path, certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _issue(
    to: Certificates,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    addresses: Sequence[str],
    at: datetime,
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Halligan boot service")])
    issuer = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    lasts = min(_SERVER_LASTS, authority.not_valid_after_utc - at)
    certificate = (
        _builder(name, authority.subject, key.public_key(), at, lasts)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_name(address) for address in addresses]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    _write(to.key, _pem(key), 0o600)
    _write(to.cert, certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, at: datetime, lasts: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - _SKEW)
        .not_valid_after(at + lasts)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        return x509.DNSName(address)


def _good(found: Certificates, authority: x509.Certificate, addresses: Sequence[str], at: datetime) -> bool:
    """Whether the server's certificate can be used; one that cannot be read is made anew like one that is missing."""
    try:
        certificate = x509.load_pem_x509_certificate(found.cert.read_bytes())
        key = serialization.load_pem_private_key(found.key.read_bytes(), password=None)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        certificate.verify_directly_issued_by(authority)
    except Exception:  # cryptography raises what it likes for damaged files
        return False
    same = set(names) == {_name(address) for address in addresses}
    ours = key.public_key() == certificate.public_key()
    return same and ours and certificate.not_valid_before_utc <= at < certificate.not_valid_after_utc - _RENEW


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes, mode: int) -> None:
    partial = path.with_name(f".{path.name}.part")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
