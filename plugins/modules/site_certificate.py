#!/usr/bin/python
# Copyright: the Halligan authors
# Apache License 2.0 (see LICENSE)
"""Keep a node's certificate, signed by the site's authority, and the private key that never leaves the node."""

from __future__ import annotations

import grp
import hashlib
import ipaddress
import os
import pwd
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ImportError:
    INSTALLED = False
else:
    INSTALLED = True

DOCUMENTATION = r"""
module: site_certificate
short_description: Keep a node's certificate, signed by the site's authority
description:
  - Makes the node's private key on the node and signs its certificate there. The authority's key is in memory only.
  - The authority's key is derived from a secret of the site, so every node knows the same authority and nobody has to
    keep a key file. An authority of one's own can be given instead.
  - A certificate is made again when its names, its key or its authority are others, and before it expires.
author: The Halligan authors
requirements:
  - cryptography 38 or newer on the target (Debian's C(python3-cryptography))
options:
  path:
    description: Folder for V(NAME.key), V(NAME.crt) (with the chain) and V(ca.crt). It must exist.
    type: path
    required: true
  name:
    description: Name of the files.
    type: str
    required: true
  common_name:
    description: Common name of the certificate; the first of O(names) if not given.
    type: str
    default: ""
  names:
    description: DNS names and IP addresses of the certificate.
    type: list
    elements: str
    required: true
  ca_name:
    description: Common name of the derived authority.
    type: str
    required: true
  ca_secret:
    description: What the authority's key is derived from; with O(ca_certificates), the key itself in PEM.
    type: str
    required: true
  ca_certificates:
    description: The issuing authority's certificate in PEM, followed by those above it.
    type: str
    default: ""
  trusted:
    description: Further authorities in PEM to put into V(ca.crt), such as the former one while the site changes over.
    type: str
    default: ""
  valid_days:
    description: How long a new certificate lasts.
    type: int
    default: 365
  renew_days:
    description: How many days before its end it is made again.
    type: int
    default: 60
  group:
    description: Group that may read the private key.
    type: str
    default: root
attributes:
  check_mode:
    support: full
"""

EXAMPLES = r"""
- name: Keep the certificate
  site_certificate:
    path: /etc/halligan/pki
    name: node
    names: [ctl-1, 10.0.0.11]
    ca_name: site lab
    ca_secret: "{{ pki_ca_secret }}"
"""

RETURN = r"""
fingerprint:
  description: SHA-256 of the certificate, in hexadecimal.
  type: str
  returned: always
ends:
  description: When the certificate ends, in ISO 8601.
  type: str
  returned: always
authority:
  description: The certificates that clients shall trust, in PEM.
  type: str
  returned: always
reasons:
  description: Why something was written, or would be in check mode.
  type: list
  elements: str
  returned: always
"""

SKEW = timedelta(days=1)  # clocks of machines without a battery are wrong
# An authority of the same secret is the same everywhere and every time, so its dates cannot be those of its making.
BEGINS = datetime(2025, 1, 1, tzinfo=UTC)
ENDS = datetime(2055, 1, 1, tzinfo=UTC)
MARKER = "-----BEGIN CERTIFICATE-----"


class UnfitError(ValueError):
    """What the site gave cannot be used; says why."""


@dataclass(frozen=True)
class Authority:
    certificate: Any
    key: Any
    above: tuple[Any, ...] = ()

    @property
    def chain(self) -> str:
        """What a server sends after its own certificate: all but roots, which clients have."""
        sent = [one for one in (self.certificate, *self.above) if one.subject != one.issuer]
        return "".join(pem(one) for one in sent)

    @property
    def anchors(self) -> str:
        """What clients trust: the topmost certificate."""
        return pem((self.certificate, *self.above)[-1])


@dataclass(frozen=True)
class Wanted:
    name: str
    names: tuple[str, ...]
    valid: timedelta
    renew: timedelta


def derived(name: str, secret: str) -> Authority:
    """Return the authority of a secret. Its certificate differs from another node's in the bytes of the signature only.

    The scalar is scrypt's output, 64 bits longer than the order of the curve, so that its distribution is even.
    """
    if len(secret) < 24:
        raise UnfitError("ca_secret has fewer than 24 characters; anyone who guesses it is the site's authority")
    material = hashlib.scrypt(secret.encode(), salt=f"halligan authority {name}".encode(), n=2**14, r=8, p=1, dklen=40)
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256, FIPS 186-4 D.1.2.3
    key = ec.derive_private_key(int.from_bytes(material, "big") % (order - 1) + 1, ec.SECP256R1())
    public = key.public_key()
    subject = common_name(name)
    certificate = (
        x509.CertificateBuilder(subject, subject, public, serial(public), BEGINS, ENDS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate, key)


def given(certificates: str, key: str) -> Authority:
    """Return the site's own authority."""
    try:
        first, *above = parse(certificates)
        private = serialization.load_pem_private_key(key.encode(), None)
    except (ValueError, TypeError) as error:
        raise UnfitError(
            f"ca_certificates and ca_secret must be certificates and a private key in PEM: {error}"
        ) from None
    if public_bytes(private.public_key()) != public_bytes(first.public_key()):
        raise UnfitError("ca_secret is not the key of the first certificate in ca_certificates")
    return Authority(first, private, tuple(above))


def sign(wanted: Wanted, key: Any, authority: Authority, now: datetime) -> Any:
    """Return a certificate for servers and clients; it ends no later than its authority."""
    issuer = authority.certificate
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return (
        x509.CertificateBuilder()
        .subject_name(common_name(wanted.name))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(min(now + wanted.valid, end(issuer)))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectAlternativeName([general_name(one) for one in wanted.names]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(authority.key, hashes.SHA256())
    )


def faults(wanted: Wanted, text: str, key: Any, authority: Authority, now: datetime) -> list[str]:
    """Why a certificate file must be made again; empty when it need not."""
    try:
        certificate = parse(text)[0]
        names = set(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except (ValueError, IndexError, x509.ExtensionNotFound):
        return ["there is no certificate yet" if not text else "the certificate cannot be read"]
    found = []
    if public_bytes(certificate.public_key()) != public_bytes(key.public_key()):
        found.append("the certificate belongs to another key")
    if not signed_by(certificate, authority):
        found.append("the certificate is not the authority's")
    if names != {general_name(one) for one in wanted.names}:
        found.append("the certificate has other names")
    # One that ends with its authority cannot be made to last longer.
    if end(certificate) - now < wanted.renew and end(certificate) < end(authority.certificate):
        found.append(f"the certificate ends on {end(certificate):%Y-%m-%d}")
    return found


def signed_by(certificate: Any, authority: Authority) -> bool:
    issuer = authority.certificate.public_key()
    content = (certificate.signature, certificate.tbs_certificate_bytes)
    try:
        if isinstance(issuer, rsa.RSAPublicKey):
            issuer.verify(*content, padding.PKCS1v15(), certificate.signature_hash_algorithm)
        else:
            issuer.verify(*content, ec.ECDSA(certificate.signature_hash_algorithm))
    except InvalidSignature:
        return False
    return bool(certificate.issuer == authority.certificate.subject)


def general_name(name: str) -> Any:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def common_name(name: str) -> Any:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def usage(*, signs_certificates: bool) -> Any:
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


def serial(public: Any) -> int:
    """A serial number that is the same for the same key: positive and of at most 20 bytes (RFC 5280, 4.1.2.2)."""
    return int.from_bytes(hashlib.sha256(public_bytes(public)).digest()[:19], "big") or 1


def end(certificate: Any) -> datetime:
    """When a certificate ends. cryptography 42 and newer tell it with the zone."""
    aware: datetime | None = getattr(certificate, "not_valid_after_utc", None)
    return aware or certificate.not_valid_after.replace(tzinfo=UTC)


def parse(text: str) -> list[Any]:
    return [x509.load_pem_x509_certificate((MARKER + part).encode()) for part in text.split(MARKER)[1:]]


def pem(certificate: Any) -> str:
    return str(certificate.public_bytes(serialization.Encoding.PEM).decode())


def public_bytes(key: Any) -> bytes:
    return bytes(key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))


def private_pem(key: Any) -> bytes:
    """Not encrypted: it is the file's mode that protects it."""
    return bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def same_anchors(text: str, wanted: str) -> bool:
    """Whether a file names the same authorities. The signatures of a derived one differ from node to node."""
    try:
        return [bare(one) for one in parse(text)] == [bare(one) for one in parse(wanted)]
    except ValueError:
        return False


def bare(certificate: Any) -> bytes:
    return bytes(certificate.tbs_certificate_bytes)


class Folder:
    """The files of one certificate."""

    def __init__(self, path: Path, name: str, group: str, *, check: bool) -> None:
        self.key_file, self.file, self.ca_file = path / f"{name}.key", path / f"{name}.crt", path / "ca.crt"
        self._group = group
        self._check = check

    def key(self) -> tuple[Any, list[str]]:
        """Return the node's private key, and why it is a new one."""
        try:
            key = serialization.load_pem_private_key(self.key_file.read_bytes(), None)
        except (FileNotFoundError, ValueError, TypeError) as error:
            key = ec.generate_private_key(ec.SECP256R1())
            self.write(self.key_file, private_pem(key), 0o640, self._group)
            missing = isinstance(error, FileNotFoundError)
            return key, ["there is no private key yet" if missing else "the private key cannot be read"]
        told = self.key_file.stat()
        if (told.st_mode & 0o7777, told.st_uid, told.st_gid) == (0o640, 0, self._gid()):
            return key, []
        self.write(self.key_file, private_pem(key), 0o640, self._group)
        return key, ["the private key could be read by others"]

    def _gid(self) -> int:
        try:
            return grp.getgrnam(self._group).gr_gid
        except KeyError:
            return -1  # in check mode the group may be yet to come

    def write(self, path: Path, content: bytes, mode: int, group: str = "root") -> None:
        """Write a file whole, and never readable by more than `mode` allows."""
        if self._check:
            return
        partial = path.with_name(f".{path.name}.part")
        partial.unlink(missing_ok=True)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            os.fchown(file.fileno(), pwd.getpwnam("root").pw_uid, grp.getgrnam(group).gr_gid)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)


def keep(
    folder: Folder, wanted: Wanted, authority: Authority, trusted: str, now: datetime
) -> tuple[Any, str, list[str]]:
    """Bring the files up to date; return the certificate, what clients trust, and why something was written."""
    key, reasons = folder.key()
    text = folder.file.read_text() if folder.file.exists() else ""
    certificate = None
    if why := faults(wanted, text, key, authority, now):
        certificate = sign(wanted, key, authority, now)
        reasons += why
    elif "".join(map(pem, parse(text)[1:])) != authority.chain:
        certificate = parse(text)[0]
        reasons.append("the chain above the certificate is another")
    if certificate is not None:
        folder.write(folder.file, (pem(certificate) + authority.chain).encode(), 0o644)
    anchors = authority.anchors + "".join(map(pem, parse(trusted)))
    present = folder.ca_file.read_text() if folder.ca_file.exists() else ""
    if same_anchors(present, anchors):
        anchors = present
    else:
        folder.write(folder.ca_file, anchors.encode(), 0o644)
        reasons.append("the authorities to trust are others")
    return certificate or parse(text)[0], anchors, reasons


def chosen(options: dict[str, Any]) -> Authority:
    if options["ca_certificates"]:
        return given(options["ca_certificates"], options["ca_secret"])
    if options["ca_secret"].lstrip().startswith("-----BEGIN"):
        raise UnfitError("ca_secret is a key in PEM, but ca_certificates is empty")
    return derived(options["ca_name"], options["ca_secret"])


def unique(names: Iterable[str]) -> Sequence[str]:
    return list(dict.fromkeys(name for name in names if name))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "name": {"type": "str", "required": True},
            "common_name": {"type": "str", "default": ""},
            "names": {"type": "list", "elements": "str", "required": True},
            "ca_name": {"type": "str", "required": True},
            "ca_secret": {"type": "str", "required": True, "no_log": True},
            "ca_certificates": {"type": "str", "default": ""},
            "trusted": {"type": "str", "default": ""},
            "valid_days": {"type": "int", "default": 365},
            "renew_days": {"type": "int", "default": 60},
            "group": {"type": "str", "default": "root"},
        },
        supports_check_mode=True,
    )
    if not INSTALLED:
        module.fail_json(msg=missing_required_lib("cryptography"))
    options = module.params
    wanted = Wanted(
        options["common_name"] or options["names"][0],
        tuple(unique(options["names"])),
        timedelta(days=options["valid_days"]),
        timedelta(days=options["renew_days"]),
    )
    folder = Folder(Path(options["path"]), options["name"], options["group"], check=module.check_mode)
    try:
        authority = chosen(options)
        certificate, anchors, reasons = keep(folder, wanted, authority, options["trusted"], datetime.now(UTC))
    except UnfitError as error:
        module.fail_json(msg=str(error))
    except ValueError as error:
        module.fail_json(msg=f"The certificate of {options['name']} cannot be made: {error}")
    module.exit_json(
        changed=bool(reasons),
        reasons=reasons,
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        ends=end(certificate).isoformat(),
        authority=anchors,
    )


if __name__ == "__main__":
    main()
