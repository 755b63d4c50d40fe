#!/usr/bin/python
# Copyright: the Halligan authors
# Apache License 2.0 (see LICENSE)
"""Keep a RabbitMQ server a member of its cluster: start, join, and forget members that are gone."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: rabbitmq_member
short_description: Keep a RabbitMQ server a member of its cluster
description:
  - Starts the server, lets it join the members that run, and forgets former members that no longer run.
  - An empty server joins; one that has queues is never reset.
  - The other members are asked over the network, so the decision rests on what is.
author: The Halligan authors
options:
  name:
    description: Erlang name of this member.
    type: str
    required: true
  members:
    description: Address of every member by its Erlang name, this one among them.
    type: dict
    required: true
  timeout:
    description: Seconds until the server must run.
    type: int
    default: 300
  unit:
    description: Name of the systemd unit.
    type: str
    default: rabbitmq-server.service
attributes:
  check_mode:
    support: full
"""

EXAMPLES = r"""
- name: Keep the server a member
  rabbitmq_member:
    name: rabbit@ctl-1
    members: {rabbit@ctl-1: 10.0.0.11, rabbit@ctl-2: 10.0.0.12, rabbit@ctl-3: 10.0.0.13}
"""

RETURN = r"""
did:
  description: What was done, or would be in check mode.
  type: list
  elements: str
  returned: always
"""

HOME = Path("/var/lib/rabbitmq")
PORT_MAPPER = 4369
# Not /usr/sbin/rabbitmqctl: that wrapper passes its arguments through a shell.
AS_SERVER = ["runuser", "-u", "rabbitmq", "--", "env", f"HOME={HOME}"]
RESCUE = "delete the queues, or take the role from the other nodes, apply, and place it there again"
LATER = (
    "RabbitMQ does not start. When all members were stopped, the one that stopped last must come back first, or all "
    "together: `systemctl start rabbitmq-server` on each of them, then apply again. If that one is lost, `rabbitmqctl "
    "force_boot` on this node lets it start without. It said:"
)
PAUSED = (
    "RabbitMQ runs, but takes no clients: most likely it paused because it sees no majority of its cluster. Next: "
    "start the other members (`systemctl start rabbitmq-server`) or mend the network, then apply again. It said:"
)
SETTLE_S = 60  # a server that came back from a pause, or is starting by itself, is ready within seconds
TOOLS = "/usr/lib/rabbitmq/bin"


@dataclass(frozen=True)
class Cluster:
    """What a running server tells: all members that it knows, and those that run."""

    known: frozenset[str]
    running: frozenset[str]


@dataclass(frozen=True)
class Own:
    """This server. `cluster` is None when it does not run, `fresh` when it has no data at all."""

    name: str
    cluster: Cluster | None
    fresh: bool = False
    queues: int = 0


@dataclass(frozen=True)
class Peer:
    """Another member. `presence`: up, down (the host answers, the server does not) or silent (not even the host)."""

    presence: str
    cluster: Cluster | None = None


@dataclass(frozen=True)
class Action:
    """`verb`: forget_there (NAME is forgotten by the cluster of `at`), start, join or forget; or refuse."""

    verb: str
    at: str = ""
    reason: str = ""
    hint: str = ""


def before_start(own: Own, peers: Mapping[str, Peer]) -> Action | None:
    """What comes before a stopped server is started; None when it runs."""
    if own.cluster is not None:
        return None
    up = {name: peer.cluster for name, peer in peers.items() if peer.cluster is not None}
    if own.fresh:
        for name, cluster in sorted(up.items()):
            if own.name in cluster.known:
                return Action(
                    "forget_there", at=name, reason="this server lost its data; the others know its former self"
                )
        silent = sorted(name for name, peer in peers.items() if peer.presence == "silent")
        if silent and not up:
            return Action(
                "refuse",
                reason=f"{', '.join(silent)} do not answer at all and may be a cluster that cannot be seen from here",
                hint="bring them back, or take them out of the site if they are gone for good",
            )
    return Action("start")


def after_start(own: Own, peers: Mapping[str, Peer]) -> list[Action]:
    """What a running server still has to do."""
    assert own.cluster is not None
    others = {name: peer.cluster for name, peer in peers.items() if peer.cluster is not None}
    if own.cluster.known == {own.name} and others:
        best = max(sorted(others), key=lambda name: len(others[name].known))
        if own.queues:
            reason = f"this server has {own.queues} queues of its own; joining the cluster of {best} would erase them"
            return [Action("refuse", reason=reason, hint=RESCUE)]
        return [Action("join", at=best)]
    wanted = {own.name, *peers}
    gone = own.cluster.known - wanted - own.cluster.running
    return [Action("forget", at=name) for name in sorted(gone)]


def parse_status(output: str) -> Cluster | None:
    """Read `rabbitmqctl cluster_status --formatter json`."""
    try:
        told = json.loads(output)
    except ValueError:
        return None
    known = frozenset((*told.get("disk_nodes", ()), *told.get("ram_nodes", ())))
    return Cluster(known, frozenset(told.get("running_nodes", ())))


def answers(address: str, port: int, timeout: float = 5) -> bool:
    """Whether a host answers, be it with a refusal."""
    try:
        socket.create_connection((address, port), timeout).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return True


class Member:
    """This server and its peers, as they can be asked and changed."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module
        self._name: str = module.params["name"]
        self._unit: str = module.params["unit"]

    def own(self) -> Own:
        active, _, _ = self._module.run_command(["systemctl", "is-active", "--quiet", self._unit])
        cluster = self._settled() if active == 0 else None
        queues = 0
        if cluster is not None and cluster.known == {self._name}:
            _, output, _ = self._ctl("eval", "length(rabbit_amqqueue:list()).")
            queues = int(output) if output.strip().isdigit() else 0
        return Own(self._name, cluster, not (HOME / "mnesia" / self._name).exists(), queues)

    def _settled(self) -> Cluster:
        """Return the status of this running server; fail when it gives none."""
        deadline = time.monotonic() + SETTLE_S
        while (cluster := self._status(self._name)) is None:
            if time.monotonic() > deadline:
                self._module.fail_json(msg=f"{PAUSED}\n{self.log()}")
            time.sleep(1)
        return cluster

    def peers(self) -> dict[str, Peer]:
        members: dict[str, str] = self._module.params["members"]
        return {name: self._peer(name, address) for name, address in members.items() if name != self._name}

    def _peer(self, name: str, address: str) -> Peer:
        if not answers(address, PORT_MAPPER):
            return Peer("silent")
        cluster = self._status(name)
        return Peer("up" if cluster else "down", cluster)

    def _status(self, name: str) -> Cluster | None:
        code, output, _ = self._ctl("cluster_status", "--formatter", "json", "--timeout", "20", node=name)
        return parse_status(output) if code == 0 else None

    def start(self) -> None:
        """Start the server. It may wait for members that stopped after it, longer than a run should."""
        self._module.run_command(["systemctl", "start", "--no-block", self._unit])
        deadline = time.monotonic() + self._module.params["timeout"]
        while time.monotonic() < deadline:
            _, state, _ = self._module.run_command(
                ["systemctl", "show", "--property=ActiveState", "--value", self._unit]
            )
            if state.strip() == "active":
                return
            if state.strip() == "failed":
                break
            time.sleep(1)
        self._module.fail_json(msg=f"{LATER}\n{self.log()}")

    def do(self, action: Action) -> str:
        """Carry out one action; return it in words."""
        if action.verb == "forget_there":
            self._must("forget_cluster_node", self._name, node=action.at)
            return f"{action.at} forgot {self._name}"
        if action.verb == "forget":
            self._must("forget_cluster_node", action.at)
            return f"forgot {action.at}"
        if action.verb == "join":
            self._must("stop_app")
            self._must("reset")
            self._must("join_cluster", action.at)
            self._must("start_app")
            self._must("await_startup")
            # Quorum queues do not spread to a new member by themselves.
            self._module.run_command(
                [*AS_SERVER, f"{TOOLS}/rabbitmq-queues", "--quiet", "grow", self._name, "all"], cwd=str(HOME)
            )
            return f"joined {action.at}"
        self.start()
        return "started"

    def _must(self, *words: str, node: str = "") -> None:
        code, output, error = self._ctl(*words, node=node or self._name)
        if code:
            self._module.fail_json(msg=f"rabbitmqctl {' '.join(words)}: {(error or output).strip()}")

    def _ctl(self, *words: str, node: str = "") -> tuple[int, str, str]:
        command = [*AS_SERVER, f"{TOOLS}/rabbitmqctl", "--quiet", "--node", node or self._name, *words]
        code, output, error = self._module.run_command(command, cwd=str(HOME))
        return code, output, error

    def log(self) -> str:
        file = Path("/var/log/rabbitmq") / f"{self._name}.log"
        return "\n".join(file.read_text(errors="replace").splitlines()[-8:]) if file.exists() else ""


def keep(module: AnsibleModule, member: Member) -> list[str]:
    """Bring the server into its cluster; return what was done."""
    did: list[str] = []
    while (action := before_start(member.own(), member.peers())) is not None:
        did += _carried_out(module, member, [action])
        if module.check_mode:
            return did
    return did + _carried_out(module, member, after_start(member.own(), member.peers()))


def _carried_out(module: AnsibleModule, member: Member, actions: list[Action]) -> list[str]:
    did = []
    for action in actions:
        if action.verb == "refuse":
            module.fail_json(msg=f"{action.reason}. Next: {action.hint}.")
        did.append(f"would {action.verb} {action.at}".strip() if module.check_mode else member.do(action))
    return did


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "members": {"type": "dict", "required": True},
            "timeout": {"type": "int", "default": 300},
            "unit": {"type": "str", "default": "rabbitmq-server.service"},
        },
        supports_check_mode=True,
    )
    did = keep(module, Member(module))
    module.exit_json(changed=bool(did), did=did)


if __name__ == "__main__":
    main()
