#!/usr/bin/python
# Copyright: the Halligan authors
# Apache License 2.0 (see LICENSE)
"""Keep a MariaDB server a member of its Galera cluster, and never let a second cluster begin."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: galera_member
short_description: Keep a MariaDB server a member of its Galera cluster
description:
  - Starts the server as a member when it does not run, and restarts it when told to. It ends with a member in sync.
  - A cluster is begun only where no other member runs and nothing speaks for data elsewhere. All else is refused with
    the next step.
  - The other members are asked over the network, so the decision rests on what is, not on what an earlier run noted.
author: The Halligan authors
options:
  name:
    description: Name of this member.
    type: str
    required: true
  members:
    description: Address of every member by name, this one among them.
    type: dict
    required: true
  port:
    description: TCP port of MariaDB's clients.
    type: int
    default: 3306
  cluster_port:
    description: TCP port on which the members talk to each other. A server outside of a cluster has it closed.
    type: int
    default: 4567
  login_user:
    description: Account by which the other members are asked.
    type: str
    required: true
  login_password:
    description: Password of that account.
    type: str
    required: true
  restart:
    description: Whether the running server has not read its configuration.
    type: bool
    default: false
  recover_from:
    description: The member from whose data a cluster begins again that has stopped as a whole.
    type: str
    default: ""
  timeout:
    description: Seconds until the member must be in sync. A joining member may copy all data first.
    type: int
    default: 1800
  data:
    description: Where the server keeps its data.
    type: path
    default: /var/lib/mysql
  unit:
    description: Name of the systemd unit.
    type: str
    default: mariadb.service
attributes:
  check_mode:
    support: full
"""

EXAMPLES = r"""
- name: Keep the server a member
  galera_member:
    name: ctl-1
    members: {ctl-1: 10.0.0.11, ctl-2: 10.0.0.12, ctl-3: 10.0.0.13}
    login_user: halligan
    login_password: "{{ mariadb_admin_password }}"
  no_log: true
"""

RETURN = r"""
action:
  description: What was done, or would be in check mode - V(none), V(join), V(bootstrap) or V(wait).
  type: str
  returned: always
reason:
  description: Why.
  type: str
  returned: always
"""

NOBODY = "00000000-0000-0000-0000-000000000000"
REFORM_S = 60  # members that were cut off at the same time find each other within seconds of their start
NO_DATABASES = {"mysql", "performance_schema", "sys", "lost+found"}
DISCONNECTED = "Disconnected"  # a member that the others threw out, or that left after an error, and runs on
RESCUE = (
    "save what is needed with mariadb-dump, take role mariadb from this node with `halligan apply`, which erases the "
    "data, and place it again"
)
REFORM = (
    "start the others too (`systemctl start mariadb`): members that went down together find each other again. If one "
    "is lost, compare the positions (`mariadbd --user=mysql --wsrep-recover` where the server is stopped) and set "
    "mariadb_recover_from to the member with the highest number"
)
LAST = (
    "the member that stopped last begins: it has `safe_to_bootstrap: 1` in /var/lib/mysql/grastate.dat. Apply there "
    "first (`halligan apply SITE --role mariadb --node NODE`). If none has it, compare the positions (`mariadbd "
    "--user=mysql --wsrep-recover`) and set mariadb_recover_from to the member with the highest number"
)
STATUS = ("wsrep_cluster_status", "wsrep_cluster_state_uuid", "wsrep_local_state_comment", "wsrep_cluster_size")
NAMES = ", ".join(f"'{name}'" for name in STATUS)
# SHOW is answered even by a member that refuses everything else because it has no majority.
QUERY = f"SHOW GLOBAL STATUS WHERE Variable_name IN ({NAMES}); SHOW GLOBAL VARIABLES LIKE 'wsrep_provider'"
# Root comes in over the unix socket, and no personal option file may send it elsewhere.
ROOT = ["mariadb", "--no-defaults", "--protocol=socket", "--batch", "--skip-column-names"]


@dataclass(frozen=True)
class Status:
    """What a server tells of its cluster. All empty: it does not answer, or is no member."""

    cluster: str = ""  # "Primary" where the majority is
    uuid: str = ""  # of the cluster's history of writes
    state: str = ""  # "Synced" when it takes reads and writes
    size: int = 0


@dataclass(frozen=True)
class Own:
    """This server."""

    running: bool
    status: Status = Status()
    uuid: str = NOBODY  # of the history that its data belong to, by grastate.dat
    safe: bool = False  # it left its cluster as the last one
    crashed: bool = False  # it did not leave: it still knows who was there (gvwstate.dat)
    databases: tuple[str, ...] = ()

    @property
    def was_member(self) -> bool:
        return self.uuid != NOBODY

    @property
    def alone(self) -> bool:
        """It runs outside of any cluster."""
        return self.running and not self.status.cluster


@dataclass(frozen=True)
class Peer:
    """Another member. `presence`: member, alone (a server outside of any cluster), closed (no server), silent."""

    presence: str
    status: Status = Status()


@dataclass(frozen=True)
class Decision:
    """`action`: none, join, bootstrap, wait (start and hope that the others come too) or refuse."""

    action: str
    reason: str
    hint: str = ""


def decide(name: str, own: Own, peers: Mapping[str, Peer], *, restart: bool, recover_from: str) -> Decision:
    """What to do about this member. A cluster begins only where no other member can be running."""
    up = [peer for peer in peers.values() if peer.presence == "member"]
    if own.running and not own.alone and own.status.cluster != DISCONNECTED:
        if own.status.cluster != "Primary":
            return _cut_off(peers)
        if not restart:
            return Decision("none", f"a member of {own.status.size}, {own.status.state}")
    if up:
        return _join(own, up, _names(peers, "member"))
    if own.running and own.status.cluster != DISCONNECTED:
        return Decision("bootstrap", "no other member runs, and this server has the data")
    return _begin_from(name, peers, recover_from) if recover_from else _begin(name, own, peers)


def _cut_off(peers: Mapping[str, Peer]) -> Decision:
    missing = _names(peers, "silent", "closed", "alone") or "the other members"
    return Decision(
        "wait",
        f"this member has lost the majority of its cluster; {missing} must come back",
        f"start MariaDB on {missing} (`systemctl start mariadb`), then apply again",
    )


def _join(own: Own, up: Sequence[Peer], running: str) -> Decision:
    """Join those that run, unless that would erase what only this server has."""
    if own.databases and (own.alone or not own.was_member):
        what = ", ".join(own.databases)
        reason = f"this server has databases of its own ({what}); joining the cluster of {running} would erase them"
        return Decision("refuse", reason, RESCUE)
    histories = {peer.status.uuid for peer in up if peer.status.cluster == "Primary"}
    if own.was_member and histories and own.uuid not in histories:
        reason = f"this server's data belong to another cluster than that of {running}; joining would erase them"
        return Decision("refuse", reason, RESCUE)
    if not histories and any(peer.status.cluster for peer in up):
        reason = f"{running} lost the majority of the cluster and wait for the others"
        return Decision(
            "wait", reason, "start the members that do not run (`systemctl start mariadb`), then apply again"
        )
    return Decision("join", f"the cluster of {running}")


def _begin_from(name: str, peers: Mapping[str, Peer], recover_from: str) -> Decision:
    """No member runs as far as can be seen; the site says from whose data the cluster begins again."""
    if recover_from == name:
        return Decision("bootstrap", "mariadb_recover_from says that the cluster begins again from here")
    known = recover_from if recover_from in peers else "a member of that name"
    return Decision(
        "refuse",
        f"mariadb_recover_from says that the cluster begins again from {recover_from}, which does not run",
        f"apply to {known} first: `halligan apply SITE --role mariadb --node {recover_from}`",
    )


def _begin(name: str, own: Own, peers: Mapping[str, Peer]) -> Decision:
    """No member runs as far as can be seen, and neither does this server."""
    if own.was_member and not own.safe:
        return _ask_others(own)
    if silent := _names(peers, "silent"):
        hint = f"bring {silent} back; if it is lost, take it out of the site or set mariadb_recover_from: {name}"
        return Decision("refuse", f"{silent} does not answer at all and may run a cluster unseen from here", hint)
    if own.was_member:
        return Decision("bootstrap", "every member has stopped, this one as the last")
    if others := _names(peers, "alone"):
        first = others.split(", ", maxsplit=1)[0]
        hint = f"apply there first, to make it the first member: `halligan apply SITE --role mariadb --node {first}`"
        return Decision("refuse", f"{others} runs a server outside of any cluster, whose data would be lost", hint)
    return Decision("bootstrap", "no member runs yet")


def _ask_others(own: Own) -> Decision:
    reason = "all members stopped, and this one cannot know whether its data are the latest"
    if own.crashed:
        return Decision("wait", reason, REFORM)
    return Decision("refuse", f"{reason}: it left the cluster before others did", LAST)


def _names(peers: Mapping[str, Peer], *presence: str) -> str:
    return ", ".join(sorted(name for name, peer in peers.items() if peer.presence in presence))


def parse_status(output: str) -> Status:
    """Read name and value, a line each, as the client prints them."""
    found = dict(line.split("\t", 1) for line in output.splitlines() if "\t" in line)
    cluster, uuid, state, size = (found.get(name, "") for name in STATUS)
    if found.get("wsrep_provider", "none") == "none":
        return Status()
    return Status(cluster, uuid, state, int(size) if size.isdigit() else 0)


def parse_grastate(text: str) -> tuple[str, bool]:
    """Return the history and whether the member left as the last one."""
    found = dict(line.split(":", 1) for line in text.splitlines() if ":" in line and not line.startswith("#"))
    return found.get("uuid", NOBODY).strip() or NOBODY, found.get("safe_to_bootstrap", "0").strip() == "1"


def parse_position(output: str) -> str:
    """Return "uuid:seqno" from what mariadbd --wsrep-recover logs."""
    marker = "Recovered position:"
    lines = [line for line in output.splitlines() if marker in line]
    return lines[-1].split(marker, 1)[1].strip() if lines else "unknown"


def option_file(password: str) -> str:
    """A client's option file with a password, escaped as MariaDB reads it."""
    escaped = password.replace("\\", "\\\\").replace('"', '\\"')
    return f'[client]\npassword="{escaped}"\n'


def knock(address: str, port: int, timeout: float = 5) -> str:
    """Return open, closed (the host said so) or silent (it said nothing, or there is no way to it)."""
    try:
        socket.create_connection((address, port), timeout).close()
    except ConnectionRefusedError:
        return "closed"
    except OSError:
        return "silent"
    return "open"


class Member:
    """This server and its peers, as they can be asked and changed."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module
        self._options = module.params

    def own(self) -> Own:
        data = Path(self._options["data"])
        state = data / "grastate.dat"
        uuid, safe = parse_grastate(state.read_text() if state.exists() else "")
        crashed = (data / "gvwstate.dat").exists()
        code, _, _ = self._module.run_command(["systemctl", "is-active", "--quiet", self._options["unit"]])
        folders = {path.name for path in data.iterdir() if path.is_dir()} if data.exists() else set()
        databases = tuple(sorted(name for name in folders - NO_DATABASES if not name.startswith(("#", "."))))
        return Own(code == 0, self.status(), uuid, safe, crashed, databases)

    def status(self) -> Status:
        return parse_status(self._module.run_command([*ROOT, f"--execute={QUERY}"])[1])

    def peers(self) -> dict[str, Peer]:
        found = {}
        for name, address in self._options["members"].items():
            if name != self._options["name"]:
                found[name] = self._peer(address)
        return found

    def _peer(self, address: str) -> Peer:
        inside, outside = knock(address, self._options["cluster_port"]), knock(address, self._options["port"])
        if inside == "open":
            return Peer("member", self._ask(address))
        if outside == "open":
            return Peer("alone")
        return Peer("closed" if inside == "closed" else "silent")

    def _ask(self, address: str) -> Status:
        command = [
            "mariadb",
            "--defaults-file=/dev/stdin",
            "--protocol=tcp",
            f"--host={address}",
            f"--port={self._options['port']}",
        ]
        command += [f"--user={self._options['login_user']}", "--connect-timeout=5", *ROOT[3:], f"--execute={QUERY}"]
        return parse_status(self._module.run_command(command, data=option_file(self._options["login_password"]))[1])

    def start(self, action: str, own: Own) -> None:
        """Start or restart the server. A failing start is told by `settle`, with what the server said."""
        if action == "bootstrap":
            if own.was_member:
                self._permit()
            self._module.run_command(["galera_new_cluster", self._options["unit"]])
        elif action == "join":
            self._module.run_command(["systemctl", "restart", self._options["unit"]])
        elif not own.running:
            self._module.run_command(["systemctl", "restart", "--no-block", self._options["unit"]])

    def _permit(self) -> None:
        """Let Galera begin again from here. The last member that stops in order writes the same itself."""
        code, _, _ = self._module.run_command(["systemctl", "stop", self._options["unit"]])
        state = Path(self._options["data"]) / "grastate.dat"
        text = state.read_text()
        if code == 0 and "safe_to_bootstrap: 1" not in text:
            state.write_text(text.replace("safe_to_bootstrap: 0", "safe_to_bootstrap: 1"))

    def position(self) -> str:
        _, output, error = self._module.run_command(["mariadbd", "--user=mysql", "--wsrep-recover"])
        return parse_position(output + error)

    def settle(self, timeout_s: float, *, retried: bool) -> Status:
        """Wait until the member is in sync, its server has given up, or the time is over."""
        deadline = time.monotonic() + timeout_s
        while True:
            status = self.status()
            if (status.cluster, status.state) == ("Primary", "Synced") or time.monotonic() > deadline:
                return status
            if not retried and self._gave_up():
                return status
            time.sleep(1)

    def _gave_up(self) -> bool:
        _, state, _ = self._module.run_command(
            ["systemctl", "show", "--property=SubState", "--value", self._options["unit"]]
        )
        return state.strip() in ("failed", "dead", "auto-restart")

    def log(self) -> str:
        """Return the last complaints of the server."""
        command = ["journalctl", "--unit", self._options["unit"], "--lines=60", "--no-pager", "--output=cat"]
        lines = str(self._module.run_command(command)[1]).splitlines()
        return "\n".join([line for line in lines if "[ERROR]" in line][-6:] or lines[-6:])


def keep(module: AnsibleModule, member: Member) -> Decision:
    """Bring the server into its cluster; return what was decided."""
    options = module.params
    own = member.own()
    decision = decide(
        options["name"], own, member.peers(), restart=options["restart"], recover_from=options["recover_from"]
    )
    if decision.action == "refuse":
        module.fail_json(msg=f"{decision.reason}. Next: {decision.hint}.")
    if module.check_mode:
        return decision
    waits = decision.action == "wait"
    where = f" Its position is {member.position()}." if waits and not own.running else ""
    if decision.action != "none":
        member.start(decision.action, own)
    status = member.settle(REFORM_S if waits else options["timeout"], retried=waits)
    if (status.cluster, status.state) == ("Primary", "Synced"):
        # The majority is back: now the server may be restarted for its configuration.
        return keep(module, member) if waits and own.running and options["restart"] else decision
    if waits:
        module.fail_json(msg=f"{decision.reason}.{where} Next: {decision.hint}.")
    told = f"{status.cluster or 'no cluster'}, {status.state or 'no state'}"
    module.fail_json(
        msg=f"the member is not in sync ({told}) after: {decision.action}, {decision.reason}. It said:\n{member.log()}"
    )
    return decision


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "members": {"type": "dict", "required": True},
            "port": {"type": "int", "default": 3306},
            "cluster_port": {"type": "int", "default": 4567},
            "login_user": {"type": "str", "required": True},
            "login_password": {"type": "str", "required": True, "no_log": True},
            "restart": {"type": "bool", "default": False},
            "recover_from": {"type": "str", "default": ""},
            "timeout": {"type": "int", "default": 1800},
            "data": {"type": "path", "default": "/var/lib/mysql"},
            "unit": {"type": "str", "default": "mariadb.service"},
        },
        supports_check_mode=True,
    )
    decision = keep(module, Member(module))
    module.exit_json(changed=decision.action != "none", action=decision.action, reason=decision.reason)


if __name__ == "__main__":
    main()
