"""A site of any size as files: sizes in, texts out. inventories/demo-mixed-1000 is made with it.

Linux nodes get the project's own roles. Of the services that a site has once, each goes to a group of one controller.
Hyper-V hosts get none yet: their roles come with the Hyper-V work.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

__all__ = ["ROLES", "site"]

_EVERYWHERE = ("base", "time", "names")
_CONTROLLERS = ("memcached",)
_SINGLE = {  # group of one controller -> its roles, by the controller they go to when there are enough
    "database": ("mariadb",),
    "queue": ("rabbitmq",),
    "services": ("keystone", "glance", "placement"),
    "probe": ("smoke",),
}
_ON = {"database": 1, "queue": 2, "services": 3, "probe": 1}
ROLES = (*_EVERYWHERE, *_CONTROLLERS, *(role for roles in _SINGLE.values() for role in roles))
"""Every role that a generated site can place."""

_PLACEHOLDERS = {  # role -> options that a site must set; a plan needs some value, and nothing is ever applied
    "mariadb": ("mariadb_admin_password", "mariadb_transfer_password"),
    "rabbitmq": ("rabbitmq_erlang_cookie", "rabbitmq_password"),
    "keystone": ("keystone_admin_password", "keystone_database_password", "keystone_key_secret"),
    "glance": ("glance_database_password", "glance_service_password"),
    "placement": ("placement_database_password", "placement_service_password"),
}

_NETWORKS = """\
networks:
  mgmt:
    cidr: 10.64.0.0/12
    gateway: 10.64.0.1
  tunnel:
    cidr: 10.80.0.0/12
    vlan: 20
    mtu: 9000
  storage:
    cidr: 10.96.0.0/12
    vlan: 30
    mtu: 9000
"""
_PROFILES = """\
profiles:
  kvm:
    image: debian-12
    root_disk: {type: ssd, size: ">= 100 GB"}
"""
_BOOT = """\
boot:
  network: mgmt
  range: 10.79.0.1-10.79.15.254
"""
_POLICY = """\
policy:
  limits:
    steps: 500
    batches: 16
    batch: 100
  retry:
    unreachable: 2
    backoff: 10s
  timeouts:
    default: 30m
  blast_radius:
    destroy: 1
  rollout:
    base: {first: 1, then: 25%, stop_after: 5}
"""


def site(
    *, controllers: int = 3, network: int = 2, kvm: int = 900, hyperv: int = 95, roles: Collection[str] = ROLES
) -> dict[str, str]:
    """Return path -> text of every file of a site; only roles among `roles` are placed."""
    sizes = {"controller": controllers, "network": network, "kvm": kvm, "hyperv": hyperv}
    parts = [
        f"---\n# A mixed cloud of {sum(sizes.values()):,} nodes, made for planning: nothing in it exists.\nspec: 1\n",
        _NETWORKS,
        *([_PROFILES, _BOOT] if kvm else []),
        "connection:\n  user: halligan\n  private_key: keys/id_ed25519\n  known_hosts: known_hosts\n",
        _lines(_groups(sizes, roles)),
        _lines(_nodes(sizes, roles)),
        _POLICY if "base" in roles else _POLICY.partition("  rollout:")[0],
    ]
    files = {"cluster.yml": "\n".join(parts)}
    if placeholders := _lines(_secrets(sizes, roles)):
        files["group_vars/all/placeholders.yml"] = placeholders
    return files


def _lines(lines: Iterator[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _groups(sizes: Mapping[str, int], roles: Collection[str]) -> Iterator[str]:
    linux = [name for name in ("controller", "network", "kvm") if sizes[name]]
    yield "groups:" if any(sizes.values()) else "groups: {}"
    if linux:
        yield from _group("linux", _EVERYWHERE, roles, f"    children: [{', '.join(linux)}]")
    for name in linux:
        yield from _group(name, _CONTROLLERS if name == "controller" else (), roles)
    for name in _singles(sizes, roles):
        yield from _group(name, _SINGLE[name], roles)
    if sizes["hyperv"]:
        yield "  hyperv:"
        yield "    # The roles of Hyper-V hosts come with the Hyper-V work."
        yield "    platform: windows-2022"
        yield "    connection: {transport: psrp, user: halligan}"


def _group(name: str, wanted: Collection[str], roles: Collection[str], *more: str) -> Iterator[str]:
    placed = ", ".join(role for role in wanted if role in roles)
    lines = [*([f"    roles: [{placed}]"] if placed else []), *more]
    yield f"  {name}:{'' if lines else ' {}'}"
    yield from lines


def _singles(sizes: Mapping[str, int], roles: Collection[str]) -> list[str]:
    return [name for name, wanted in _SINGLE.items() if sizes["controller"] and any(role in roles for role in wanted)]


def _nodes(sizes: Mapping[str, int], roles: Collection[str]) -> Iterator[str]:
    yield "nodes:" if any(sizes.values()) else "nodes: {}"
    for number in range(1, sizes["controller"] + 1):
        singles = [name for name in _singles(sizes, roles) if min(_ON[name], sizes["controller"]) == number]
        yield f"  ctl-{number}:"
        yield f"    groups: [{', '.join(['controller', *singles])}]"
        yield f"    address: 10.64.0.{10 + number}"
    yield from _range("net", sizes["network"], "network", 1)
    yield from _range("kvm", sizes["kvm"], "kvm", 2, 'mac: "52:54:00:00:00:01"', "profile: kvm")
    yield from _range("hv", sizes["hyperv"], "hyperv", 8)


def _range(stem: str, size: int, group: str, block: int, *more: str) -> Iterator[str]:
    """Yield one entry for all nodes of a kind; they have a block of 65,536 addresses or more in every network."""
    if size:
        last = str(size)
        yield f"  {stem}-[{'1'.zfill(len(last))}:{last}]:" if size > 1 else f"  {stem}-1:"
        yield f"    groups: [{group}]"
        yield f"    address: 10.{64 + block}.0.1"
        yield f"    addresses: {{tunnel: 10.{80 + block}.0.1, storage: 10.{96 + block}.0.1}}"
        yield from (f"    {line}" for line in more)


def _secrets(sizes: Mapping[str, int], roles: Collection[str]) -> Iterator[str]:
    placed = [role for name in _singles(sizes, roles) for role in _SINGLE[name] if role in roles]
    names = sorted(name for role in placed for name in _PLACEHOLDERS.get(role, ()))
    if names:
        yield "---"
        yield "# Not secrets: a plan needs values to tell that none is missing, and this site is never applied."
        yield "# A real site has these from `halligan secrets init`."
        yield from (f"{name}: placeholder" for name in names)
