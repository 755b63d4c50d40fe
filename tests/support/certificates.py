"""Certificate authorities and server certificates for tests, made in memory, valid for a day."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["Authority", "authority"]


@dataclass(frozen=True, slots=True)
class Authority:
    """An authority whose certificate is in the file `path`."""

    path: Path
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def server(self, address: str = "127.0.0.1") -> ssl.SSLContext:
        """Return a server's TLS context with a fresh certificate for an IP address."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        signed = _builder("server", key).issuer_name(self.certificate.subject).add_extension(names, critical=False)
        signed = signed.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
        )
        chain = self.path.with_name(f"server-{address}.pem")
        chain.write_bytes(_pem(key) + signed.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain)
        return context


def authority(folder: Path, name: str = "ca") -> Authority:
    """Make an authority; its certificate is written to `folder/name/ca.pem`."""
    key = ec.generate_private_key(ec.SECP256R1())
    built = _builder(name, key).issuer_name(_name(name))
    built = built.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    built = built.add_extension(usage, critical=True)
    built = built.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    certificate = built.sign(key, hashes.SHA256())
    path = folder / name / "ca.pem"
    path.parent.mkdir(parents=True)
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return Authority(path=path, certificate=certificate, key=key)


def _builder(name: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
    )


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
