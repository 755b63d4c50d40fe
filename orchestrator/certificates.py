"""The certificate by which this controller logs in to Windows hosts, instead of a password: WinRM certificate mapping.

Made once per site and user. Its key never leaves the state folder; hosts get the certificate in their first-start data.
Windows maps it to a local account by the user principal name in its subject alternative name (Microsoft, "Certificate
authentication for WinRM"; OID 1.3.6.1.4.1.311.20.2.3).
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

__all__ = ["client_certificate"]

_UPN = ObjectIdentifier("1.3.6.1.4.1.311.20.2.3")
_YEARS = 10


def client_certificate(folder: Path, user: str, *, now: float) -> str:
    """Return the certificate of `user` in PEM, made and kept in `folder` with its key when it is not there yet."""
    file, key_file = folder / f"{user}.pem", folder / f"{user}.key"
    if file.exists() and key_file.exists():
        return file.read_text()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    certificate = _signed(user, key, datetime.fromtimestamp(now, UTC))
    form = serialization.Encoding.PEM
    private = key.private_bytes(form, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    _write(key_file, private, 0o600)
    _write(file, certificate.public_bytes(form), 0o644)
    return file.read_text()


def _signed(user: str, key: rsa.RSAPrivateKey, at: datetime) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, user)])
    encoded = f"{user}@localhost".encode()
    principal = x509.OtherName(_UPN, bytes([0x0C, len(encoded)]) + encoded)  # DER: UTF8String
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - timedelta(days=1))  # the host's clock may be behind
        .not_valid_after(at + timedelta(days=365 * _YEARS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([principal]), critical=False)
        .sign(key, hashes.SHA256())
    )


def _write(path: Path, content: bytes, mode: int) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    partial.replace(path)
