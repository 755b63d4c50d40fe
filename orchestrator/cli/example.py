"""An example site as files: a mixed cloud of any size, made for planning. Pure: sizes in, texts out.

Its roles are stand-ins. Their contracts are those of a real cloud, so its plans have the shape of real ones; the tasks
only say that they ran. Each node gets ten placements; controllers get a few more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

__all__ = ["site"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Role:
    """A stand-in: `wires` map an input to the (capability, output) it comes from."""

    about: str
    provides: tuple[str, ...] = ()
    here: tuple[str, ...] = ()  # capabilities required on the same node
    needs: tuple[str, ...] = ()  # capabilities required anywhere in the site
    after: tuple[str, ...] = ()
    wires: Mapping[str, tuple[str, str]] | None = None
    output: str = ""
    quorum: bool = False
    erases: str = ""


_ROLES: Mapping[str, _Role] = {
    "base": _Role(about="Operating system settings.", provides=("os.base",)),
    "time": _Role(about="Clock.", provides=("time.sync",), here=("os.base",)),
    "names": _Role(about="Host names.", provides=("names.hosts",), here=("os.base",)),
    "metrics": _Role(about="Metrics agent.", here=("os.base",), after=("time.sync",)),
    "logs": _Role(about="Log shipping.", here=("os.base",), after=("time.sync",)),
    "audit": _Role(about="Audit rules.", here=("os.base",)),
    "firewall": _Role(about="Packet filter.", provides=("firewall",), here=("names.hosts",)),
    "mariadb": _Role(
        about="Database cluster.",
        provides=("database.mysql",),
        here=("os.base",),
        after=("time.sync", "names.hosts"),
        output="mariadb_host",
        quorum=True,
        erases="Every database under /var/lib/mysql.",
    ),
    "rabbitmq": _Role(
        about="Message queue cluster.",
        provides=("queue.amqp",),
        here=("names.hosts",),
        output="rabbitmq_host",
        quorum=True,
        erases="Every queue and message under /var/lib/rabbitmq.",
    ),
    "keystone": _Role(
        about="Identity service.",
        provides=("identity.keystone",),
        here=("os.base",),
        needs=("database.mysql",),
        wires={"keystone_database_host": ("database.mysql", "mariadb_host")},
        output="keystone_url",
    ),
    "glance": _Role(
        about="Image service.",
        provides=("image.glance",),
        here=("os.base",),
        needs=("database.mysql", "identity.keystone"),
        wires={"glance_keystone_url": ("identity.keystone", "keystone_url")},
        output="glance_url",
    ),
    "placement": _Role(
        about="Placement service.",
        provides=("placement.api",),
        here=("os.base",),
        needs=("database.mysql", "identity.keystone"),
        wires={"placement_keystone_url": ("identity.keystone", "keystone_url")},
        output="placement_url",
    ),
    "nova_api": _Role(
        about="Compute service.",
        provides=("compute.api",),
        here=("os.base",),
        needs=("queue.amqp", "image.glance", "placement.api"),
        wires={"nova_api_queue_host": ("queue.amqp", "rabbitmq_host")},
        output="nova_api_url",
    ),
    "neutron_api": _Role(
        about="Network service.",
        provides=("network.api",),
        here=("os.base",),
        needs=("queue.amqp", "identity.keystone"),
        wires={"neutron_api_queue_host": ("queue.amqp", "rabbitmq_host")},
        output="neutron_api_url",
    ),
    "gateway": _Role(about="Network gateway.", here=("firewall",), needs=("network.api",)),
    "routing": _Role(about="Routing daemon.", provides=("routing",), here=("os.base",)),
    "libvirt": _Role(about="KVM and libvirt.", provides=("hypervisor",), here=("os.base",)),
    "hyperv": _Role(about="Hyper-V.", provides=("hypervisor",), here=("os.base",)),
    "compute": _Role(
        about="Compute agent.",
        here=("hypervisor",),
        needs=("compute.api",),
        wires={"compute_api_url": ("compute.api", "nova_api_url")},
    ),
    "network_agent": _Role(
        about="Network agent.",
        provides=("network.agent",),
        here=("os.base",),
        needs=("network.api",),
        wires={"network_agent_api_url": ("network.api", "neutron_api_url")},
    ),
}

_EVERYWHERE = ("base", "time", "names", "metrics", "logs", "audit")
_GROUPS: Mapping[str, tuple[str, ...]] = {
    "controllers": ("firewall", "mariadb", "rabbitmq", "keystone", "glance", "placement", "nova_api", "neutron_api"),
    "network": ("firewall", "routing", "network_agent", "gateway"),
    "kvm": ("firewall", "libvirt", "network_agent", "compute"),
    "hyperv": ("firewall", "hyperv", "network_agent", "compute"),
}
_FIRST = {"controllers": "10.64.0.11", "network": "10.64.0.101", "kvm": "10.65.0.1", "hyperv": "10.67.0.1"}
_STEMS = {"controllers": "ctl", "network": "net", "kvm": "kvm", "hyperv": "hv"}


def site(*, controllers: int, network: int, kvm: int, hyperv: int) -> dict[str, str]:
    """Return path -> text of every file of the site."""
    sizes = {"controllers": controllers, "network": network, "kvm": kvm, "hyperv": hyperv}
    files = {"cluster.yml": "\n".join([*_cluster(sizes), ""])}
    used = {role for group, size in sizes.items() if size for role in _GROUPS[group]} | set(_EVERYWHERE)
    for name in sorted(used):
        files.update({f"roles/{name}/{path}": text for path, text in _role(name, _ROLES[name]).items()})
    return files


# --- the spec -----------------------------------------------------------------------------------------------------


def _cluster(sizes: Mapping[str, int]) -> Iterator[str]:
    total = sum(sizes.values())
    yield from (
        "---",
        f"# A mixed cloud of {total:,} nodes, made for planning by `halligan generate`.",
        "spec: 1",
        "",
        "networks:",
        "  mgmt:",
        "    cidr: 10.64.0.0/10",
        "    gateway: 10.64.0.1",
        "",
        "groups:",
        "  all:",
        f"    roles: [{', '.join(_EVERYWHERE)}]",
    )
    for group in (group for group, size in sizes.items() if size):
        yield f"  {group}:"
        yield f"    roles: [{', '.join(_GROUPS[group])}]"
        if group == "hyperv":
            yield "    platform: windows-2022"
            yield "    connection: {transport: psrp, user: halligan}"
    yield from ("", "nodes:")
    for group, size in sizes.items():
        if size:
            yield f"  {_name(_STEMS[group], size)}:"
            yield f"    groups: [{group}]"
            yield f"    address: {_FIRST[group]}"
    yield from (
        "",
        "policy:",
        "  limits: {steps: 500, batches: 16, batch: 100}",
        "  blast_radius: {destroy: 1}",
    )


def _name(stem: str, size: int) -> str:
    if size == 1:
        return f"{stem}-1"
    width = len(str(size))
    return f"{stem}-[{1:0{width}d}:{size}]"


# --- the roles ----------------------------------------------------------------------------------------------------


def _role(name: str, role: _Role) -> dict[str, str]:
    files = {
        "meta/contract.yml": "\n".join([*_contract(name, role), ""]),
        "meta/argument_specs.yml": "\n".join([*_arguments(role), ""]),
        "tasks/main.yml": _tasks(f"Stand in for {name}"),
    }
    if role.erases:
        files["tasks/remove.yml"] = _tasks(f"Stand in for the removal of {name}")
    return files


def _contract(name: str, role: _Role) -> Iterator[str]:
    yield from ("---", "contract: 1", f"provides: [{', '.join(role.provides)}]")
    if role.here or role.needs:
        yield "requires:"
        yield from (f"  - {{capability: {capability}, scope: node}}" for capability in role.here)
        yield from (f"  - {{capability: {capability}}}" for capability in role.needs)
    if role.after:
        yield f"after: [{', '.join(role.after)}]"
    if role.wires:
        yield "inputs:"
        for option, (capability, output) in role.wires.items():
            yield f"  {option}: {{from: {capability}, output: {output}, collect: list}}"
    if role.output:
        yield "outputs:"
        yield f"  {role.output}: {{type: str, description: Where {name} answers., value: '{{{{ node_address }}}}'}}"
    quorum = ", quorum: true" if role.quorum else ""
    yield f"cardinality: {{per: site, count: '0..'{quorum}}}"
    yield "platforms: []"
    if role.erases:
        yield f"remove: {{destroys: {role.erases}}}"


def _arguments(role: _Role) -> Iterator[str]:
    yield from ("---", "argument_specs:", "  main:", f"    short_description: {role.about}")
    if role.wires:
        yield "    options:"
        for option, (capability, _) in role.wires.items():
            yield f"      {option}: {{type: list, elements: str, required: true, description: From {capability}.}}"
    else:
        yield "    options: {}"


def _tasks(title: str) -> str:
    return f"---\n- name: {title}\n  ansible.builtin.debug:\n    msg: This role changes nothing.\n"
