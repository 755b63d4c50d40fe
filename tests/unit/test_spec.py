"""The reader of a site: what it returns, and how it explains everything that is wrong."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import string
from pathlib import Path

import jsonschema
import pytest
from ansible.plugins.inventory import expand_hostname_range
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import spec, yaml
from orchestrator.errors import HalliganError, Location, Problem, ProblemsError
from orchestrator.model import Connection, Rollout, SecretRef, Share
from orchestrator.spec import SiteFiles, SourceFile, ranges, schema
from orchestrator.spec.nodes import MAX_NODES
from orchestrator.spec.schema import ClusterModel
from orchestrator.yaml.fields import RolloutModel

ENVELOPE = "$ANSIBLE_VAULT;1.1;FAKE"


class FakeVault:
    """Encrypts by writing a header; fingerprints like a real one would: equal for equal values only."""

    def __init__(self, locked=""):
        self.locked = locked

    def decrypt(self, text):
        if self.locked:
            raise HalliganError(self.locked, hint="give the password")
        return text.strip().removeprefix(ENVELOPE).strip()

    def fingerprint(self, value):
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def vaulted(text):
    return f"{ENVELOPE}\n{text}"


def files(cluster, group_vars=(), host_vars=(), **options):
    def sources(kind, given):
        found = {}
        for path, text in dict(given).items():
            name = path.split("/")[0].split(".")[0]
            source = SourceFile(path=f"{kind}/{path}", shown=f"{kind}/{path}", text=text.encode())
            found[name] = (*found.get(name, ()), source)
        return found

    text = cluster if isinstance(cluster, bytes) else cluster.encode()
    return SiteFiles(
        site="demo",
        folder="/sites/demo",
        home="/home/me",
        cluster=SourceFile(path="cluster.yml", shown="cluster.yml", text=text),
        group_vars=sources("group_vars", group_vars),
        host_vars=sources("host_vars", host_vars),
        **options,
    )


def read(cluster, *, vault=None, **given):
    return spec.read(files(cluster, **given), vault or FakeVault())


def problems_of(cluster, **given):
    with pytest.raises(ProblemsError) as caught:
        read(cluster, **given)
    return caught.value.problems


def problem_of(cluster, **given):
    (problem,) = problems_of(cluster, **given)
    return problem


def at(problem):
    return problem.where.line, problem.where.column


SITE = """\
spec: 1
networks:
  mgmt: {cidr: 10.77.0.0/24, gateway: 10.77.0.1}
  compute: {cidr: 10.20.0.0/16}
  tunnel: {cidr: 10.78.0.0/24, mtu: 9000, vlan: 20}
connection: {user: halligan, private_key: keys/id, known_hosts: ~/known}
profiles:
  kvm: {image: debian-12, root_disk: {type: ssd}}
boot: {network: mgmt, range: 10.77.0.100-10.77.0.199}
groups:
  all: {roles: [base]}
  linux: {children: [controller, kvm]}
  controller: {roles: [time], vars: {x: 1}, bindings: {database.mysql: [ctl-1]}}
  kvm:
  hyperv: {platform: windows-2022, connection: {transport: psrp, user: Administrator}}
nodes:
  ctl-1: {groups: [controller], address: 10.77.0.11, addresses: {tunnel: 10.78.0.11}, lab: container}
  kvm-[008:011]: {groups: [kvm], address: 10.20.0.254, mac: 52:54:00:00:00:FE, profile: kvm, vars: {y: 2}}
  hv-1: {groups: [hyperv], address: 10.77.0.20, bmc: {driver: redfish, address: 10.77.0.99, credential: bmc_login}}
policy:
  limits: {steps: 10, groups: {kvm: 2}}
  retry: {backoff: 90s}
  timeouts: {default: 1h30m, roles: {mariadb: 30m}}
  blast_radius: {change: 50%, destroy: 3}
  rollout: {base: {first: 1, then: 25%, stop_after: 2}}
"""


METAL = """\
spec: 1
networks: {m: {cidr: 10.7.0.0/24}}
boot: {network: m, range: 10.7.0.9-10.7.0.19}
profiles: {p: {image: x}}
"""


# --- what is read -------------------------------------------------------------------------------------------------


def test_a_site_is_read_into_typed_values():
    found = read(SITE)
    assert found.site == "demo"
    assert list(found.nodes) == ["ctl-1", "kvm-008", "kvm-009", "kvm-010", "kvm-011", "hv-1"]
    node = found.nodes["ctl-1"]
    assert (node.address, node.addresses, node.lab) == ("10.77.0.11", {"tunnel": "10.78.0.11"}, "container")
    assert found.networks["tunnel"].vlan == 20
    assert found.networks["mgmt"].gateway == "10.77.0.1"
    assert found.profiles["kvm"].root_disk == {"type": "ssd"}
    assert found.groups["controller"].bindings == {"database.mysql": ("ctl-1",)}
    assert found.nodes["hv-1"].bmc.credential == "bmc_login"
    assert found.problems == ()


def test_a_range_counts_addresses_and_macs_up():
    nodes = [node for node in read(SITE).nodes.values() if node.name.startswith("kvm")]
    assert [node.address for node in nodes] == ["10.20.0.254", "10.20.0.255", "10.20.1.0", "10.20.1.1"]
    assert [node.mac[-5:] for node in nodes] == ["00:fe", "00:ff", "01:00", "01:01"]
    assert {id(node.vars) for node in nodes} == {id(nodes[0].vars)}


def test_management_controllers_of_a_range_count_up():
    text = "spec: 1\nnodes: {'n[1:3]': {bmc: {driver: redfish, address: 10.0.0.254}}}"
    assert [node.bmc.address for node in read(text).nodes.values()] == ["10.0.0.254", "10.0.0.255", "10.0.1.0"]


def test_groups_come_parents_first_then_by_name():
    text = """\
spec: 1
groups: {zoo: {children: [b, a]}, a: {children: [deep]}, b: {}, deep: {}, alone: {}}
nodes: {n1: {groups: [deep, b, alone]}, n2: {}}
"""
    found = read(text)
    assert found.nodes["n1"].groups == ("all", "alone", "zoo", "a", "b", "deep")
    assert found.nodes["n2"].groups == ("all",)


def test_the_group_all_exists_without_being_declared():
    assert read("spec: 1").groups["all"].roles == ()


def test_platform_and_connection_come_from_the_nearest_scope():
    text = """\
spec: 1
connection: {user: site, port: 2222, private_key: keys/id}
groups:
  linux: {platform: debian-12, connection: {user: linux}, children: [special]}
  special: {platform: ubuntu-24, connection: {port: 22}}
  windows: {platform: windows-2022, connection: {transport: psrp, user: Administrator}}
nodes:
  a: {groups: [special]}
  b: {groups: [special], platform: rocky-9, connection: {user: me, private_key: /abs/key, known_hosts: ~/hosts}}
  c: {groups: [windows]}
  d: {}
"""
    nodes = read(text).nodes
    assert nodes["a"].platform == "ubuntu-24"
    assert nodes["a"].connection == Connection(user="linux", port=22, private_key="/sites/demo/keys/id")
    assert nodes["b"].platform == "rocky-9"
    assert nodes["b"].connection == Connection(
        user="me",
        port=22,
        private_key="/abs/key",
        known_hosts="/home/me/hosts",
    )
    assert nodes["c"].connection == Connection(transport="psrp", user="Administrator")
    assert nodes["d"].platform == "debian-12"


def test_policy_is_read_with_units():
    policy = read(SITE).policy
    assert (policy.limits.steps, policy.limits.batch, policy.limits.groups) == (10, 50, {"kvm": 2})
    assert policy.retry.backoff_s == 90
    assert (policy.timeouts.default_s, policy.timeouts.roles) == (5400, {"mariadb": 1800})
    assert (policy.blast_radius.change, policy.blast_radius.destroy) == (Share(percent=50), Share(count=3))
    assert policy.rollout["base"] == Rollout(first=Share(count=1), then=Share(percent=25), stop_after=2)


def test_executors_are_read_with_their_places():
    cluster = "spec: 1\ngroups: {edge: }\npolicy:\n  executors:\n    default: ansible\n    groups: {edge: carry}\n"
    executors = read(cluster + "    roles:\n      smoke: ansible\n").policy.executors
    assert (executors.default, executors.groups, executors.roles) == (
        "ansible",
        {"edge": "carry"},
        {"smoke": "ansible"},
    )
    places = {name: (place.line, place.column) for name, place in executors.places.items()}
    assert places == {"groups.edge": (6, 14), "roles.smoke": (8, 7)}
    problem = problem_of(cluster.replace("{edge: carry}", "{egde: carry}"))
    assert (problem.code, at(problem)) == ("spec.unknown-group", (6, 14))
    assert 'Did you mean "edge"?' in problem.summary
    assert problem_of(cluster.replace("carry", "curry")).code == "spec.bad-value"


def test_every_node_knows_where_it_is_declared():
    nodes = read(SITE).nodes
    assert nodes["kvm-010"].where == Location(file="cluster.yml", line=18, column=3)
    assert read(SITE).groups["linux"].where == Location(file="cluster.yml", line=12, column=3)


def test_vars_files_stand_beside_the_vars_of_the_spec():
    found = read(
        SITE,
        group_vars={"controller/a.yml": "x: 1\ny: 2", "controller/b.yml": "y: 3", "all.yml": "z: 4"},
        host_vars={"kvm-009.yml": "w: 5"},
    )
    assert found.groups["controller"].vars == {"x": 1}
    assert found.groups["controller"].file_vars == {"x": 1, "y": 3}
    assert found.groups["all"].file_vars == {"z": 4}
    assert found.nodes["kvm-009"].file_vars == {"w": 5}
    assert found.nodes["kvm-010"].file_vars == {}


def test_an_empty_vars_file_sets_nothing():
    assert read("spec: 1", group_vars={"all.yml": "---\n"}).groups["all"].file_vars == {}


# --- secrets ------------------------------------------------------------------------------------------------------


def inline(text):
    return f"!vault |\n          {ENVELOPE}\n          {text}\n"


def test_encrypted_variables_become_references():
    text = f"""\
spec: 1
groups:
  all:
    vars:
      plain: 1
      login:
        user: me
        password: {inline("hush")}
nodes:
  n-[1:2]: {{vars: {{token: !vault "{ENVELOPE} s3cret"}}}}
"""
    found = read(text, group_vars={"all/secrets.yml": vaulted("db: geheim\nother: [1, 2]")})
    fingerprint = FakeVault().fingerprint
    assert found.groups["all"].vars == {
        "plain": 1,
        "login": SecretRef(
            file="cluster.yml",
            key="groups/all/vars/login",
            fingerprint=fingerprint({"user": "me", "password": "hush"}),
        ),
    }
    assert found.nodes["n-2"].vars["token"] == SecretRef(
        file="cluster.yml",
        key="nodes/n-[1:2]/vars/token",
        fingerprint=fingerprint("s3cret"),
    )
    assert found.groups["all"].file_vars == {
        "db": SecretRef(file="group_vars/all/secrets.yml", key="db", fingerprint=fingerprint("geheim")),
        "other": SecretRef(file="group_vars/all/secrets.yml", key="other", fingerprint=fingerprint([1, 2])),
    }
    assert not any(secret in repr(found) for secret in ("hush", "s3cret", "geheim"))


def test_a_missing_password_is_one_problem_that_names_the_files():
    problem = problem_of(
        f"spec: 1\ngroups:\n  kvm:\n    vars:\n      a: !vault '{ENVELOPE} x'\n",
        group_vars={"all/secrets.yml": vaulted("a: 1"), "kvm.yml": vaulted("b: 1")},
        vault=FakeVault(locked="there is no vault password"),
    )
    assert problem.code == "vault.locked"
    assert problem.summary == "there is no vault password"
    places = [str(problem.where), *problem.detail]
    assert sorted(place.split()[-1] for place in places) == [
        "cluster.yml:5:7",
        "group_vars/all/secrets.yml",
        "group_vars/kvm.yml",
    ]
    assert problem.hint == "give the password"


def test_a_mistake_in_an_encrypted_file_does_not_show_its_content():
    problem = problem_of("spec: 1", group_vars={"all.yml": vaulted("a: geheim\na: geheim")})
    assert problem.summary == "the decrypted text has a mistake at group_vars/all.yml:2:1"
    assert "geheim" not in str(problem)


def test_only_variables_can_be_encrypted():
    problem = problem_of("spec: 1\nnodes:\n  a:\n    address: !vault x\n")
    assert (at(problem), problem.summary) == ((4, 5), "nodes.a.address must be text, not a !vault value")
    assert "vars:" in problem.hint
    problem = problem_of("spec: 1\nprofiles:\n  a: {image: x, root_disk: {size: !vault x}}\n")
    assert "root_disk cannot hold !vault values" in problem.summary


# --- the digest ---------------------------------------------------------------------------------------------------


def test_the_digest_is_about_meaning():
    digest = read(SITE).digest
    assert read(SITE + "# a comment\n").digest == digest
    assert read(SITE.replace("steps: 10, groups: {kvm: 2}", "groups: {kvm: 2}, steps: 10")).digest == digest
    assert read(SITE.replace("x: 1", "x: 2")).digest != digest
    assert read(SITE, group_vars={"all.yml": "a: 1"}).digest != digest


def test_the_digest_knows_secrets_by_their_fingerprints():
    def digest(secret, comment=""):
        text = f"spec: 1\ngroups: {{all: {{vars: {{a: !vault '{ENVELOPE} {secret}'}}}}}}{comment}\n"
        return read(text, group_vars={"all.yml": vaulted(f"b: {secret}")}).digest

    assert digest("one") == digest("one", "  # same")
    assert digest("one") != digest("two")


# --- mistakes: form -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "column", "code", "summary", "hint"),
    [
        ("", 1, 1, "spec.version", "must be a mapping", "spec: 1"),
        ("- a", 1, 1, "spec.version", "must be a mapping (key: value), not a list", ""),
        ("nodes: {}", 1, 1, "spec.version", 'needs the key "spec"', "spec: 1"),
        ("spec: 2", 1, 1, "spec.version", "format version 2; this Halligan reads version 1", "newer"),
        ("a: 1\nspec: '1'", 2, 1, "spec.version", 'format version "1"', ""),
        ("spec: true", 1, 1, "spec.version", "format version true", ""),
        (
            "spec: 1\nndoes: {}",
            2,
            1,
            "spec.unknown-key",
            'unknown key "ndoes" at the top level. Did you mean "nodes"?',
            "networks",
        ),
        (
            "spec: 1\nnodes:\n  a: {adress: 10.0.0.1}",
            3,
            7,
            "spec.unknown-key",
            'unknown key "adress" in nodes.a. Did you mean "address"?',
            "known keys: address, addresses,",
        ),
        (
            "spec: 1\npolicy:\n  limits: {step: 1}",
            3,
            12,
            "spec.unknown-key",
            'in policy.limits. Did you mean "steps"?',
            "batch",
        ),
        (
            "spec: 1\nnodes: {a: {connection: {prot: 22}}}",
            2,
            26,
            "spec.unknown-key",
            'in nodes.a.connection. Did you mean "port"?',
            "",
        ),
        ("spec: 1\nnodes: [a]", 2, 1, "spec.wrong-type", "nodes must be a mapping (key: value), not a list", ""),
        (
            "spec: 1\nnodes:",
            2,
            1,
            "spec.wrong-type",
            "nodes must be a mapping (key: value), not empty",
            "take the key out",
        ),
        ("spec: 1\nnodes: {a: x}", 2, 9, "spec.wrong-type", 'nodes.a must be a mapping (key: value), not "x"', ""),
        (
            "spec: 1\ngroups: {a: {roles: base}}",
            2,
            14,
            "spec.wrong-type",
            'groups.a.roles must be a list, not "base"',
            "",
        ),
        (
            "spec: 1\ngroups: {a: {roles: [1]}}",
            2,
            22,
            "spec.wrong-type",
            "groups.a.roles[0] must be text, not 1",
            "quotes",
        ),
        (
            'spec: 1\nconnection: {port: "22"}',
            2,
            14,
            "spec.wrong-type",
            'connection.port must be a whole number, not "22"',
            "",
        ),
        ("spec: 1\nconnection: {port: 70000}", 2, 14, "spec.bad-value", "port must be at most 65535, not 70000", ""),
        (
            "spec: 1\nconnection: {transport: shh}",
            2,
            14,
            "spec.bad-value",
            'connection.transport must be ssh, winrm, psrp or local, not "shh". Did you mean "ssh"?',
            "",
        ),
        (
            "spec: 1\nnodes: {a: {lab: box}}",
            2,
            13,
            "spec.bad-value",
            'nodes.a.lab must be container or vm, not "box"',
            "",
        ),
        ("spec: 1\nnodes: {a: {mac: 52:54}}", 2, 13, "spec.bad-value", "nodes.a.mac must be a MAC address", ""),
        (
            "spec: 1\nnodes: {a: {bmc: {driver: x}}}",
            2,
            13,
            "spec.missing-key",
            'nodes.a.bmc needs the key "address"',
            "",
        ),
        ("spec: 1\nprofiles: {a: {}}", 2, 12, "spec.missing-key", 'profiles.a needs the key "image"', ""),
        ("spec: 1\nprofiles: {a: {image: ''}}", 2, 16, "spec.bad-value", "profiles.a.image must not be empty", ""),
        ("spec: 1\npolicy: {limits: {steps: 0}}", 2, 19, "spec.bad-value", "steps must be at least 1, not 0", ""),
        (
            "spec: 1\npolicy: {limits: {roles: {x: -1}}}",
            2,
            27,
            "spec.bad-value",
            "policy.limits.roles.x must be at least 1, not -1",
            "",
        ),
        (
            "spec: 1\npolicy: {blast_radius: {change: 500%}}",
            2,
            25,
            "spec.bad-value",
            'must be a count such as 3 or a percentage from "1%" to "100%", not "500%"',
            "",
        ),
        (
            "spec: 1\npolicy: {timeouts: {default: soon}}",
            2,
            21,
            "spec.bad-value",
            'must be a positive number of seconds, or a text such as "90s", "30m" or "1h", not "soon"',
            "",
        ),
        (
            "spec: 1\npolicy: {timeouts: {default: 0}}",
            2,
            21,
            "spec.bad-value",
            "must be a positive number of seconds",
            "",
        ),
        (
            "spec: 1\nnetworks: {m: {cidr: 10.0.0.0/8, vlan: 5000}}",
            2,
            34,
            "spec.bad-value",
            "vlan must be at most 4094",
            "",
        ),
        (
            "spec: 1\ngroups:\n  all:\n    vars: {a-b: 1}",
            4,
            12,
            "spec.variable-name",
            '"a-b" is not a variable name',
            "a_b",
        ),
        ("spec: 1\nnodes: {a: {vars: {1x: 1}}}", 2, 20, "spec.variable-name", '"1x" is not a variable name', "_1x"),
        ("spec: 1\nnodes: {a: {}, a: {}}", 2, 16, "yaml.duplicate-key", 'the key "a" stands twice in nodes', ""),
    ],
)
def test_a_mistake_of_form_is_explained_where_it_is(text, line, column, code, summary, hint):
    problem = problem_of(text)
    assert (problem.code, at(problem)) == (code, (line, column))
    assert summary in problem.summary
    assert hint in problem.hint


# --- mistakes: meaning --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "column", "code", "summary", "hint"),
    [
        (
            "spec: 1\ngroups: {kvm: }\nnodes:\n  a: {groups: [kvn]}",
            4,
            16,
            "spec.unknown-group",
            'nodes.a.groups[0] names the group "kvn", which does not exist. Did you mean "kvm"?',
            "under groups:",
        ),
        (
            "spec: 1\ngroups: {kvm: {children: [kvm1]}}",
            2,
            27,
            "spec.unknown-group",
            'names the group "kvm1", which does not exist. Did you mean "kvm"?',
            "",
        ),
        (
            "spec: 1\nprofiles: {big: {image: x}}\nnodes: {a: {profile: bog}}",
            3,
            13,
            "spec.unknown-profile",
            'names the profile "bog", which does not exist. Did you mean "big"?',
            "",
        ),
        (
            "spec: 1\nnetworks: {tunnel: {cidr: 10.0.0.0/24}}\nnodes: {a: {addresses: {tunel: 10.0.0.5}}}",
            3,
            25,
            "spec.unknown-network",
            'names the network "tunel", which does not exist. Did you mean "tunnel"?',
            "under networks:",
        ),
        (
            "spec: 1\ngroups: {g: {bindings: {db: [dn-1]}}}\nnodes: {db-1: {}}",
            2,
            30,
            "spec.unknown-node",
            'groups.g.bindings.db[0] names the node "dn-1", which does not exist. Did you mean "db-1"?',
            "",
        ),
        (
            "spec: 1\nnodes: {'db-[1:2]': {bindings: {db: ['db-[1:2]']}}}",
            2,
            38,
            "spec.bad-value",
            "a binding names single nodes",
            "",
        ),
        (
            "spec: 1\ngroups: {kvm: }\npolicy: {limits: {groups: {kvn: 2}}}",
            3,
            28,
            "spec.unknown-group",
            'names the group "kvn"',
            "",
        ),
        (
            "spec: 1\ngroups: {my-group: }",
            2,
            10,
            "spec.group-name",
            '"my-group" is not a group name',
            'for example "my_group"',
        ),
        (
            "spec: 1\ngroups: {all: {children: [a]}, a: }",
            2,
            16,
            "spec.group-cycle",
            "all holds every group already",
            "",
        ),
        (
            "spec: 1\nnodes: {web_1: {}}",
            2,
            9,
            "spec.node-name",
            '"web_1" is not a host name: "_" is not allowed',
            "web-1",
        ),
        (
            "spec: 1\nnodes: {-a: {}}",
            2,
            9,
            "spec.node-name",
            'is not a host name: "-a" begins or ends with a hyphen',
            "",
        ),
        ("spec: 1\nnodes: {a..b: {}}", 2, 9, "spec.node-name", "a part of it is empty", ""),
        (f"spec: 1\nnodes: {{{'a' * 64}: {{}}}}", 2, 9, "spec.node-name", "more than 63 characters", ""),
        (
            f"spec: 1\nnodes: {{{'.'.join(['a' * 50] * 6)}: {{}}}}",
            2,
            9,
            "spec.node-name",
            "more than 253 characters",
            "",
        ),
        ("spec: 1\nnodes: {10.0.0.1: {}}", 2, 9, "spec.node-name", "it is an IP address", ""),
        (
            "spec: 1\nnodes: {'a[3:1]': {}}",
            2,
            9,
            "spec.range",
            "has the range [3:1], which is reversed",
            "kvm-[001:900]",
        ),
        ("spec: 1\nnodes: {'a[c:a]': {}}", 2, 9, "spec.range", "reversed", ""),
        ("spec: 1\nnodes: {'a[]': {}}", 2, 9, "spec.range", "not of the form [first:last]", ""),
        ("spec: 1\nnodes: {'a[1-3]': {}}", 2, 9, "spec.range", "not of the form [first:last]", ""),
        ("spec: 1\nnodes: {'a[1:3': {}}", 2, 9, "spec.range", "without its counterpart", ""),
        ("spec: 1\nnodes: {'a[1:9:0]': {}}", 2, 9, "spec.range", "with a step of 0", ""),
        ("spec: 1\nnodes: {'a[01:100]': {}}", 2, 9, "spec.range", "the same number of digits", ""),
        ("spec: 1\nnodes: {'a[a:Z]': {}}", 2, 9, "spec.range", "letters of the same case", ""),
        ("spec: 1\nnodes: {'a[1:99999999999999999999]': {}}", 2, 9, "spec.range", "too long", ""),
        (
            "spec: 1\nnodes: {'a[1:999999999999]': {}}",
            2,
            9,
            "spec.too-many-nodes",
            f"the site has 999,999,999,999 nodes or more; at most {MAX_NODES:,} are possible",
            "",
        ),
        (
            "spec: 1\nnetworks: {m: {cidr: 10.0.0.7/24}}",
            2,
            16,
            "spec.network",
            "address of a host in a network",
            "10.0.0.0/24",
        ),
        ("spec: 1\nnetworks: {m: {cidr: office}}", 2, 16, "spec.network", 'is not a network: "office"', "10.77.0.0/24"),
        (
            "spec: 1\nnetworks: {m: {cidr: 10.0.0.0/24, gateway: 10.0.1.1}}",
            2,
            35,
            "spec.network",
            "the gateway 10.0.1.1 is outside of its network m (10.0.0.0/24)",
            "",
        ),
        (
            "spec: 1\nnetworks: {m: {cidr: 10.0.0.0/24, gateway: gw}}",
            2,
            35,
            "spec.address",
            'networks.m.gateway is not an IP address: "gw"',
            "",
        ),
        ("spec: 1\nnodes: {a: {address: 10.0.0.300}}", 2, 13, "spec.address", 'not an IP address: "10.0.0.300"', ""),
        (
            "spec: 1\nnetworks: {m: {cidr: 10.0.0.0/24}}\nnodes: {a: {address: 10.0.1.5}}",
            3,
            13,
            "spec.address-outside",
            "nodes.a.address: 10.0.1.5 is in none of the site's networks",
            "",
        ),
        (
            (
                "spec: 1\nnetworks: {m: {cidr: 10.0.0.0/24}, t: {cidr: 10.0.1.0/24}}\n"
                "nodes: {a: {addresses: {t: 10.0.0.5}}}"
            ),
            3,
            25,
            "spec.address-outside",
            "nodes.a.addresses.t: 10.0.0.5 is outside of the network t (10.0.1.0/24)",
            "belongs to the network m",
        ),
        (
            "spec: 1\nnetworks: {m: {cidr: 10.0.0.0/24}}\nnodes: {a: {address: 10.0.0.255}}",
            3,
            13,
            "spec.address",
            "10.0.0.255 is the broadcast address of m",
            "",
        ),
        (
            "spec: 1\nnetworks: {m: {cidr: 10.0.0.0/24}}\nnodes: {a: {address: 10.0.0.0}}",
            3,
            13,
            "spec.address",
            "10.0.0.0 is the network address of m",
            "",
        ),
        (
            "spec: 1\nnetworks: {m: {cidr: 10.0.0.0/24}}\nnodes: {'a[1:20]': {address: 10.0.0.240}}",
            3,
            21,
            "spec.range-addresses",
            "the network m (10.0.0.0/24) has 15 addresses from 10.0.0.240 on, and the range has 20 nodes",
            "larger network",
        ),
        (
            "spec: 1\nnetworks: {m: {cidr: 10.0.0.0/24, gateway: 10.0.0.9}}\nnodes: {'a[1:5]': {address: 10.0.0.5}}",
            3,
            20,
            "spec.duplicate-address",
            "10.0.0.9 is the gateway of the network m",
            "",
        ),
        (
            "spec: 1\nnodes: {'a[1:3]': {mac: ff:ff:ff:ff:ff:fe}}",
            2,
            20,
            "spec.range-addresses",
            "there are not 3 MAC addresses from",
            "",
        ),
        (
            "spec: 1\nnodes: {'a[1:3]': {bmc: {driver: redfish, address: 'https://x/1'}}}",
            2,
            43,
            "spec.address",
            "the management controllers of a range need an IP address",
            "an entry each",
        ),
        (
            f"{METAL}nodes: {{a: {{profile: p}}}}",
            5,
            9,
            "spec.no-machine",
            "nothing says which machine this bare-metal node is",
            "a mac, a serial, or a match rule",
        ),
        (
            "spec: 1\nprofiles: {p: {image: x}}\nnodes: {a: {profile: p, serial: S1}}",
            3,
            1,
            "spec.no-boot",
            "a is bare metal (it has a profile), and the site has no boot section",
            "network: NAME",
        ),
        (
            METAL.replace("10.7.0.9-", "10.7.0.99-") + "nodes: {}",
            3,
            20,
            "spec.boot",
            "ends before it begins",
            "",
        ),
        (
            METAL.replace("10.7.0.9-", "10.8.0.9-") + "nodes: {}",
            3,
            20,
            "spec.address-outside",
            "10.8.0.9 is outside of the network m",
            "",
        ),
        (
            METAL.replace("range: 10.7.0.9-10.7.0.19", "range: 10.7.0.9") + "nodes: {}",
            3,
            20,
            "spec.boot",
            "no range of addresses",
            "10.77.0.100-",
        ),
        (
            METAL.replace(", range: 10.7.0.9-10.7.0.19", "") + "nodes: {}",
            3,
            1,
            "spec.boot",
            "does not say which addresses it may lease",
            "range:",
        ),
        (
            METAL.replace("network: m,", "network: m, dhcp: proxy,") + "nodes: {}",
            3,
            33,
            "spec.boot",
            "with dhcp: proxy there is none",
            "one of the two",
        ),
        (
            f"{METAL}nodes: {{a: {{address: 10.7.0.12}}}}",
            3,
            20,
            "spec.boot",
            "would lease 10.7.0.12, which is the address of a",
            "out of the range",
        ),
        (
            f"{METAL}nodes: {{a: {{profile: p, serial: S, bmc: {{driver: redfsh, address: 1.2.3.4}}}}}}",
            5,
            42,
            "spec.bmc-driver",
            'Did you mean "redfish"?',
            "redfish, ipmi, manual",
        ),
        (
            f"{METAL}nodes: {{'a[1:2]': {{profile: p, serial: S}}}}",
            5,
            32,
            "spec.serial",
            "2 nodes cannot have one serial number",
            "an entry of its own",
        ),
        (
            f"{METAL}nodes: {{a: {{lab: vm, address: 10.7.0.2}}}}",
            5,
            9,
            "spec.lab-vm",
            "it needs profile and mac",
            "",
        ),
        (
            f"{METAL}nodes: {{a: {{profile: p, match: {{memory_gb: '>= 4'}}}}}}",
            5,
            33,
            "spec.rule",
            'nodes.a.match.memory_gb: is no property that a rule can use. Did you mean "memory_gib"?',
            "memory_gib",
        ),
        (
            METAL.replace("image: x", "image: x, root_disk: {size: big}") + "nodes: {}",
            4,
            38,
            "spec.rule",
            "profiles.p.root_disk.size",
            "",
        ),
    ],
)
def test_a_mistake_of_meaning_is_explained_where_it_is(text, line, column, code, summary, hint):
    problem = problem_of(text)
    assert (problem.code, at(problem)) == (code, (line, column))
    assert summary in problem.summary
    assert hint in problem.hint


@pytest.mark.parametrize(
    ("nodes", "code", "summary", "second", "first"),
    [
        ("  a-5: {}\n  a-[1:9]: {}\n", "spec.duplicate-node", 'the node "a-5" is defined twice', 4, 3),
        ("  web: {}\n  WEB: {}\n", "spec.duplicate-node", 'the node "WEB" is defined twice', 4, 3),
        (
            "  a: {address: 10.0.0.1}\n  b: {address: 10.0.0.1}\n",
            "spec.duplicate-address",
            "b has the address 10.0.0.1 of a",
            4,
            3,
        ),
        (
            "  a: {address: 10.0.0.5}\n  b[1:9]: {address: 10.0.0.1}\n",
            "spec.duplicate-address",
            "b5 has the address 10.0.0.5 of a",
            4,
            3,
        ),
        (
            "  a: {mac: 52:54:00:00:00:0A}\n  b: {mac: 52-54-00-00-00-0a}\n",
            "spec.duplicate-mac",
            "b has the MAC address 52:54:00:00:00:0a of a",
            4,
            3,
        ),
        (
            "  a: {bmc: {driver: ipmi, address: 10.9.9.9}}\n  b: {bmc: {driver: ipmi, address: 10.9.9.9}}\n",
            "spec.duplicate-bmc",
            "b has the management controller 10.9.9.9 of a",
            4,
            3,
        ),
    ],
)
def test_what_two_nodes_cannot_share_names_both(nodes, code, summary, second, first):
    problem = problem_of(f"spec: 1\nnodes:\n{nodes}")
    assert (problem.code, problem.summary, problem.where.line) == (code, summary, second)
    assert problem.detail[0].startswith(f"first at cluster.yml:{first}:")


def test_overlapping_ranges_are_one_problem():
    problem = problem_of("spec: 1\nnodes:\n  a[1:900]: {}\n  a[500:1000]: {}\n")
    assert problem.summary == 'the node "a500" is defined twice'
    assert problem.detail == ("first at cluster.yml:3:3", "and 400 more in the same places")


def test_a_range_that_makes_a_name_twice_is_a_problem():
    assert problem_of("spec: 1\nnodes:\n  a[1:11][1:11]: {}\n").summary == 'the node "a111" is defined twice'


def test_a_node_may_name_its_address_twice():
    text = "spec: 1\nnetworks: {m: {cidr: 10.0.0.0/24}}\nnodes: {a: {address: 10.0.0.5, addresses: {m: 10.0.0.5}}}"
    assert read(text).nodes["a"].addresses == {"m": "10.0.0.5"}


def test_overlapping_networks_are_named_both():
    problem = problem_of(
        "spec: 1\nnetworks:\n  a: {cidr: 10.0.0.0/16}\n  b: {cidr: 10.0.5.0/24}\n  c: {cidr: 10.1.0.0/16}"
    )
    assert at(problem) == (4, 7)
    assert problem.summary == "the networks b (10.0.5.0/24) and a (10.0.0.0/16) overlap"
    assert problem.detail == ("a is defined at cluster.yml:3:7",)


def test_a_cycle_of_groups_is_printed():
    groups = "{a: {children: [b]}, b: {children: [c]}, c: {children: [a]}, d: {children: [a]}}"
    text = f"spec: 1\ngroups: {groups}\nnodes: {{n: {{groups: [c]}}}}"
    problem = problem_of(text)
    assert problem.code == "spec.group-cycle"
    chain = problem.summary.partition(": ")[2].split(" > ")
    assert chain[0] == chain[-1]
    assert sorted(chain[1:]) == ["a", "b", "c"]
    assert all(following == {"a": "b", "b": "c", "c": "a"}[one] for one, following in itertools.pairwise(chain))


def test_one_unknown_group_is_one_problem_however_many_nodes_name_it():
    nodes = "".join(f"  n{i}: {{groups: [kvn]}}\n" for i in range(50))
    problem = problem_of(f"spec: 1\ngroups: {{kvm: }}\nnodes:\n{nodes}")
    assert at(problem) == (4, 17)
    assert problem.detail == (
        "also in nodes.n1.groups[0], cluster.yml:5:17",
        "also in nodes.n2.groups[0], cluster.yml:6:17",
        "also in nodes.n3.groups[0], cluster.yml:7:17",
        "and in 46 more places",
    )


def test_all_problems_of_a_site_come_out_at_once():
    text = """\
spec: 1
networks:
  mgmt: {cidr: 10.0.0.0/24}
groups:
  kvm: {roels: [x]}
nodes:
  a: {groups: [kvn], address: 10.0.0.1, prot: 22}
  b_1: {address: 10.0.0.2}
  c: {groups: [kvm], address: 10.0.0.1}
  d: {address: 10.9.9.9}
"""
    found = problems_of(text, group_vars={"all.yml": "a: 1\na: 2", "kvm.yml": "- 1"}, host_vars={"c.yml": "x: [\n"})
    assert [(str(problem.where), problem.code) for problem in found] == [
        ("cluster.yml:5:9", "spec.unknown-key"),
        ("cluster.yml:7:16", "spec.unknown-group"),
        ("cluster.yml:7:41", "spec.unknown-key"),
        ("cluster.yml:8:3", "spec.node-name"),
        ("cluster.yml:9:22", "spec.duplicate-address"),
        ("cluster.yml:10:7", "spec.address-outside"),
        ("group_vars/all.yml:2:1", "yaml.duplicate-key"),
        ("group_vars/kvm.yml:1:1", "spec.vars-file"),
        ("host_vars/c.yml:2:1", "yaml.syntax"),
    ]


def test_a_network_that_cannot_be_read_does_not_blame_its_nodes():
    networks = "{a: {cidr: 10.0.0.0/24}, b: {cdir: 10.1.0.0/24}}"
    text = f"spec: 1\nnetworks: {networks}\nnodes: {{n: {{address: 10.1.0.5, addresses: {{b: 10.1.0.6}}}}}}"
    assert {problem.code for problem in problems_of(text)} == {"spec.unknown-key", "spec.missing-key"}


def test_broken_yaml_does_not_hide_the_problems_of_other_files():
    codes = {problem.where.file for problem in problems_of("spec: 1\na: [", group_vars={"all.yml": "a: ]"})}
    assert codes == {"cluster.yml", "group_vars/all.yml"}


def test_many_problems_are_found_in_reasonable_time():
    """Places are found by one scan for all problems, and wrong parts are left out in one go."""
    nodes = "".join(f"  n{i}: {{adress: 10.0.0.1}}\n" for i in range(1000))
    assert len(problems_of(f"spec: 1\nnodes:\n{nodes}")) == 1000


def test_guesses_at_thousands_of_unknown_names_end_in_time():
    """A guess compares a name with those near it in the alphabet, and only the first hundred are made."""
    bindings = ", ".join(f"nod-{number:05}" for number in range(500))
    found = problems_of(f"spec: 1\nnodes:\n  node-[00001:20000]: {{bindings: {{db: [{bindings}]}}}}\n")
    assert len(found) == 500
    assert sum("Did you mean" in problem.summary for problem in found) == 100


# --- warnings -----------------------------------------------------------------------------------------------------


def test_vars_files_for_nobody_are_a_warning():
    found = read(SITE, group_vars={"contoller.yml": "a: 1"}, host_vars={"ctl-2.yml": "a: 1"}).problems
    assert [(problem.severity, str(problem.where)) for problem in found] == [
        ("warning", "group_vars/contoller.yml"),
        ("warning", "host_vars/ctl-2.yml"),
    ]
    assert 'the group "contoller", which does not exist. Did you mean "controller"?' in found[0].summary
    assert 'the node "ctl-2", which does not exist. Did you mean "ctl-1"?' in found[1].summary


def test_a_group_named_like_a_node_is_a_warning():
    (problem,) = read("spec: 1\ngroups: {web: }\nnodes: {web: {}}").problems
    assert (problem.severity, at(problem)) == ("warning", (2, 10))


def test_warnings_of_the_edge_are_passed_on():
    warning = Problem(code="spec.shadowed-vars", summary="not read", severity="warning")
    assert spec.read(files("spec: 1", problems=(warning,)), FakeVault()).problems == (warning,)


# --- ranges -------------------------------------------------------------------------------------------------------


@st.composite
def numeric(draw):
    first, length, step = draw(st.integers(0, 120)), draw(st.integers(0, 30)), draw(st.integers(1, 4))
    last = first + length
    width = draw(st.sampled_from([0, max(len(str(last)), 2)]))
    tail = f":{step}" if step > 1 or draw(st.booleans()) else ""
    names = [str(number).zfill(width) for number in range(first, last + 1, step)]
    return f"[{str(first).zfill(width)}:{str(last).zfill(width)}{tail}]", names


@st.composite
def alphabetic(draw):
    first, last = sorted(draw(st.lists(st.sampled_from(string.ascii_lowercase), min_size=2, max_size=2)))
    return f"[{first}:{last}]", [letter for letter in string.ascii_lowercase if first <= letter <= last]


@settings(deadline=None)
@given(st.lists(st.tuples(st.text("abz-", max_size=3), numeric() | alphabetic()), min_size=1, max_size=3))
def test_ranges_expand_as_in_ansible(parts):
    pattern = "".join(text + written for text, (written, _) in parts)
    naive = [""]
    for text, (_, names) in parts:
        naive = [head + text + name for head in naive for name in names]
    assert list(ranges.expand(pattern)) == naive
    assert ranges.count(pattern) == len(naive)
    assert expand_hostname_range(pattern) == naive


@settings(deadline=None)
@given(st.text("a[]:019-z", max_size=12))
def test_any_name_is_expanded_or_refused_in_words(text):
    try:
        names, refusal = list(itertools.islice(ranges.expand(text), 1000)), ""
    except ValueError as reason:
        names, refusal = [], str(reason)
    assert names or refusal.startswith("has ")
    assert not any("[" in name or "]" in name for name in names)


# --- the published schema -----------------------------------------------------------------------------------------


def validator():
    published = spec.json_schema()
    jsonschema.Draft202012Validator.check_schema(published)
    return jsonschema.Draft202012Validator(published)


def test_the_json_schema_accepts_what_is_read():
    validator().validate(yaml.load(SITE, "cluster.yml"))


@pytest.mark.parametrize(
    "text",
    [
        "nodes: {}",
        "spec: 2",
        "spec: 1\nndoes: {}",
        "spec: 1\nnodes: {a: {adress: 10.0.0.1}}",
        "spec: 1\nnodes: {a: {mac: 52:54}}",
        "spec: 1\nconnection: {transport: shh}",
        "spec: 1\npolicy: {timeouts: {default: soon}}",
        "spec: 1\npolicy: {rollout: {base: {first: 1.5}}}",
    ],
)
def test_the_json_schema_refuses_what_is_refused(text):
    problems_of(text)
    with pytest.raises(jsonschema.ValidationError):
        validator().validate(yaml.load(text, "cluster.yml"))


def test_every_field_of_the_json_schema_is_described():
    published = spec.json_schema()
    for name, definition in {"": published, **published["$defs"]}.items():
        assert definition["description"], name
        for field, about in definition["properties"].items():
            assert "description" in about or "$ref" in about, f"{name}.{field}"


# --- the reference ------------------------------------------------------------------------------------------------

REFERENCE = (Path(__file__).parents[2] / "docs" / "spec.md").read_text(encoding="utf-8")
SECTIONS = {
    "Top level": ClusterModel,
    "Networks": schema.NetworkModel,
    "Connection": schema.ConnectionModel,
    "Profiles": schema.ProfileModel,
    "Boot": schema.BootModel,
    "Groups": schema.GroupModel,
    "Nodes": schema.NodeModel,
    "Management controller": schema.BmcModel,
    "Policy": schema.PolicyModel,
    "Limits": schema.LimitsModel,
    "Retry": schema.RetryModel,
    "Timeouts": schema.TimeoutsModel,
    "Blast radius": schema.BlastRadiusModel,
    "Rollout": RolloutModel,
    "Executors": schema.ExecutorsModel,
}


def test_every_part_of_the_schema_has_a_section_in_the_reference():
    assert {model.__name__ for model in SECTIONS.values()} == {"ClusterModel", *spec.json_schema()["$defs"]}


@pytest.mark.parametrize(("heading", "model"), SECTIONS.items())
def test_the_reference_has_every_field_and_no_other(heading, model):
    section = re.split(r"^#+ ", REFERENCE.partition(f"# {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", section, flags=re.MULTILINE)
    assert [key for key, _ in rows] == list(model.model_fields)
    for key, default in rows:
        field = model.model_fields[key]
        assert (default == "needed") == field.is_required(), key
        if isinstance(field.default, int) and not isinstance(field.default, bool):
            assert default == f"`{field.default}`", key


def test_the_example_of_the_reference_is_a_valid_site():
    example = next(text for text in re.findall(r"```yaml\n(.*?)```", REFERENCE, re.DOTALL) if "spec: 1" in text)
    assert len(read(example).nodes) == 904
    validator().validate(yaml.load(example, "spec.md"))
