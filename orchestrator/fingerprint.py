"""Digests that tell whether a placement would come out as last time, and if not, what changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from orchestrator.model import Fingerprint, OutputRef, SecretRef, Value

__all__ = ["canonical", "digest_of", "fingerprint", "is_known", "sha256"]


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def canonical(value: Value) -> str:
    """Return JSON text that is equal exactly when the values are equal; references become tagged objects."""
    return _ENCODER.encode(value)


def _reference(value: object) -> object:
    match value:
        case SecretRef():  # where a secret lives does not matter, only whether it changed
            return {"$secret": value.fingerprint}
        case OutputRef():
            return {"$output": [*value.providers, value.output, value.collect]}
    raise TypeError(f"{type(value).__name__} has no place in a value")


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_reference)


def fingerprint(role_digest: str, platform: str, inputs: Mapping[str, Value]) -> Fingerprint:
    """Return what a run of the role would be made of. Inputs must hold no OutputRef (see `is_known`)."""
    return Fingerprint(
        role=role_digest,
        platform=platform,
        inputs={name: sha256(canonical(inputs[name]))[:16] for name in sorted(inputs)},
    )


def digest_of(print_: Fingerprint) -> str:
    """Return the digest of a fingerprint: 64 hex digits."""
    # Spelled out: `dataclasses.asdict` copies deeply, which a hundred thousand placements would feel.
    return sha256(canonical({"role": print_.role, "platform": print_.platform, "inputs": dict(print_.inputs)}))


def is_known(value: Value) -> bool:
    """Whether a value holds no output of a step that has yet to run."""
    match value:
        case OutputRef():
            return False
        case dict():
            return all(is_known(item) for item in value.values())
        case list() | tuple():
            return all(is_known(item) for item in value)
    return True
