"""The site's own authority, which the discovery image trusts and nothing else, and the boot service's certificate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from orchestrator import certificates
from orchestrator.errors import HalliganError

__all__ = ["Certificates", "ensure"]

_CA_LASTS = timedelta(days=3652)
_SERVER_LASTS = timedelta(days=397)
_RENEW = timedelta(days=30)


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
        authority = _authority(folder, at)
        if not _good(found, authority.certificate, addresses, at):
            _issue(found, authority, addresses, at)
    except OSError as error:
        raise HalliganError(f"cannot keep the site's certificates in {folder}: {error.strerror}") from error
    return found


def _authority(folder: Path, at: datetime) -> certificates.Pair:
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
    return certificates.Pair(certificate, key)


def _make_authority(cert_path: Path, key_path: Path, at: datetime) -> None:
    made = certificates.authority("Halligan site authority", at=at, lasts=_CA_LASTS)
    certificates.keep(key_path, certificates.pem(made.key), 0o600)
    certificates.keep(cert_path, made.certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _issue(to: Certificates, authority: certificates.Pair, addresses: Sequence[str], at: datetime) -> None:
    made = certificates.server("Halligan boot service", addresses, authority, at=at, lasts=_SERVER_LASTS)
    certificates.keep(to.key, certificates.pem(made.key), 0o600)
    certificates.keep(to.cert, made.certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _good(found: Certificates, authority: x509.Certificate, addresses: Sequence[str], at: datetime) -> bool:
    """Whether the server's certificate can be used; one that cannot be read is made anew like one that is missing."""
    try:
        certificate = x509.load_pem_x509_certificate(found.cert.read_bytes())
        key = serialization.load_pem_private_key(found.key.read_bytes(), password=None)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        certificate.verify_directly_issued_by(authority)
    except Exception:  # cryptography raises what it likes for damaged files
        return False
    same = set(names) == {certificates.general_name(address) for address in addresses}
    ours = key.public_key() == certificate.public_key()
    return same and ours and certificate.not_valid_before_utc <= at < certificate.not_valid_after_utc - _RENEW
