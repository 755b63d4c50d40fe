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
from typing import Any

from orchestrator.model import Connection, Identity, Json, MachineState, Order, Phase, PlanNode

__all__ = [
    "decode",
    "encode",
    "machine_fields_from_json",
    "machine_fields_to_json",
    "machine_from_json",
    "machine_to_json",
    "node_from_json",
    "node_to_json",
    "pack",
    "pack_text",
    "unpack",
    "unpack_text",
]

_ENCODER = json.JSONEncoder(separators=(",", ":"))
_NODE = tuple(field.name for field in fields(PlanNode))
_MACHINE = tuple(field.name for field in fields(MachineState))
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


def machine_fields_to_json(changes: Mapping[str, Any]) -> dict[str, Json]:
    """Return some fields of a MachineState as JSON; one that it does not have is a ValueError."""
    if unknown := set(changes) - set(_MACHINE):
        raise ValueError(f"a machine has no {', '.join(sorted(unknown))}")
    return {name: _machine_value(value) for name, value in changes.items()}


def _machine_value(value: Any) -> Json:
    match value:
        case Identity():
            return {"uuid": value.uuid, "serials": list(value.serials), "macs": list(value.macs)}
        case Order():
            return {"id": value.id, "task": value.task, "args": dict(value.args)}
        case tuple():
            return list(value)
    return value


def machine_fields_from_json(data: Mapping[str, Json]) -> dict[str, Any]:
    """Return fields of a MachineState; those that are no more are left out."""
    return {name: _machine_field(name, value) for name, value in data.items() if name in _MACHINE}


def _machine_field(name: str, value: Json) -> Any:
    if name == "identity":
        return Identity(uuid=value["uuid"], serials=tuple(value["serials"]), macs=tuple(value["macs"]))
    if name == "order" and value is not None:
        return Order(id=value["id"], task=value["task"], args=value["args"])
    if name == "phase":
        return Phase(value)
    return tuple(value) if isinstance(value, list) else value


def machine_to_json(state: MachineState) -> dict[str, Json]:
    """Return what the store keeps of a machine; empty fields are left out."""
    values = {name: getattr(state, name) for name in _MACHINE}
    kept = {name: value for name, value in values.items() if value or name == "phase"}
    return machine_fields_to_json({**kept, "phase": state.phase.value})


def machine_from_json(data: Mapping[str, Json]) -> MachineState:
    return MachineState(**machine_fields_from_json(data))


def pack(document: bytes) -> bytes:
    """Compress. Level 1 because logs are written while hosts wait; they shrink to about a tenth all the same."""
    return zlib.compress(document, 1)


def unpack(packed: bytes) -> bytes:
    return zlib.decompress(packed)


def pack_text(text: str) -> bytes:
    return pack(text.encode("utf-8", "surrogatepass"))


def unpack_text(packed: bytes) -> str:
    return unpack(packed).decode("utf-8", "surrogatepass")
