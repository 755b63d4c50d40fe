"""Values as JSON and back, for what the store keeps as text.

JSON text is pure ASCII: what a program printed may hold NUL and bytes that are no UTF-8 (Python has them as lone
surrogates), and databases refuse both. A value that is not JSON, a SecretRef above all, is a TypeError and never
reaches the disk.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import fields

from orchestrator.model import Connection, Json, PlanNode

__all__ = [
    "decode",
    "encode",
    "node_from_json",
    "node_to_json",
    "pack",
    "pack_text",
    "unpack",
    "unpack_text",
]

_ENCODER = json.JSONEncoder(separators=(",", ":"))
_NODE = tuple(field.name for field in fields(PlanNode))
_CONNECTION = tuple(field.name for field in fields(Connection))


def encode(value: Json) -> str:
    return _ENCODER.encode(value)


def decode(text: str) -> Json:
    return json.loads(text)


def node_to_json(node: PlanNode) -> dict[str, Json]:
    """Return what `step.finished` carries as `node`."""
    return {
        **{name: getattr(node, name) for name in _NODE},
        "connection": {name: getattr(node.connection, name) for name in _CONNECTION},
        "groups": list(node.groups),
        "addresses": dict(node.addresses),
    }


def node_from_json(data: Mapping[str, Json]) -> PlanNode:
    """Fields that the record was made without get their defaults, those that are no more are left out."""
    known = {name: data[name] for name in _NODE if name in data}
    connection = {name: value for name, value in data["connection"].items() if name in _CONNECTION}
    return PlanNode(**{**known, "connection": Connection(**connection), "groups": tuple(data["groups"])})


def pack(document: bytes) -> bytes:
    """Compress. Level 1 because logs are written while hosts wait; they shrink to about a tenth all the same."""
    return zlib.compress(document, 1)


def unpack(packed: bytes) -> bytes:
    return zlib.decompress(packed)


def pack_text(text: str) -> bytes:
    return pack(text.encode("utf-8", "surrogatepass"))


def unpack_text(packed: bytes) -> str:
    return unpack(packed).decode("utf-8", "surrogatepass")
