"""The format of cluster.yml, version 1, as pydantic models. docs/spec.md explains every field with examples."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from orchestrator.yaml import Vaulted
from orchestrator.yaml.fields import DurationField, Model, RolloutModel, ShareField

__all__ = [
    "VERSION",
    "BmcModel",
    "BootModel",
    "ClusterModel",
    "ConnectionModel",
    "GroupModel",
    "NetworkModel",
    "NodeModel",
    "PolicyModel",
    "ProfileModel",
    "json_schema",
]

VERSION = 1

_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")


def _mac(text: str) -> str:
    mac = text.lower().replace("-", ":")
    if not _MAC.fullmatch(mac):
        raise PydanticCustomError("mac", 'must be a MAC address such as "52:54:00:00:00:01"')
    return mac


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    if any(isinstance(item, Vaulted) for item in value.values()):
        raise PydanticCustomError("vaulted", "cannot hold !vault values; only variables can")
    return value


Name = Annotated[str, Field(min_length=1)]
MacField = Annotated[
    str,
    AfterValidator(_mac),
    WithJsonSchema({"type": "string", "pattern": "^[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}$"}),
]
Vars = dict[str, Any]
Rule = Annotated[dict[str, Any], AfterValidator(_plain)]
Bindings = dict[str, list[Name]]
Positive = Annotated[int, Field(ge=1)]


class NetworkModel(Model):
    """One IP network of the site."""

    cidr: str = Field(description="Address range of the network.", examples=["10.77.0.0/24", "fd00:77::/64"])
    gateway: str = Field(default="", description="Address of the router in this network.", examples=["10.77.0.1"])
    vlan: int = Field(default=0, ge=0, le=4094, description="VLAN id of the network's frames; 0 means untagged.")
    mtu: int = Field(default=1500, ge=576, le=65535, description="Largest packet in bytes.")
    dns: list[Name] = Field(
        default_factory=list,
        description="Addresses of name servers, for machines that are installed.",
        examples=[["10.77.0.2"]],
    )


class ConnectionModel(Model):
    """How a host is reached. A narrower scope changes single fields; with another transport it starts anew."""

    transport: Literal["ssh", "winrm", "psrp", "local"] | None = Field(
        default=None,
        description="Protocol: ssh, winrm, psrp (PowerShell remoting) or local. Default: ssh.",
    )
    user: str | None = Field(default=None, description="Account to log in with.", examples=["halligan"])
    port: int | None = Field(default=None, ge=1, le=65535, description="TCP port; by default that of the transport.")
    private_key: str | None = Field(
        default=None,
        description="SSH private key file; relative to the site's folder, or ~/…",
        examples=["keys/id_ed25519"],
    )
    known_hosts: str | None = Field(
        default=None,
        description="File with the hosts' SSH keys; relative to the site's folder, or ~/…",
        examples=["known_hosts"],
    )
    proxy_command: str | None = Field(
        default=None,
        description="Command whose input and output are the connection to the host, as OpenSSH's ProxyCommand.",
        examples=["ssh -W %h:%p jump.example.net"],
    )


class ProfileModel(Model):
    """What a bare-metal machine gets installed."""

    image: Name = Field(description="Operating system image.", examples=["debian-12"])
    firmware: Literal["uefi", "bios"] = Field(default="uefi", description="How the machine boots.")
    root_disk: Rule = Field(
        default_factory=dict,
        description="Rule that picks the disk to install on, by properties that discovery finds.",
        examples=[{"type": "ssd", "size": ">= 100 GB"}],
    )
    expect: Rule = Field(
        default_factory=dict,
        description="Rule over discovered facts that a machine must meet before anything is written to it.",
        examples=[{"memory_gib": ">= 128", "disks": {"nvme": ">= 2"}}],
    )
    interfaces: Rule = Field(
        default_factory=dict,
        description="Bonds and the ports of further networks, by the name that the system gets.",
        examples=[{"bond0": {"members": ["nic0", "nic1"], "mode": "802.3ad", "networks": ["mgmt"]}}],
    )
    user_data: Rule = Field(
        default_factory=dict,
        description="cloud-config that is merged into Halligan's own for the first start of the system.",
        examples=[{"timezone": "Europe/Zurich"}],
    )


class BootModel(Model):
    """How machines boot over the network."""

    network: Name = Field(description="Network in which machines boot and are installed.", examples=["mgmt"])
    dhcp: Literal["server", "proxy", "off"] = Field(
        default="server",
        description="server: Halligan leases addresses; proxy: beside another DHCP server; off: that one says it all.",
    )
    range: str = Field(
        default="",
        description="First and last address to lease while machines are discovered and installed.",
        examples=["10.77.0.100-10.77.0.199"],
    )
    interface: str = Field(
        default="", description="Network interface of this controller. Default: the one with an address in the network."
    )
    address: str = Field(
        default="", description="Address by which machines call this controller. Default: that of the interface."
    )
    http_port: int = Field(default=8090, ge=1, le=65535, description="TCP port for boot scripts and images.")
    https_port: int = Field(default=8443, ge=1, le=65535, description="TCP port of the agent's API.")
    unknown: Literal["discover", "ignore"] = Field(
        default="discover",
        description="What machines get that no node names: discover them (never install), or ignore them.",
    )


class BmcModel(Model):
    """Where the power of a machine is controlled."""

    driver: Name = Field(description="Protocol: redfish, ipmi, or manual (a person).", examples=["redfish", "ipmi"])
    address: Name = Field(
        description="IP address or URL of the management controller. In a range: the first node's IP address.",
        examples=["10.90.0.11", "https://10.90.0.11/redfish/v1/Systems/1"],
    )
    credential: str = Field(default="", description="Name of the secret variable that holds user and password.")
    ca: str = Field(
        default="",
        description="File with the authority of an HTTPS endpoint's certificate; relative to the site's folder, or ~/…",
        examples=["keys/bmc-ca.pem"],
    )


class GroupModel(Model):
    """A named set of nodes; also an Ansible group."""

    roles: list[Name] = Field(default_factory=list, description="Roles for every node of the group.")
    vars: Vars = Field(
        default_factory=dict,
        description="Ansible variables of the group; group_vars/ files win over them.",
    )
    children: list[Name] = Field(default_factory=list, description="Groups whose nodes belong to this group, too.")
    bindings: Bindings = Field(
        default_factory=dict,
        description="Which nodes provide a capability to the nodes of this group, instead of the nearest ones.",
        examples=[{"database.mysql": ["db-2"]}],
    )
    platform: Name | None = Field(default=None, description="Platform of the group's nodes.", examples=["debian-12"])
    connection: ConnectionModel | None = Field(default=None, description="How the group's nodes are reached.")


class NodeModel(Model):
    """One host; or many of the same kind, when the name holds ranges such as kvm-[001:900]."""

    groups: list[Name] = Field(default_factory=list, description="Groups the node belongs to, besides all.")
    address: str = Field(
        default="",
        description="Management address. For a range: that of the first node, the others count up.",
        examples=["10.77.0.11"],
    )
    addresses: dict[str, str] = Field(
        default_factory=dict,
        description="Addresses in further networks, by network name. For a range: those of the first node.",
        examples=[{"tunnel": "10.78.0.11"}],
    )
    roles: list[Name] = Field(default_factory=list, description="Roles for this node, besides those of its groups.")
    vars: Vars = Field(
        default_factory=dict,
        description="Ansible variables of the node; host_vars/ files win over them.",
    )
    bindings: Bindings = Field(
        default_factory=dict,
        description="Which nodes provide a capability to this node, instead of the nearest ones.",
    )
    platform: Name | None = Field(
        default=None,
        description="Operating system. Default: that of the nearest group that names one, else debian-12.",
        examples=["debian-12", "windows-2022"],
    )
    connection: ConnectionModel | None = Field(default=None, description="How this node is reached.")
    lab: Literal["container", "vm"] | None = Field(
        default=None,
        description="`halligan lab up` makes this node on this machine: a system container, or a bare virtual machine.",
    )
    profile: str = Field(default="", description="Profile that is installed on a bare-metal machine.")
    mac: MacField = Field(
        default="",
        description="MAC address of the network port it boots from, in quotes. For a range: that of the first node.",
        examples=["52:54:00:00:00:01"],
    )
    serial: str = Field(
        default="", description="Serial number of the node's machine, as its firmware says it.", examples=["CZ3421MGJ7"]
    )
    match: Rule = Field(
        default_factory=dict,
        description="Rule over discovered facts that chooses the node's machine.",
        examples=[{"memory_gib": ">= 128", "disks": {"nvme": ">= 2"}, "lldp.switch": "leaf-3*"}],
    )
    wiring: Rule = Field(
        default_factory=dict,
        description="Network port -> switch and port that LLDP must show; anything else stops the install.",
        examples=[{"eno1": {"switch": "leaf-3a", "port": "Ethernet12"}}],
    )
    bmc: BmcModel | None = Field(default=None, description="Management controller of a bare-metal machine.")


class LimitsModel(Model):
    """How much may run at once."""

    steps: Positive = Field(default=100, description="Steps in flight.")
    batches: Positive = Field(default=24, description="Pushed batches at the same time, an ansible-playbook each.")
    batch: Positive = Field(default=50, description="Hosts of one pushed batch.")
    per_node: Positive = Field(default=1, description="Steps at the same time on one node.")
    roles: dict[str, Positive] = Field(
        default_factory=dict,
        description="Steps in flight per role.",
        examples=[{"keystone": 1}],
    )
    groups: dict[str, Positive] = Field(
        default_factory=dict,
        description="Steps in flight per group.",
        examples=[{"kvm": 200}],
    )
    installs: dict[str, Positive] = Field(
        default_factory=dict,
        description="Machines of a group that install at the same time: what a rack or a link can take.",
        examples=[{"all": 40, "rack_7": 8}],
    )


class RetryModel(Model):
    """Further tries after a failure."""

    unreachable: int = Field(default=2, ge=0, le=100, description="Further tries when a host cannot be reached.")
    failed: int = Field(default=0, ge=0, le=100, description="Further tries when a role fails on a host.")
    backoff: DurationField = Field(default=5.0, description="Pause before the first further try; it doubles each time.")


class TimeoutsModel(Model):
    """Longest run of one step."""

    default: DurationField = Field(default=3600.0, description="Limit for every role that is not named in roles.")
    roles: dict[str, DurationField] = Field(
        default_factory=dict,
        description="Limits for single roles.",
        examples=[{"mariadb": "30m"}],
    )


class BlastRadiusModel(Model):
    """How many nodes one plan may touch; a plan that would touch more is refused."""

    change: ShareField | None = Field(
        default=None, description="Nodes that may change in one apply. Default: no limit."
    )
    destroy: ShareField | None = Field(
        default=None, description="Nodes that may lose data in one apply. Default: no limit."
    )


ExecutorField = Literal["carry", "ansible"]


class ExecutorsModel(Model):
    """Who applies roles: carry takes a role to its host and runs it there, ansible runs it from the controller."""

    default: ExecutorField | None = Field(
        default=None,
        description="For what is not named below, wherever the host allows it. Default: chosen for each placement.",
    )
    roles: dict[str, ExecutorField] = Field(
        default_factory=dict,
        description="For single roles; wins over groups.",
        examples=[{"smoke": "ansible"}],
    )
    groups: dict[str, ExecutorField] = Field(
        default_factory=dict,
        description="For the nodes of single groups; of a node's groups the nearest one decides.",
        examples=[{"edge": "carry"}],
    )


class PolicyModel(Model):
    """How plans of this site are carried out."""

    limits: LimitsModel = Field(default_factory=LimitsModel, description="How much may run at once.")
    retry: RetryModel = Field(default_factory=RetryModel, description="Further tries after a failure.")
    timeouts: TimeoutsModel = Field(default_factory=TimeoutsModel, description="Longest run of one step.")
    blast_radius: BlastRadiusModel = Field(
        default_factory=BlastRadiusModel,
        description="How many nodes one plan may touch.",
    )
    rollout: dict[str, RolloutModel] = Field(
        default_factory=dict,
        description="In which portions a role reaches its hosts, by role; wins over the role's contract.",
        examples=[{"base": {"first": 1, "then": "25%", "stop_after": 2}}],
    )
    executors: ExecutorsModel = Field(
        default_factory=ExecutorsModel,
        description="Who applies roles; wins over what contracts ask for and over Halligan's own choice.",
    )
    facts_age: DurationField = Field(
        default=900.0,
        description="How long facts of a host are used again, unless a role changed something there; 0: never.",
    )


class ClusterModel(Model):
    """What a site should be: its networks, groups, nodes and policy."""

    spec: Literal[1] = Field(description="Version of this format.")
    networks: dict[str, NetworkModel] = Field(default_factory=dict, description="IP networks of the site, by name.")
    connection: ConnectionModel | None = Field(
        default=None, description="How nodes are reached, unless a group or node differs."
    )
    profiles: dict[str, ProfileModel] = Field(
        default_factory=dict, description="What bare metal gets installed, by name."
    )
    boot: BootModel | None = Field(default=None, description="How machines boot over the network.")
    groups: dict[str, GroupModel | None] = Field(
        default_factory=dict,
        description="Named sets of nodes. The group all holds every node.",
    )
    nodes: dict[str, NodeModel | None] = Field(
        default_factory=dict,
        description="Hosts by name. A name may hold ranges, as Ansible writes them: kvm-[001:900], rack[a:d]-[1:20].",
    )
    policy: PolicyModel = Field(default_factory=PolicyModel, description="How plans are carried out.")


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of cluster.yml, for editors and other tools."""
    schema = ClusterModel.model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "Halligan site (cluster.yml)",
    }
