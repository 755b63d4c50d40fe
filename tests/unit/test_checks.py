"""The checks of contracts: how they are read, what they see, and how a broken one is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.sites import catalog, role, site

from orchestrator import spec as specs
from orchestrator.catalog import RoleFiles, RoleSource
from orchestrator.catalog import read as read_catalog
from orchestrator.catalog.source import RoleFile
from orchestrator.errors import ProblemsError
from orchestrator.model import Check, Network, Option, Output, SecretRef, Wire
from orchestrator.spec import SiteFiles, SourceFile
from orchestrator.topology import resolve


def broken(spec, contracts, **more):
    """Return what the checks say of a site, as (summary, place); nothing else may be wrong."""
    found = ()
    try:
        resolve(spec, contracts, **more)
    except ProblemsError as error:
        found = error.problems
    assert {problem.code for problem in found} <= {"topology.check", "topology.check-fails"}
    return [(problem.summary, str(problem.where or "")) for problem in found]


def told(spec, contracts, **more):
    return [summary for summary, _ in broken(spec, contracts, **more)]


def one(that, *, options=(), values=None, message="no", option="", nodes=("n",), **rest):
    """Return what a role with one check says on nodes of one group."""
    contract = role("web", options=options, checks=(Check(that=that, message=message, option=option),), **rest)
    return told(site({"g": ["web"]}, {n: ["g"] for n in nodes}, variables={"g": values or {}}), catalog(contract))


# --- what is seen -------------------------------------------------------------------------------------------------


def test_a_check_that_holds_says_nothing():
    assert one("web_port > 1024", options=[Option(name="web_port", type="int", default=8080)]) == []


def test_a_check_that_does_not_hold_names_role_nodes_and_values():
    options = [Option(name="web_port", type="int", default=80)]
    said = one("web_port > 1024", options=options, message="port {{ web_port }} is low", nodes=("a-1", "a-2"))
    assert said == ["role web on a-[1:2]: port 80 is low"]


def test_values_come_as_the_type_of_their_option():
    options = [
        Option(name="web_port", type="int"),
        Option(name="web_on", type="bool"),
        Option(name="web_l", type="list"),
    ]
    values = {"web_port": "80", "web_on": "no", "web_l": "a, b"}
    assert one("web_port == 80 and web_on == false and web_l == ['a', 'b']", options=options, values=values) == []


def test_templates_are_followed_through_variables_and_the_roles_own():
    options = [Option(name="web_url", default="http://{{ __web_host }}:{{ web_port }}"), Option(name="web_port")]
    values = {"web_port": "{{ base + 1 }}", "base": 8000}
    own = {"__web_host": "{{ node_address }}"}
    said = one("false", options=options, values=values, message="{{ web_url }}", variables=own)
    assert said == ["role web on n: http://10.0.0.1:8001"]


@pytest.mark.parametrize(
    "value",
    [
        SecretRef(file="f", key="k", fingerprint="x"),
        "{{ ansible_facts.hostname }}",
        "{{ lookup('env', 'HOME') }}",
        "{{ web_x | to_nice_yaml }}",
        "{{ web_x }}",
        {"a": "{{ ansible_facts.x }}"},
        ["{{ ansible_facts.x }}"],
    ],
)
def test_what_nobody_knows_before_a_run_is_not_checked(value):
    assert one("web_x == 'never'", options=[Option(name="web_x", type="raw")], values={"web_x": value}) == []


def test_the_value_of_a_secret_option_is_never_looked_at():
    options = [Option(name="web_password", secret=True)]
    assert one("false", options=options, values={"web_password": "x"}, message="{{ web_password }}") == [
        "role web on n: (not known yet)"
    ]
    assert one("web_password == ''", options=options, values={"web_password": "x"}) == []


def test_a_secret_inside_a_value_is_left_out():
    nested = {"user": Option(name="user"), "password": Option(name="password", secret=True)}
    options = [Option(name="web_users", type="list", elements="dict", options=nested)]
    values = {"web_users": [{"user": "u", "password": "pw"}]}
    assert one("false", options=options, values=values, message="{{ web_users }}") == ["role web on n: [{'user': 'u'}]"]


def test_an_option_without_value_is_not_checked_unless_asked_whether_it_is_there():
    options = [Option(name="web_a"), Option(name="web_b", default=1)]
    assert one("web_a > 3", options=options) == []
    assert one("web_a is defined", options=options, message="set web_a") == ["role web on n: set web_a"]
    assert one("web_a | default(web_b) == 2", options=options) == ["role web on n: no"]


def test_a_wrong_value_is_one_problem_not_two():
    contract = role(
        "web", options=[Option(name="web_n", type="int")], checks=(Check(that="web_n < 3", message="too many"),)
    )
    with pytest.raises(ProblemsError) as caught:
        resolve(site({"g": ["web"]}, {"n": ["g"]}, variables={"g": {"web_n": "many"}}), catalog(contract))
    assert [problem.code for problem in caught.value.problems] == ["value.type"]


def providers(**db):
    return (
        role("db", provides=["database"], options=[Option(name="db_name", default="x")], **db),
        role(
            "app",
            requires=["database"],
            inputs={"app_db": Wire(capability="database", output="db_name")},
            checks=(Check(that="app_db == 'x'", message="{{ app_db }}"),),
        ),
    )


def test_a_wired_value_is_that_of_its_provider():
    contracts = catalog(*providers(outputs=["db_name"]))
    groups, nodes = {"dbs": ["db"], "apps": ["app"]}, {"d": ["dbs"], "a": ["apps"]}
    assert told(site(groups, nodes), contracts) == []
    said = told(site(groups, nodes, node_vars={"d": {"db_name": "y"}}), contracts)
    assert said == ["role app on a: y"]


def test_an_output_that_tasks_decide_is_not_checked():
    db, app = providers()
    from dataclasses import replace

    db = replace(db, outputs={"db_name": Output(name="db_name", value="{{ registered.stdout }}")})
    assert told(site({"g": ["db"], "h": ["app"]}, {"d": ["g"], "a": ["h"]}), catalog(db, app)) == []


def backends(that, names, **more):
    """A capability with two kinds of providers, and a role that looks at all of them."""
    contracts = catalog(
        role("lvm", provides=["backend"], options=["lvm_name"], outputs=["lvm_name"]),
        role("nfs", provides=["backend"], options=["nfs_name", "nfs_x"], outputs=["nfs_name", "nfs_x"]),
        role("api", checks=(Check(that=that, message="{{ outputs('backend', 'name') | join(',') }}"),)),
    )
    groups = {"l": ["lvm"], "f": ["nfs"], "c": ["api"]}
    nodes = {"l1": ["l"], "l2": ["l"], "f1": ["f"], "c1": ["c"], "both": ["l", "f"]}
    values = {n: {f"{kind}_name": name} for n, kind, name in names}
    return told(site(groups, nodes, node_vars=values, variables={"all": {"lvm_name": "d", "nfs_name": "e"}}), contracts)


def test_all_providers_of_a_capability_are_seen_by_the_short_name_of_their_outputs():
    names = [("l1", "lvm", "a"), ("l2", "lvm", "b"), ("f1", "nfs", "a")]
    said = backends("not outputs('backend', 'name') | duplicates", names)
    assert said == ["role api on c1: d,a,b,e,a"]
    assert backends("outputs('backend', 'name') | length == 5", names) == []
    assert backends("outputs('backend', 'lvm_name') | length == 3", names) == []


def test_placed_names_the_nodes_of_a_capability():
    assert backends("placed('backend') == ['both', 'f1', 'l1', 'l2']", []) == []
    assert backends("placed('nothing') == []", []) == []


def test_here_looks_at_the_same_node_only():
    contracts = catalog(
        role(
            "lvm",
            provides=["backend"],
            options=[Option(name="lvm_name", default="disk")],
            outputs=["lvm_name"],
            checks=(Check(that="here('backend', 'name') | length == 1", message="twice"),),
        ),
        role("nfs", provides=["backend"], options=[Option(name="nfs_name", default="disk")], outputs=["nfs_name"]),
    )
    spec = site({"l": ["lvm"], "f": ["nfs"]}, {"a": ["l"], "b": ["l", "f"], "c": ["f"]})
    assert told(spec, contracts) == ["role lvm on b: twice"]


def test_networks_and_nodes_of_the_spec_are_seen():
    from dataclasses import replace

    contract = role(
        "web",
        options=[Option(name="web_ip", default="{{ node_address }}")],
        checks=(
            Check(that="web_ip is inside(networks)", message="{{ web_ip }} is nowhere"),
            Check(that="nodes[node_name].platform == 'debian-12'", message="{{ nodes | length }} nodes"),
        ),
    )
    spec = replace(
        site({"g": ["web"]}, {"a": ["g"], "b": ["g"]}, node_vars={"b": {"web_ip": "192.0.2.1"}}),
        networks={"mgmt": Network(name="mgmt", cidr="10.0.0.0/24")},
    )
    assert told(spec, catalog(contract)) == ["role web on b: 192.0.2.1 is nowhere"]


def test_ports_are_checked_where_the_hardware_is_known():
    contract = role(
        "net",
        options=[Option(name="net_port", default="eno9")],
        checks=(Check(that="net_port in nics", message="no {{ net_port }} among {{ nics | join(', ') }}"),),
    )
    spec = site({"g": ["net"]}, {"a": ["g"], "b": ["g"]})
    assert told(spec, catalog(contract)) == []
    found = told(spec, catalog(contract), nics={"a": frozenset({"eno1", "eno2"}), "b": frozenset({"eno9"})})
    assert found == ["role net on a: no eno9 among eno1, eno2"]


def test_a_circle_of_templates_is_not_known():
    options = [Option(name="web_a", default="{{ web_b }}"), Option(name="web_b", default="{{ web_a }}")]
    assert one("web_a == 1", options=options) == []


def test_what_cannot_be_evaluated_is_a_problem_of_the_contract():
    said = one("web_l < 3", options=[Option(name="web_l", type="list", default=["a"])], nodes=("a", "b"))
    assert len(said) == 1
    assert said[0].startswith("a check of role web cannot be evaluated for a: TypeError")


# --- where it is said ---------------------------------------------------------------------------------------------

CONTRACT = """---
contract: 1
checks:
  - {option: web_a, that: web_a == 1, message: "a is {{ web_a }}", hint: write 1}
"""
SPECS = """---
argument_specs:
  main:
    options:
      web_a: {type: int, default: 1}
"""
SITE = """---
spec: 1
groups:
  g:
    roles: [web]
"""


def folder(name="web", contract=CONTRACT, options=SPECS):
    def file(path, text):
        return RoleFile(shown=f"roles/{name}/meta/{path}", text=text.encode())

    return RoleSource(
        name=name,
        path=f"/roles/{name}",
        shown=f"roles/{name}",
        digest="d",
        contract=file("contract.yml", contract),
        specs=file("argument_specs.yml", options),
    )


def places(cluster, group_vars=None, host_vars=None):
    def sources(kind, given):
        return {
            name: tuple(SourceFile(path=p, shown=f"{kind}/{p}", text=text.encode()) for p, text in texts.items())
            for name, texts in (given or {}).items()
        }

    found = specs.read(
        SiteFiles(
            site="s",
            folder="/s",
            cluster=SourceFile(path="cluster.yml", shown="cluster.yml", text=cluster.encode()),
            group_vars=sources("group_vars", group_vars),
            host_vars=sources("host_vars", host_vars),
        ),
        None,
    )
    return broken(found, read_catalog(RoleFiles(roles=(folder(),))))


@pytest.mark.parametrize(
    ("nodes", "group_vars", "host_vars", "where"),
    [
        ("    vars: {web_a: 2}\nnodes:\n  n: {groups: [g]}\n", {}, {}, "cluster.yml:6:12"),
        ("nodes:\n  n: {groups: [g], vars: {web_a: 2}}\n", {}, {}, "cluster.yml:7:27"),
        ("nodes:\n  n-[1:2]: {groups: [g], vars: {web_a: 2}}\n", {}, {}, "cluster.yml:7:33"),
        ("nodes:\n  n: {groups: [g]}\n", {"g": {"g.yml": "x: 1\nweb_a: 2\n"}}, {}, "group_vars/g.yml:2:1"),
        ("nodes:\n  n: {groups: [g]}\n", {"all": {"all.yml": "web_a: 2\n"}}, {}, "group_vars/all.yml:1:1"),
        (
            "nodes:\n  n: {groups: [g], vars: {web_a: 1}}\n",
            {"g": {"g/a.yml": "web_a: 1\n", "g/b.yml": "web_a: 1\n"}},
            {"n": {"n/a.yml": "\nweb_a: 3\n", "n/b.yml": "web_a: 2\n", "n/c.yml": "y: 2\n"}},
            "host_vars/n/b.yml:1:1",
        ),
        (
            "    vars: {web_a: 2}\nnodes:\n  n: {groups: [g]}\n",
            {"all": {"all/a.yml": "\nweb_a: 3\n", "all/b.yml": "y: 2\n"}},
            {},
            "group_vars/all/a.yml:2:1",
        ),
    ],
)
def test_a_problem_points_at_where_the_value_is_set_that_counts(nodes, group_vars, host_vars, where):
    assert [place for _, place in places(SITE + nodes, group_vars, host_vars)] == [where]


def test_a_default_points_at_where_the_role_is_placed():
    contract = CONTRACT.replace("web_a == 1", "web_a == 2")
    found = specs.read(
        SiteFiles(
            site="s",
            folder="/s",
            cluster=SourceFile(path="c", shown="cluster.yml", text=f"{SITE}nodes:\n  n: {{groups: [g]}}\n".encode()),
        ),
        None,
    )
    assert broken(found, read_catalog(RoleFiles(roles=(folder(contract=contract),)))) == [
        ("role web on n: a is 1", "cluster.yml:4:3")
    ]


# --- how they are read --------------------------------------------------------------------------------------------


def read_check(check, *others):
    contract = f"---\ncontract: 1\nchecks:\n  - that: 'true'\n    message: fine\n{check}"
    with pytest.raises(ProblemsError) as caught:
        read_catalog(RoleFiles(roles=(folder(contract=contract), *others)))
    return caught.value.problems


@pytest.mark.parametrize(
    ("check", "line", "summary"),
    [
        ('  - that: "web_a =="\n    message: x\n', 6, "the expression of the check is not valid"),
        ('  - that: "web_a | nofilter"\n    message: x\n', 6, "No filter named 'nofilter'"),
        ('  - that: "web_b == 1"\n    message: x\n', 6, 'mentions "web_b"'),
        ('  - that: "web_b == 1"\n    message: x\n', 6, 'Did you mean "web_a"?'),
        ('  - that: "true"\n    message: "{{ web_a"\n', 7, "the message of the check is not valid"),
        ('  - that: "true"\n    message: "{{ wab_a }}"\n', 7, 'Did you mean "web_a"?'),
        ('  - that: "true"\n    option: wab_a\n    message: x\n', 7, "which is no option of the role"),
        (
            "  - that: \"outputs(web_a, 'x')\"\n    message: x\n",
            6,
            "outputs is called as outputs('capability', 'output')",
        ),
        ('  - that: "placed()"\n    message: x\n', 6, "placed is called as placed('capability')"),
        ("  - message: x\n", 6, 'needs the key "that"'),
    ],
)
def test_a_mistake_in_a_check_is_explained_where_it_is(check, line, summary):
    (problem,) = read_check(check)
    assert summary in problem.summary
    assert (problem.where.file, problem.where.line) == ("roles/web/meta/contract.yml", line)


def test_an_output_must_be_one_that_a_provider_gives():
    other = folder(
        "db", "contract: 1\nprovides: [database]\noutputs:\n  db_host: {value: x}\n", "argument_specs: {main: {}}"
    )
    (problem,) = read_check("  - that: \"outputs('database', 'hosts')\"\n    message: x\n", other)
    assert 'Did you mean "host"?' in problem.summary
    assert problem.where.line == 6


def test_a_check_is_read_with_its_place():
    (check,) = read_catalog(RoleFiles(roles=(folder(),)))["web"].checks
    assert (check.option, check.that, check.message, check.hint) == (
        "web_a",
        "web_a == 1",
        "a is {{ web_a }}",
        "write 1",
    )
    assert str(check.where) == "roles/web/meta/contract.yml:4:5"


# --- properties ---------------------------------------------------------------------------------------------------


@given(st.dictionaries(st.integers(0, 9).map("n-{}".format), st.integers(0, 3), min_size=1))
def test_the_same_site_gives_the_same_problems_whatever_was_looked_at_before(values):
    """Nothing is left behind by an evaluation, and each node that breaks the rule is named in exactly one problem."""
    contract = role(
        "web",
        provides=["web"],
        options=["web_n"],
        outputs=["web_n"],
        checks=(
            Check(that="outputs('web', 'n') | duplicates | difference([0]) == []", message="{{ web_n }}"),
            Check(that="web_n != 0", message="zero"),
        ),
    )
    spec = site({"g": ["web"]}, {n: ["g"] for n in values}, node_vars={n: {"web_n": v} for n, v in values.items()})
    contracts = catalog(contract)
    first = broken(spec, contracts)
    assert first == broken(spec, contracts)
    some = [v for v in values.values() if v]
    twice = len(set(some)) != len(some)
    assert bool(first) == (twice or 0 in values.values())
