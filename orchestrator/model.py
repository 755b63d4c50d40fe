"""The nouns of Halligan (design, section 2): frozen values that every room shares, with no behaviour of their own.

Dicts of unknown shape stop at the readers; from there on these types are trusted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NewType, TypeAlias

from orchestrator.errors import Location, Problem

Json: TypeAlias = Any  # a JSON value whose shape only its role knows
Value: TypeAlias = Any  # Json in which SecretRef and OutputRef may stand for values

MAGIC = ("node_name", "node_address", "node_addresses", "site_name")
"""Variables that Halligan gives to every host."""

CARRY = "carry"
"""The executor that ships a role to its host and runs it there; also the word for it in specs and contracts."""

PUSH = "ansible"
"""The executor that runs a role from the controller, task by task: Ansible as everybody knows it."""

EXECUTORS = (CARRY, PUSH)

METAL = "metal"
"""The executor of the life-cycle steps of bare metal (power, discover, match, install, ready); no spec names it."""

StepId = NewType("StepId", str)  # "keystone@ctl-1"; also the id of the placement it acts on
BarrierId = NewType("BarrierId", str)  # "identity.keystone<keystone@ctl-1"


# --- the spec -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A text that a part of the spec was read from, kept to find places in; `path` leads to that part of it."""

    file: str  # how messages name it
    text: str | bytes
    path: tuple[str | int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretRef:
    """A value that stays in the site's Vault-encrypted files: never in a plan, an event or the store.

    `file` is relative to the site folder, `key` is the variable's name in it. `fingerprint` is a keyed digest:
    it changes when the value changes and tells nothing about the value to someone without the Vault password.
    """

    file: str
    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputRef:
    """The output of steps that have not run yet ("known after apply").

    With `collect` "one" it becomes the first provider's value, with "list" the values in the providers' order.
    """

    providers: tuple[StepId, ...]
    output: str
    collect: str = "one"


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    name: str
    cidr: str
    gateway: str = ""
    vlan: int = 0  # 0: untagged
    mtu: int = 1500
    dns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """How the controller reaches a node. Paths are absolute; empty strings leave the transport's default."""

    transport: str = "ssh"  # ssh, winrm, psrp or local
    user: str = ""
    port: int = 0
    private_key: str = ""
    known_hosts: str = ""
    proxy_command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bmc:
    """Where a machine's power is controlled.

    `credential` names a secret variable with the keys `user` and `password`, and never holds one; `ca` is the file of
    the authority that signed an HTTPS endpoint's certificate, empty for the system's own authorities.
    """

    driver: str
    address: str
    credential: str = ""
    ca: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What bare metal gets installed: the image, the rule that picks the root disk, and what the hardware must be.

    `root_disk` and `expect` are rules over facts (`orchestrator/matching.py`), `interfaces` are bonds and VLANs as
    `orchestrator/seed.py` reads them, `user_data` is cloud-config that is merged into ours.
    """

    name: str
    image: str
    firmware: str = "uefi"
    root_disk: Mapping[str, Json] = field(default_factory=dict)
    expect: Mapping[str, Json] = field(default_factory=dict)
    interfaces: Mapping[str, Json] = field(default_factory=dict)
    user_data: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """How machines boot over the network: `network` names the one they boot in, empty if none does.

    `dhcp` is "server" (ours, leases from `first` to `last`), "proxy" (beside another server) or "off". `interface` is
    ours in that network, found by its address if empty; `address` is what machines call us by. `unknown` is what a
    machine gets that no node names: "discover" or "ignore".
    """

    network: str = ""
    dhcp: str = "server"
    first: str = ""
    last: str = ""
    interface: str = ""
    address: str = ""
    http_port: int = 8090
    https_port: int = 8443
    unknown: str = "discover"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A named set of nodes; also an Ansible group. `vars` come from cluster.yml, `file_vars` from group_vars/."""

    name: str
    roles: tuple[str, ...] = ()
    children: tuple[str, ...] = ()
    vars: Mapping[str, Value] = field(default_factory=dict)
    file_vars: Mapping[str, Value] = field(default_factory=dict)
    bindings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # capability -> node names
    where: Location | None = None
    sources: tuple[Source, ...] = field(default=(), compare=False, repr=False)  # of vars, then of file_vars


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One host. `groups` holds every group it belongs to, parents included, parents before children, then by name."""

    name: str
    platform: str = "debian-12"
    address: str = ""
    addresses: Mapping[str, str] = field(default_factory=dict)  # network -> address
    groups: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()  # roles of this node alone, beside those of its groups
    vars: Mapping[str, Value] = field(default_factory=dict)
    file_vars: Mapping[str, Value] = field(default_factory=dict)
    bindings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    connection: Connection = field(default_factory=Connection)
    lab: str = ""  # "container" or "vm": a local machine made by `halligan lab up`
    profile: str = ""
    mac: str = ""
    serial: str = ""
    match: Mapping[str, Json] = field(default_factory=dict)  # rule over facts that chooses the node's machine
    wiring: Mapping[str, Json] = field(default_factory=dict)  # NIC -> switch and port that LLDP must show
    bmc: Bmc | None = None
    where: Location | None = None
    sources: tuple[Source, ...] = field(default=(), compare=False, repr=False)  # of vars, then of file_vars


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A count or a percentage of some total, as policies write it: 3, or "25%"."""

    count: int = 0
    percent: float = 0.0

    def of(self, total: int) -> int:
        """How many of `total` this is; at least 1 for any positive share."""
        if self.percent:
            return max(1, int(total * self.percent / 100))
        return self.count

    def __str__(self) -> str:
        return f"{self.percent:g}%" if self.percent else str(self.count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """`first` canaries, then `then` at a time; after `stop_after` failures the rest of the role is skipped."""

    first: Share = Share()
    then: Share = Share(percent=100.0)
    stop_after: int = 0  # 0: never


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much runs at once: steps in flight, executor calls, hosts per call, steps per node."""

    steps: int = 100
    batches: int = 24
    batch: int = 50
    per_node: int = 1
    roles: Mapping[str, int] = field(default_factory=dict)
    groups: Mapping[str, int] = field(default_factory=dict)
    installs: Mapping[str, int] = field(default_factory=dict)  # group -> machines of it that install at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Further tries per kind of failure, and the first pause; each next pause doubles."""

    unreachable: int = 2
    failed: int = 0
    backoff_s: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Longest run of one step, in seconds."""

    default_s: float = 3600.0
    roles: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlastRadius:
    """How many nodes one plan may touch (`change`) or erase something on (`destroy`). None: no limit."""

    change: Share | None = None
    destroy: Share | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Executors:
    """Which executor a site asks for, CARRY or PUSH: a role's wins over a group's, and that over the default.

    `places` says where each stands, by "roles.NAME" and "groups.NAME": for messages, no part of what is asked for.
    """

    roles: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    default: str = ""  # empty: whatever suits
    places: Mapping[str, Location] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    limits: Limits = Limits()
    retry: Retry = Retry()
    timeouts: Timeouts = Timeouts()
    blast_radius: BlastRadius = BlastRadius()
    rollout: Mapping[str, Rollout] = field(default_factory=dict)  # role -> rollout, wins over the contract's
    executors: Executors = Executors()
    facts_age_s: float = 900.0  # how long gathered facts are used again


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What a site should be: the parsed, validated content of its folder."""

    site: str
    networks: Mapping[str, Network]
    profiles: Mapping[str, Profile]
    groups: Mapping[str, Group]  # always holds "all"
    nodes: Mapping[str, Node]
    boot: Boot = Boot()
    policy: Policy = Policy()
    digest: str = ""
    problems: tuple[Problem, ...] = ()  # warnings only; errors are raised
    source: Source | None = field(default=None, compare=False, repr=False)


# --- the catalogue ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One input of a role, from meta/argument_specs.yml (entry point `main`)."""

    name: str
    type: str = "str"
    required: bool = False
    default: Json = None
    choices: tuple[Json, ...] = ()
    elements: str = ""
    options: Mapping[str, Option] = field(default_factory=dict)
    secret: bool = False  # no_log: true
    description: str = ""


class Scope(StrEnum):
    """How far from a node a provider may be."""

    NODE = "node"
    GROUP = "group"
    SITE = "site"


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """An allowed number, written "1", "1..3", "0..": `most` None means no upper bound."""

    least: int = 1
    most: int | None = None

    def __str__(self) -> str:
        if self.most == self.least:
            return str(self.least)
        return f"{self.least}..{'' if self.most is None else self.most}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    capability: str
    scope: Scope = Scope.SITE
    count: Count = Count()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """Where an input's value comes from: an output of a capability's provider, or a fact of the site."""

    capability: str = ""
    output: str = ""
    collect: str = "one"  # or "list"
    site: str = ""  # "hosts", "providers" or "peers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A value a role gives to others: a Jinja expression evaluated on the host, or the name of a secret option."""

    name: str
    type: str = "str"
    description: str = ""
    value: Json = None
    secret: str = ""
    depends: frozenset[str] | None = None  # the variables that decide it; None when tasks of the role do


@dataclass(frozen=True, slots=True, kw_only=True)
class Cardinality:
    """How many placements of a role may exist per `per` ("site" or "group"); with `quorum`, an odd number only."""

    per: Scope = Scope.SITE
    count: Count = Count(least=0)
    quorum: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A rule that the values of each placement must keep before anything runs (docs/contracts.md).

    `that` is a Jinja expression, `message` a template that says what is wrong, `option` the one to point at.
    """

    that: str
    message: str
    option: str = ""
    hint: str = ""
    where: Location | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """A role and what it promises and needs across hosts. `digest` covers every file that decides what it does."""

    role: str
    description: str = ""
    digest: str = ""
    path: str = ""
    provides: tuple[str, ...] = ()
    requires: tuple[Requirement, ...] = ()
    after: tuple[str, ...] = ()
    inputs: Mapping[str, Wire] = field(default_factory=dict)
    outputs: Mapping[str, Output] = field(default_factory=dict)
    cardinality: Cardinality = Cardinality()
    platforms: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()
    rollout: Rollout | None = None
    removable: bool = False  # has tasks/remove.yml
    destroys: str = ""  # what removal erases; empty: nothing
    options: Mapping[str, Option] = field(default_factory=dict)
    references: frozenset[str] = frozenset()  # variables that its defaults mention and that it does not define
    variables: Mapping[str, Json] = field(default_factory=dict)  # its own, from defaults and vars, that are no options
    checks: tuple[Check, ...] = ()
    executor: str = ""  # CARRY or PUSH: what the contract asks for; empty: whatever suits
    controller: str = ""  # why only the controller can run it, "delegate_to in tasks/main.yml:12"; empty: it need not
    includes: tuple[str, ...] = ()  # the roles that its tasks include by name, directly or not
    where: Location | None = None

    def supports(self, platform: str) -> bool:
        """Whether the role runs on `platform`; "debian" covers "debian-12", no list covers everything."""
        return not self.platforms or any(platform == p or platform.startswith(f"{p}-") for p in self.platforms)


Catalog: TypeAlias = Mapping[str, Contract]


# --- the topology -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """A capability and the placements that provide it for some consumers; one vertex of the graph, shared by all."""

    id: BarrierId
    capability: str
    providers: tuple[StepId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Role x node. `inputs` is shared with every placement that has the same values; treat it as frozen."""

    id: StepId
    role: str
    node: str
    inputs: Mapping[str, Value]
    needs: tuple[BarrierId, ...] = ()
    after: tuple[BarrierId, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """Who runs what, with what, bound to whom."""

    spec: Spec
    catalog: Catalog
    placements: Mapping[StepId, Placement]
    bindings: Mapping[BarrierId, Binding]
    problems: tuple[Problem, ...] = ()  # warnings only; errors are raised


# --- the plan -----------------------------------------------------------------------------------------------------


class Action(StrEnum):
    CREATE = "create"
    UPDATE = "update"
    REMOVE = "remove"
    CHECK = "check"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One unit of a plan.

    `needs` must have succeeded first, `after` only orders; both name steps or barriers of the same plan.
    `digest` is the fingerprint that a success will record, empty while an input is known only after apply.
    `last` is the fingerprint of the last success, empty if there was none.
    `executor` is who does it, CARRY or PUSH; `executor_reason` says why in one line, empty when that is a matter of
    course.
    """

    id: StepId
    action: Action
    role: str
    node: str
    reasons: tuple[str, ...]
    inputs: Mapping[str, Value]
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    digest: str = ""
    last: str = ""
    destroys: str = ""
    expected_s: float = 0.0  # from recorded history; 0: none recorded
    executor: str = PUSH
    executor_reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Barrier:
    """A capability as a vertex: done when all of `needs` succeeded."""

    id: BarrierId
    capability: str
    needs: tuple[StepId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanNode:
    """What a step needs to know of its host."""

    name: str
    platform: str
    address: str
    connection: Connection
    groups: tuple[str, ...] = ()
    addresses: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRole:
    """What a step needs to know of its role; `digest` must still be that of the role's files when it is applied."""

    name: str
    digest: str
    outputs: Mapping[str, Json] = field(default_factory=dict)  # name -> Jinja expression
    facts: tuple[str, ...] = ()
    rollout: Rollout | None = None
    removable: bool = False
    includes: tuple[str, ...] = ()  # the roles that it includes, directly or not: whoever ships it ships them too
    members: tuple[StepId, ...] = ()  # of a role with a quorum: its placements that have worked before this plan
    down: Mapping[StepId, str] = field(default_factory=dict)  # those of them known to be down, and how that is known


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A self-contained, sorted document: apply runs it and nothing that is not in it.

    `id` is the SHA-256 of everything else in it, so a changed or truncated plan is noticed.
    """

    id: str
    site: str
    base_revision: int
    spec_digest: str
    complete: bool
    steps: tuple[Step, ...]
    barriers: tuple[Barrier, ...]
    nodes: Mapping[str, PlanNode]
    roles: Mapping[str, PlanRole]
    policy: Policy
    unchanged: int = 0
    total_nodes: int = 0
    selection: tuple[str, ...] = ()  # the filters it was made with, as the user wrote them
    undiscovered: tuple[str, ...] = ()  # nodes that a rule chooses the machine of, and no machine is known for
    deferred: int = 0  # placements that wait for these nodes: a later plan has them
    fingerprints: Mapping[str, Fingerprint] = field(default_factory=dict)  # by digest, for steps whose digest is known


# --- what happened ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """What a success was made of; names the changed part when the next one differs."""

    role: str
    platform: str
    inputs: Mapping[str, str]  # input -> digest of its value


class Status(StrEnum):
    OK = "ok"
    CHANGED = "changed"
    FAILED = "failed"
    SKIPPED = "skipped"
    UNREACHABLE = "unreachable"

    @property
    def good(self) -> bool:
        return self in (Status.OK, Status.CHANGED)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRun:
    """One step as handed to an executor: every output is a value by now, secrets are still references.

    `digest` and `fingerprint` are what a success will record.
    """

    step: StepId
    node: PlanNode
    inputs: Mapping[str, Value]
    attempt: int = 1
    digest: str = ""
    fingerprint: Fingerprint | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The steps that one executor call runs together: one role, one action, one executor, many hosts."""

    id: str
    role: PlanRole
    action: Action
    runs: tuple[StepRun, ...]
    timeout_s: float
    check: bool = False  # change nothing, report what would change
    executor: str = PUSH
    facts_age_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one step came to. `problem` says why in one line, `log` is the step's own output."""

    step: StepId
    status: Status
    outputs: Mapping[str, Json] = field(default_factory=dict)
    problem: str = ""
    log: str = ""
    seconds: float = 0.0
    attempt: int = 1
    unrun: bool = False  # late no-op: the inputs turned out as last time
    cause: StepId | None = None  # of a skip: the step whose failure is the root


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """The child process of a batch. The start time (clock ticks since boot) tells it from a later one of that pid.

    `folder` is where it leaves what a later controller can read after a crash.
    """

    batch: str
    pid: int
    start_time: float
    folder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An appended fact. `seq` is given by the store; `at` is UTC seconds since the epoch."""

    kind: str
    at: float
    run: str = ""
    node: str = ""
    step: str = ""
    data: Mapping[str, Json] = field(default_factory=dict)
    seq: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementState:
    """What we believe of a placement: its last outcome, and the fingerprint and outputs of its last success.

    `drifted_at` is when a check first found that the host no longer is as that success left it; 0: it has not.
    """

    id: StepId
    role: str
    node: str
    status: Status
    digest: str = ""
    outputs: Mapping[str, Json] = field(default_factory=dict)
    at: float = 0.0
    seconds: float = 0.0
    run: str = ""
    drifted_at: float = 0.0

    @property
    def settled(self) -> bool:
        """Whether the last run succeeded and nothing is known to have changed since."""
        return self.status.good and not self.drifted_at


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """The last connection that worked for a node, so that a node gone from the spec can still be cleaned."""

    name: str
    node: PlanNode


# --- machines -----------------------------------------------------------------------------------------------------


class Phase(StrEnum):
    """Where a machine is in its life (`orchestrator/lifecycle.py` has the table of what leads where)."""

    ENROLLED = "enrolled"
    DISCOVERING = "discovering"
    DISCOVERED = "discovered"
    CLAIMED = "claimed"
    INSTALLING = "installing"
    INSTALLED = "installed"
    READY = "ready"
    FAILED = "failed"
    RESCUE = "rescue"
    RETIRING = "retiring"
    RETIRED = "retired"


class Failure(StrEnum):
    """What kind of thing went wrong with a machine; messages say the rest."""

    POWER = "power"  # the BMC refuses, lies or is silent
    BOOT = "boot"  # it never came up over the network
    IDENTITY = "identity"  # it is not the machine that was meant, or two claim to be it
    HARDWARE = "hardware"  # wiring, SKU or disks are not what the spec expects
    IMAGE = "image"  # the image is missing, damaged or does not fit
    DISK = "disk"  # the disk is gone, too small or refused to be written
    INTERRUPTED = "interrupted"  # it restarted or lost power in the middle
    TIMEOUT = "timeout"  # no sign of progress for too long
    LOGIN = "login"  # installed, but nobody can log in
    ERASE = "erase"  # a disk could not be erased, or not proven to be


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What tells one machine from another, as it says itself: normalised, without what every board of a kind shares.

    `uuid` is the SMBIOS system UUID in lower case, `serials` are those of chassis, board and system, `macs` are the
    addresses of its NICs in lower case with colons, sorted.
    """

    uuid: str = ""
    serials: tuple[str, ...] = ()
    macs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a machine in the discovery image is told to do: a task of the agent with its arguments. Holds no secret."""

    id: str
    task: str  # install, erase, reboot, poweroff or rescue
    args: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineState:
    """What we believe of a piece of hardware. `node` is who claimed it, empty for nobody.

    `facts` is the digest of the last facts, `credential` the SHA-256 of the key it shows us, `level` how full the
    facts are ("", "basic", "full"). `seen` and `since` are UTC seconds: its last event, and the start of the phase.
    `before` is the phase that a rescue goes back to. `image` is what was written to it, `host_keys` are the public
    SSH host keys ("ssh-ed25519 AAAA...") that its operating system has.
    """

    id: str
    phase: Phase
    identity: Identity = Identity()
    node: str = ""
    failure: str = ""  # a Failure
    reason: str = ""
    before: str = ""
    since: float = 0.0
    seen: float = 0.0
    facts: str = ""
    level: str = ""
    credential: str = ""
    order: Order | None = None
    image: str = ""
    host_keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The fold of all events: what we believe now. `durations` is the mean seconds of a changed run per role."""

    revision: int = 0
    placements: Mapping[StepId, PlacementState] = field(default_factory=dict)
    nodes: Mapping[str, NodeState] = field(default_factory=dict)
    fingerprints: Mapping[str, Fingerprint] = field(default_factory=dict)
    durations: Mapping[str, float] = field(default_factory=dict)
    machines: Mapping[str, MachineState] = field(default_factory=dict)
