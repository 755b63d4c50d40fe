"""Plan <-> JSON. Values that many steps share are written once; the id is the digest of everything else.

Secrets are written as references ({"$secret": ...}), outputs of steps to come as {"$output": ...}.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.collector import paused
from orchestrator.errors import StalePlanError
from orchestrator.model import (
    PUSH,
    Action,
    Barrier,
    BarrierId,
    BlastRadius,
    Connection,
    Executors,
    Fingerprint,
    Json,
    Limits,
    OutputRef,
    Plan,
    PlanNode,
    PlanRole,
    Policy,
    Retry,
    Rollout,
    SecretRef,
    Share,
    Step,
    StepId,
    Timeouts,
    Value,
)

__all__ = ["dump", "parse", "signed", "value_from_json", "value_to_json"]

FORMAT = 1


def signed(plan: Plan) -> Plan:
    """Return the plan with its id: the SHA-256 of its document without the id."""
    return dataclasses.replace(plan, id=_digest(_body(plan)))


@paused()
def dump(plan: Plan) -> bytes:
    """Return the plan as a JSON document, one step per line, so that two plans compare well."""
    body = _body(plan)
    head = json.dumps({"plan": FORMAT, "id": plan.id, **{k: v for k, v in body.items() if k not in _LONG}}, indent=1)
    parts = [head[:-2], *(f' "{name}": {_lines(body[name])}' for name in _LONG)]
    return (",\n".join(parts) + "\n}\n").encode()


@paused()
def parse(document: bytes, name: str) -> Plan:
    """Return the plan in a document; `name` is what messages call it.

    Raises:
        StalePlanError: not a plan, cut short, changed by hand, or of another version.
    """
    try:
        data = json.loads(document)
    except ValueError as error:
        raise StalePlanError(
            f"{name} is no complete plan: {error}", hint="make the plan again: `halligan plan SITE --out FILE`"
        ) from None
    if not isinstance(data, dict) or "plan" not in data:
        raise StalePlanError(f"{name} is no Halligan plan", hint="give a site, or a file made by `halligan plan --out`")
    if data["plan"] != FORMAT:
        raise StalePlanError(
            f"{name} has plan format {data['plan']}, this Halligan reads {FORMAT}", hint="make the plan again"
        )
    found = data.pop("id", None)
    del data["plan"]
    if found != _digest(data):
        raise StalePlanError(
            f"{name} does not match its digest: it was changed or damaged after it was made", hint="make the plan again"
        )
    return _plan(found, data)


_LONG = ("nodes", "fingerprints", "inputs", "barriers", "steps")  # one line per item
_ENCODER = json.JSONEncoder(separators=(",", ":"), sort_keys=True)


def _lines(items: Mapping[str, Json] | Sequence[Json]) -> str:
    """Return a list or mapping as JSON, each item on a line of its own."""
    if isinstance(items, Mapping):
        opening, closing = "{}"
        lines = [f"{_compact(name)}:{_compact(item)}" for name, item in items.items()]
    else:
        opening, closing = "[]"
        lines = [_compact(item) for item in items]
    return f"{opening}\n  {f',{chr(10)}  '.join(lines)}{closing}" if lines else opening + closing


def _compact(data: object) -> str:
    return _ENCODER.encode(data)


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(_compact(body).encode()).hexdigest()


def _body(plan: Plan) -> dict[str, Any]:
    numbers: dict[int, int] = {}
    tables: list[dict[str, Json]] = []
    steps = []
    for step in plan.steps:
        if id(step.inputs) not in numbers:
            numbers[id(step.inputs)] = len(tables)
            tables.append({name: value_to_json(value) for name, value in sorted(step.inputs.items())})
        steps.append(_step_to_json(step, numbers[id(step.inputs)]))
    return {
        "site": plan.site,
        "base_revision": plan.base_revision,
        "spec_digest": plan.spec_digest,
        "complete": plan.complete,
        "unchanged": plan.unchanged,
        "total_nodes": plan.total_nodes,
        "selection": list(plan.selection),
        "undiscovered": list(plan.undiscovered),
        "deferred": plan.deferred,
        "policy": _plain(plan.policy),
        "roles": {name: _sparse(_plain(role)) for name, role in sorted(plan.roles.items())},
        "connections": [_sparse(_plain(item)) for item in _connections(plan)],
        "nodes": _nodes_to_json(plan),
        "fingerprints": {digest: _fingerprint_to_json(item) for digest, item in sorted(plan.fingerprints.items())},
        "inputs": tables,
        "barriers": [_plain(barrier) for barrier in plan.barriers],
        "steps": steps,
    }


def _step_to_json(step: Step, inputs: int) -> dict[str, Json]:
    return _sparse(
        {
            "id": step.id,
            "action": step.action.value,
            "role": step.role,
            "node": step.node,
            "reasons": list(step.reasons),
            "inputs": inputs,
            "needs": list(step.needs),
            "after": list(step.after),
            "digest": step.digest,
            "last": step.last,
            "destroys": step.destroys,
            "expected_s": step.expected_s,
            "executor": step.executor,
            "executor_reason": step.executor_reason,
        },
        keep=("inputs",),
    )


def _fingerprint_to_json(item: Fingerprint) -> dict[str, Json]:
    return {"role": item.role, "platform": item.platform, "inputs": dict(item.inputs)}


def _connections(plan: Plan) -> list[Connection]:
    return sorted({node.connection for node in plan.nodes.values()}, key=repr)


def _nodes_to_json(plan: Plan) -> dict[str, Json]:
    number = {connection: i for i, connection in enumerate(_connections(plan))}
    return {
        name: _sparse(
            {
                "platform": node.platform,
                "address": node.address,
                "addresses": dict(sorted(node.addresses.items())),
                "groups": list(node.groups),
                "connection": number[node.connection],
            },
            keep=("connection",),
        )
        for name, node in sorted(plan.nodes.items())
    }


def value_to_json(value: Value) -> Json:
    match value:
        case SecretRef():
            return {"$secret": {"file": value.file, "key": value.key, "fingerprint": value.fingerprint}}
        case OutputRef():
            return {"$output": {"from": list(value.providers), "name": value.output, "collect": value.collect}}
        case Mapping():
            return {str(name): value_to_json(item) for name, item in value.items()}
        case list() | tuple():
            return [value_to_json(item) for item in value]
    return value


def value_from_json(data: Json) -> Value:
    match data:
        case {"$secret": {"file": str(file), "key": str(key), "fingerprint": str(fingerprint)}}:
            return SecretRef(file=file, key=key, fingerprint=fingerprint)
        case {"$output": {"from": list(providers), "name": str(name), "collect": str(collect)}}:
            return OutputRef(providers=tuple(StepId(p) for p in providers), output=name, collect=collect)
        case dict():
            return {name: value_from_json(item) for name, item in data.items()}
        case list():
            return [value_from_json(item) for item in data]
    return data


def _plain(value: Any) -> Any:
    """Return a dataclass as JSON data, shares as people write them; without what does not make it another value."""
    match value:
        case Share():
            return str(value)
        case Mapping():
            return {str(name): _plain(item) for name, item in sorted(value.items())}
        case list() | tuple():
            return [_plain(item) for item in value]
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value) if field.compare}
    return value


def _sparse(data: dict[str, Json], keep: tuple[str, ...] = ()) -> dict[str, Json]:
    """Leave out empty members: most steps have few."""
    return {name: item for name, item in data.items() if item or name in keep}


def _plan(key: str, data: dict[str, Any]) -> Plan:
    inputs = [value_from_json(table) for table in data["inputs"]]
    connections = [Connection(**item) for item in data["connections"]]
    return Plan(
        id=key,
        site=data["site"],
        base_revision=data["base_revision"],
        spec_digest=data["spec_digest"],
        complete=data["complete"],
        unchanged=data["unchanged"],
        total_nodes=data["total_nodes"],
        selection=tuple(data["selection"]),
        undiscovered=tuple(data.get("undiscovered", ())),
        deferred=data.get("deferred", 0),
        policy=_policy(data["policy"]),
        roles={name: _role(item) for name, item in data["roles"].items()},
        nodes={
            name: PlanNode(
                name=name,
                platform=item.get("platform", ""),
                address=item.get("address", ""),
                addresses=item.get("addresses", {}),
                groups=tuple(item.get("groups", ())),
                connection=connections[item["connection"]],
            )
            for name, item in data["nodes"].items()
        },
        fingerprints={digest: Fingerprint(**item) for digest, item in data["fingerprints"].items()},
        barriers=tuple(
            Barrier(id=BarrierId(b["id"]), capability=b["capability"], needs=tuple(StepId(n) for n in b["needs"]))
            for b in data["barriers"]
        ),
        steps=tuple(_step(item, inputs) for item in data["steps"]),
    )


def _step(item: dict[str, Any], inputs: list[Mapping[str, Value]]) -> Step:
    return Step(
        id=StepId(item["id"]),
        action=Action(item["action"]),
        role=item["role"],
        node=item["node"],
        reasons=tuple(item.get("reasons", ())),
        inputs=inputs[item["inputs"]],
        needs=tuple(item.get("needs", ())),
        after=tuple(item.get("after", ())),
        digest=item.get("digest", ""),
        last=item.get("last", ""),
        destroys=item.get("destroys", ""),
        expected_s=item.get("expected_s", 0.0),
        executor=item.get("executor", PUSH),
        executor_reason=item.get("executor_reason", ""),
    )


def _role(item: dict[str, Any]) -> PlanRole:
    return PlanRole(
        name=item["name"],
        digest=item.get("digest", ""),
        outputs=item.get("outputs", {}),
        facts=tuple(item.get("facts", ())),
        rollout=_maybe(_rollout, item.get("rollout")),
        removable=item.get("removable", False),
        includes=tuple(item.get("includes", ())),
        members=tuple(StepId(member) for member in item.get("members", ())),
        down={StepId(member): why for member, why in item.get("down", {}).items()},
    )


def _policy(item: dict[str, Any]) -> Policy:
    return Policy(
        limits=Limits(**item["limits"]),
        retry=Retry(**item["retry"]),
        timeouts=Timeouts(**item["timeouts"]),
        blast_radius=BlastRadius(**{name: _maybe(_share, text) for name, text in item["blast_radius"].items()}),
        rollout={role: _rollout(rollout) for role, rollout in item["rollout"].items()},
        executors=Executors(**item.get("executors", {})),
        facts_age_s=item.get("facts_age_s", 0.0),
    )


def _rollout(item: dict[str, Any]) -> Rollout:
    return Rollout(first=_share(item["first"]), then=_share(item["then"]), stop_after=item["stop_after"])


def _share(text: str) -> Share:
    return Share(percent=float(text[:-1])) if text.endswith("%") else Share(count=int(text))


def _maybe(read: Callable[[Any], Any], item: Any) -> Any:
    return None if item is None else read(item)
