#!/usr/bin/python
# Copyright: the Halligan authors
# Apache License 2.0 (see LICENSE)
"""Keep a folder of Keystone's Fernet keys, all derived from one secret and the number of a generation."""

from __future__ import annotations

import base64
import grp
import hashlib
import hmac
import os
import pwd
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: keystone_keys
short_description: Keep a folder of Keystone's Fernet keys
description:
  - Derives the keys of three generations from a secret, the one before, the present and the one to come, so that
    all nodes with the same secret have the same keys and nothing has to be copied between them.
  - The present key encrypts. The other two are there because nodes rotate one after the other.
  - Keys that this secret never made are kept for decryption, or dropped.
author: The Halligan authors
options:
  path: {description: The folder., type: path, required: true}
  secret: {description: What the keys are derived from. At least 32 characters., type: str, required: true}
  purpose:
    description: Says what the keys are for. Keys of different purposes have nothing in common.
    type: str
    required: true
  generation:
    description: Number of the present generation. May differ from the last one by one.
    type: int
    required: true
  keep_foreign:
    description: Keep keys that were not derived from the secret. They decrypt only.
    type: bool
    default: true
  owner: {description: Owner of folder and keys., type: str, default: keystone}
  group: {description: Group of folder and keys., type: str, default: keystone}
attributes:
  check_mode:
    support: full
"""

EXAMPLES = r"""
- name: Keep the keys of tokens
  keystone_keys:
    path: /etc/keystone/fernet-keys
    secret: "{{ keystone_key_secret }}"
    purpose: token
    generation: 2
  no_log: true
"""

RETURN = r"""
changes:
  description: What was changed, or would be in check mode.
  type: list
  elements: str
  returned: always
primary:
  description: A digest of the key that encrypts.
  type: str
  returned: always
foreign:
  description: How many keys were not derived from the secret and are kept.
  type: int
  returned: always
"""

# Names of derived keys begin here, so that keys of another origin have room below: Keystone encrypts with the highest.
FIRST = 100
STAGED = 0
LEAST_SECRET = 32
MOST_GENERATIONS = 10_000
LEFT = ".new-key-"


class KeysError(Exception):
    """The keys must not be changed as asked."""


@dataclass(frozen=True)
class Files:
    """What a folder shall hold, in the order of writing."""

    keys: Mapping[int, bytes]
    foreign: int  # how many of the keys were not derived


def derive(secret: str, purpose: str, generation: int) -> bytes:
    """Return a Fernet key by HKDF (RFC 5869) with SHA-256: 32 bytes in URL-safe base64."""
    extracted = hmac.new(b"halligan keystone keys 1", secret.encode(), hashlib.sha256).digest()
    expanded = hmac.new(extracted, f"{purpose} {generation}".encode() + b"\x01", hashlib.sha256).digest()
    return base64.urlsafe_b64encode(expanded)


def wanted(
    found: Mapping[int, bytes], secret: str, purpose: str, generation: int, *, keep_foreign: bool = True
) -> Files:
    """Return what the folder shall hold. Raises KeysError when what was encrypted would become unreadable."""
    if len(secret) < LEAST_SECRET:
        raise KeysError(f"the secret has {len(secret)} characters; it needs {LEAST_SECRET}: `halligan secrets init`")
    if not 1 <= generation < MOST_GENERATIONS:
        raise KeysError(f"generations are counted from 1, not {generation}")
    # Every earlier generation is derived to tell keys of this secret from others, and one that was skipped by name.
    last = max([generation, *(number - FIRST for number in found if number < FIRST + MOST_GENERATIONS)])
    made = {derive(secret, purpose, number): number for number in range(last + 2)}
    primary = found[max(found)] if found else b""
    present = made.get(primary)
    if present is not None and abs(present - generation) > 1:
        raise KeysError(
            f"the keys here are of generation {present}, and {generation} is asked for: what they encrypted could not "
            "be read any more. Change the number by one, apply, and wait for the lifetime of a token in between"
        )
    if present is None and primary and not keep_foreign and purpose == "credential":
        raise KeysError(
            "the stored credentials are encrypted with keys that were not derived from the secret: apply once with "
            "these keys kept, which encrypts the credentials anew, and then drop them"
        )
    foreign = [found[number] for number in sorted(found) if found[number] not in made] if keep_foreign else []
    if len(foreign) >= FIRST:
        raise KeysError(f"there are {len(foreign)} keys of other origin; drop them first")
    derived = {
        FIRST + generation: derive(secret, purpose, generation),
        FIRST + generation - 1: derive(secret, purpose, generation - 1),
    }
    kept = {number: foreign[number - 1] for number in range(len(foreign), 0, -1)}
    # The staged key comes last: it takes the name of a key that may have to find another place first.
    return Files({**derived, **kept, STAGED: derive(secret, purpose, generation + 1)}, len(foreign))


def read(folder: Path) -> dict[int, bytes]:
    """Return the keys of a folder by number; other files are none, as for Keystone."""
    if not folder.is_dir():
        return {}
    found = {int(one.name): one.read_bytes().strip() for one in folder.iterdir() if one.name.isdecimal()}
    return {number: key for number, key in found.items() if key}


def write(path: Path, content: bytes, owner: tuple[int, int]) -> None:
    """Put a key in place at once: Keystone reads the folder at any time, and fails on a file that it cannot open."""
    descriptor, name = tempfile.mkstemp(dir=path.parents[1], prefix=LEFT)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            os.fchmod(stream.fileno(), 0o600)
            os.fchown(stream.fileno(), *owner)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def is_private(path: Path, owner: tuple[int, int], mode: int) -> bool:
    told = path.stat()
    return (told.st_uid, told.st_gid, told.st_mode & 0o7777) == (*owner, mode)


def keep(folder: Path, files: Files, owner: tuple[int, int], *, change: bool) -> list[str]:
    """Bring the folder to what it shall hold; return what was done, without any key."""
    found = read(folder)
    did = []
    if not folder.is_dir() or not is_private(folder, owner, 0o700):
        did.append(f"folder {folder}")
        if change:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.chown(folder, *owner)
            folder.chmod(0o700)
    for number, key in files.keys.items():
        path = folder / str(number)
        if found.get(number) != key or not is_private(path, owner, 0o600):
            did.append(f"key {number}")
            if change:
                write(path, key, owner)
    for number in sorted(set(found) - set(files.keys)):
        did.append(f"key {number} dropped")
        if change:
            (folder / str(number)).unlink()
    if change and folder.is_dir():
        for left in folder.parent.glob(f"{LEFT}*"):  # of a run that was cut short
            left.unlink()
    return did


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "secret": {"type": "str", "required": True, "no_log": True},
            "purpose": {"type": "str", "required": True},
            "generation": {"type": "int", "required": True},
            "keep_foreign": {"type": "bool", "default": True},
            "owner": {"type": "str", "default": "keystone"},
            "group": {"type": "str", "default": "keystone"},
        },
        supports_check_mode=True,
    )
    options = module.params
    folder = Path(options["path"])
    try:
        owner = (pwd.getpwnam(options["owner"]).pw_uid, grp.getgrnam(options["group"]).gr_gid)
        files = wanted(
            read(folder),
            options["secret"],
            options["purpose"],
            options["generation"],
            keep_foreign=options["keep_foreign"],
        )
        did = keep(folder, files, owner, change=not module.check_mode)
    except (KeysError, KeyError, OSError) as error:
        module.fail_json(msg=f"{folder}: {error}")
    primary = hashlib.sha256(files.keys[max(files.keys)]).hexdigest()
    module.exit_json(changed=bool(did), changes=did, primary=primary, foreign=files.foreign)


if __name__ == "__main__":
    main()
