"""X.509 for rooms that need it: our own authorities, their servers, and how this controller logs in to Windows hosts.

Everything is signed with SHA-256 and begins a day in the past: clocks of machines without a battery are wrong. What
Python 3.13 and OpenSSL 3 ask of strict chains (RFC 5280: key usage, key identifiers, critical constraints) is there.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

__all__ = ["Pair", "authority", "client_certificate", "general_name", "keep", "pem", "server"]

_SKEW = timedelta(days=1)
_UPN = ObjectIdentifier("1.3.6.1.4.1.311.20.2.3")
_CLIENT_LASTS = timedelta(days=3652)

Key: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class Pair(NamedTuple):
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def authority(name: str, *, at: datetime, lasts: timedelta) -> Pair:
    """Make an authority that signs servers, and no further authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _named(name)
    certificate = (
        _builder(subject, subject, key, at, lasts)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Pair(certificate, key)


def server(name: str, addresses: Iterable[str], issuer: Pair, *, at: datetime, lasts: timedelta) -> Pair:
    """Make the certificate of a server with these IP addresses and DNS names; it ends no later than its issuer."""
    key = ec.generate_private_key(ec.SECP256R1())
    identifier = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    lasts = min(lasts, issuer.certificate.not_valid_after_utc - at)
    certificate = (
        _builder(_named(name), issuer.certificate.subject, key, at, lasts)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([general_name(address) for address in addresses]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(issuer.key, hashes.SHA256())
    )
    return Pair(certificate, key)


def client_certificate(folder: Path, user: str, *, now: float) -> str:
    """Return the certificate in PEM by which we are `user` on Windows hosts; made in `folder` when it is not there yet.

    It stands for a password: Windows maps it to a local account by the user principal name in its subject alternative
    name (Microsoft, "Certificate authentication for WinRM"). Its key stays beside it, 0600; hosts get the certificate.
    """
    file, key_file = folder / f"{user}.pem", folder / f"{user}.key"
    if not (file.exists() and key_file.exists()):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)  # Schannel takes it everywhere
        encoded = f"{user}@localhost".encode()
        principal = x509.OtherName(_UPN, bytes([0x0C, len(encoded)]) + encoded)  # DER: UTF8String
        certificate = (
            _builder(_named(user), _named(user), key, datetime.fromtimestamp(now, UTC), _CLIENT_LASTS)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName([principal]), critical=False)
            .sign(key, hashes.SHA256())
        )
        keep(key_file, pem(key), 0o600)
        keep(file, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    return file.read_text()


def pem(key: Key) -> bytes:
    """Return a private key in PEM, not encrypted: it is a file's mode that protects it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def keep(path: Path, content: bytes, mode: int) -> None:
    """Write a file whole, synced, and never readable by more than `mode` allows."""
    partial = path.with_name(f".{path.name}.part")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def general_name(address: str) -> x509.GeneralName:
    """Return an IP address or DNS name as certificates have it."""
    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        return x509.DNSName(address)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: Key, at: datetime, lasts: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - _SKEW)
        .not_valid_after(at + lasts)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
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
