"""Who may enrol, and who may speak for a machine: one-time tokens and credentials.

An enrolment token is an HMAC of the site over what a boot said of itself (its MAC and UUID), a nonce and an end; it is
nowhere on record, only that it was used is. A credential is 256 random bits; the store has its SHA-256.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import HalliganError

__all__ = ["LASTS_S", "Claim", "Tokens", "credential_hash", "new_credential", "shows"]

LASTS_S = 15 * 60
"""How long a token is good: from the boot script to the agent's start, with a slow network in between."""

_MOST = 1024  # characters; ours have about 250
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a good token says: which boot it was made for, and until when (UTC seconds) it could be used."""

    nonce: str
    mac: str
    uuid: str
    ends: int


class Tokens:
    """Makes and checks a site's tokens. Remembers those that were used, also over a restart; safe in one event loop.

    `take` uses a token up at once, `keep` writes that down (with one fsync for many), `give_back` undoes `take`.
    """

    def __init__(self, state_dir: Path, *, now: float) -> None:
        self._key = _site_key(state_dir / "enrol.key")
        self._path = state_dir / "used-tokens"
        self._used = _read_used(self._path, now)
        self._pruned = now
        _rewrite(self._path, self._used)

    def issue(self, *, mac: str, uuid: str, now: float) -> str:
        """Return a new token for the boot of a machine."""
        said = {"n": secrets.token_hex(16), "m": mac, "u": uuid, "e": int(now) + LASTS_S}
        body = json.dumps(said, separators=(",", ":")).encode()
        return f"{_text(body)}.{_text(self._sign(body))}"

    def check(self, token: str, now: float) -> Claim | str:
        """Return what a token claims, or in words why it is not good."""
        body, signature = _parts(token)
        if not body or not hmac.compare_digest(self._sign(body), signature):
            return "the enrolment token is not one of this site"
        said = json.loads(body)
        claim = Claim(nonce=said["n"], mac=said["m"], uuid=said["u"], ends=said["e"])
        if now >= claim.ends:
            return "the enrolment token has expired"
        if claim.nonce in self._used:
            return "the enrolment token was used before"
        return claim

    def take(self, claim: Claim, now: float) -> bool:
        """Use a token up; False if somebody else did."""
        if claim.nonce in self._used:
            return False
        if now > self._pruned + LASTS_S:
            self._used = {nonce: ends for nonce, ends in self._used.items() if ends > now}
            self._pruned = now
        self._used[claim.nonce] = claim.ends
        return True

    def give_back(self, claim: Claim) -> None:
        """Make a token good again: what it was used for did not come about, and that is no fault of its machine."""
        self._used.pop(claim.nonce, None)

    def keep(self, claims: Iterable[Claim]) -> None:
        """Write down that tokens were used. Returns when that would survive a loss of power."""
        lines = "".join(f"{claim.nonce} {claim.ends}\n" for claim in claims)
        if lines:
            with os.fdopen(os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "w") as file:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())

    def _sign(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, "sha256")


def _parts(token: str) -> tuple[bytes, bytes]:
    """Return body and signature as bytes; empty ones if it is no token, or another spelling of one."""
    body, _, signature = token.partition(".")
    if len(token) > _MOST:
        return b"", b""
    try:
        found = _bytes(body), _bytes(signature)
    except (ValueError, binascii.Error):
        return b"", b""
    return found if f"{_text(found[0])}.{_text(found[1])}" == token else (b"", b"")


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))


def _site_key(path: Path) -> bytes:
    try:
        if not path.exists():
            partial = path.with_name(f".{path.name}.{os.getpid()}")
            with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(secrets.token_bytes(_KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        key = path.read_bytes()
    except OSError as error:
        raise HalliganError(f"cannot use the site's enrolment key {path}: {error.strerror}") from error
    if len(key) != _KEY_BYTES:
        raise HalliganError(
            f"the site's enrolment key {path} is damaged", hint="Remove it; a new one is made at the next start."
        )
    return key


def _read_used(path: Path, now: float) -> dict[str, int]:
    """Return nonce -> end of the used tokens that have not expired. A line that was cut off counts for none."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise HalliganError(f"cannot read which tokens were used, {path}: {error.strerror}") from error
    pairs = [line.split() for line in lines]
    found = {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}
    return {nonce: ends for nonce, ends in found.items() if ends > now}


def _rewrite(path: Path, used: dict[str, int]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.writelines(f"{nonce} {ends}\n" for nonce, ends in used.items())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise HalliganError(f"cannot write down which tokens were used, {path}: {error.strerror}") from error


# --- credentials --------------------------------------------------------------------------------------------------


def new_credential(machine: str) -> str:
    """Return what a machine shows from now on. It begins with the machine's id, so that we know whom to look up."""
    return f"{machine}.{secrets.token_urlsafe(32)}"


def credential_hash(credential: str) -> str:
    """Return what the store keeps of a credential. No salt: nobody can guess 256 random bits."""
    return hashlib.sha256(credential.encode()).hexdigest()


def shows(credential: str, known_hash: str) -> bool:
    """Whether a credential is the one whose hash is known; takes the same time whatever is wrong."""
    return hmac.compare_digest(credential_hash(credential).encode(), known_hash.encode()) and bool(known_hash)
