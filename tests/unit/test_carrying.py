"""Who applies a placement: everyone who has a say, in order, and what the choice must never change."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.sites import after_success, catalog, role, site

from orchestrator import plan
from orchestrator.carrying import Choice, Chooser
from orchestrator.errors import Location, ProblemsError
from orchestrator.model import CARRY, EXECUTORS, PUSH, Action, Connection, Executors, Node, NodeState, Policy, Snapshot
from orchestrator.topology import resolve

WEB = role("web", options=["web_port"])
LOCAL = replace(WEB, controller="delegate_to in tasks/main.yml:12")


def node(platform="debian-12", transport="ssh", groups=("all", "edge", "rack")):
    return Node(name="n", platform=platform, connection=Connection(transport=transport), groups=groups)


def choose(contract=WEB, on=None, inputs=None, **wanted):
    return Chooser(Executors(**wanted)).choose(contract, on or node(), inputs or {})


@pytest.mark.parametrize(
    ("contract", "on", "reason"),
    [
        (WEB, node("windows-2022", "psrp"), "Windows"),
        (WEB, node("windows-2022"), "Windows"),
        (WEB, node(transport="local"), "connection local"),
        (WEB, node(transport="psrp"), "connection psrp"),
        (WEB, node("rocky-9"), "Python 3.9 on rocky-9"),
        (WEB, node("rocky-9.4"), "Python 3.9 on rocky-9.4"),
        (WEB, node("ubuntu-22.04"), "Python 3.10 on ubuntu-22.04"),
        (WEB, node("beos-5"), "no known Python on beos-5"),
        (WEB, node(""), "no known platform"),
        (LOCAL, node(), "role web: delegate_to in tasks/main.yml:12"),
        (replace(WEB, executor=PUSH), node(), "role web: its contract"),
    ],
)
def test_push_says_why(contract, on, reason):
    assert choose(contract, on) == Choice(PUSH, reason)


@pytest.mark.parametrize("platform", ["debian-12", "debian-13", "ubuntu-24.04", "rocky-10", "rhel-10.1", "fedora-42"])
def test_carry_is_a_matter_of_course_where_it_is_possible(platform):
    assert choose(on=node(platform)) == Choice(CARRY, "")


def test_a_contract_that_changed_is_chosen_for_anew():
    """A role that is gone from the spec may be removed by another contract than the one of its last apply."""
    chooser = Chooser(Executors())
    assert chooser.choose(WEB, node(), {}).executor == CARRY
    assert chooser.choose(LOCAL, node(), {}) == Choice(PUSH, "role web: delegate_to in tasks/main.yml:12")


def test_a_contract_wins_over_the_roles_files_but_not_over_the_host():
    asking = replace(LOCAL, executor=CARRY)
    assert choose(asking) == Choice(CARRY, "role web: its contract")
    assert choose(replace(WEB, executor=CARRY)) == Choice(CARRY, "")
    assert choose(asking, node("rocky-9")).executor == PUSH


@pytest.mark.parametrize("value", ["{{ lookup('env', 'PORT') }}", ["x", {"y": "{{ query('env', 'PORT') }}"}]])
def test_an_input_that_asks_the_controller_keeps_the_role_there(value):
    reason = Choice(PUSH, "input web_port uses lookup('env')")
    assert choose(inputs={"web_host": "x", "web_port": value}) == reason
    assert choose(replace(WEB, executor=CARRY), inputs={"web_port": value}) == reason


def test_an_input_may_look_at_variables_but_at_no_file():
    assert choose(inputs={"a": "{{ lookup('vars', 'b') }}", "b": "lookup('env') as text"}).executor == CARRY
    assert choose(inputs={"a": "{{ lookup('file', 'x') }}"}) == Choice(PUSH, "input a uses lookup('file')")


def test_a_site_says_it_by_role_then_nearest_group_then_default():
    everything = {"roles": {"web": PUSH}, "groups": {"all": PUSH, "edge": CARRY, "rack": PUSH}, "default": CARRY}
    assert choose(**everything) == Choice(PUSH, "policy.executors.roles.web")
    assert choose(**everything | {"roles": {"db": CARRY}}) == Choice(PUSH, "policy.executors.groups.rack")
    assert choose(LOCAL, groups={"all": PUSH, "edge": CARRY}) == Choice(CARRY, "policy.executors.groups.edge")
    assert choose(default=PUSH) == Choice(PUSH, "policy.executors.default")
    assert choose(LOCAL, node("rocky-9"), default=CARRY) == Choice(CARRY, "policy.executors.default")
    assert choose(on=node("windows-2022"), default=CARRY) == Choice(PUSH, "Windows")


WANTED = st.sampled_from(["", *EXECUTORS])


@given(
    st.lists(
        st.tuples(
            st.sampled_from([WEB, LOCAL, replace(LOCAL, executor=CARRY), replace(WEB, role="db", executor=PUSH)]),
            st.sampled_from(["debian-12", "rocky-9", "windows-2022", "beos-5"]),
            st.sampled_from(["ssh", "psrp", "local"]),
            st.sampled_from([("all",), ("all", "edge"), ("all", "edge", "rack")]),
            st.sampled_from(["80", "{{ lookup('env', 'PORT') }}"]),
        )
    ),
    st.dictionaries(st.sampled_from(["web", "db"]), st.sampled_from(EXECUTORS)),
    st.dictionaries(st.sampled_from(["all", "edge", "rack"]), st.sampled_from(EXECUTORS)),
    WANTED,
)
def test_one_chooser_for_all_says_what_one_for_each_says(placements, roles, groups, default):
    """Memory never shows; nothing is carried where it cannot be; whatever is pushed has a reason."""
    wanted = Executors(roles=roles, groups=groups, default=default)
    shared = Chooser(wanted)
    for contract, platform, transport, member, port in placements:
        host = node(platform, transport, member)
        choice = shared.choose(contract, host, {"web_port": port})
        assert choice == Chooser(wanted).choose(contract, host, {"web_port": port})
        assert choice.executor == PUSH or (transport == "ssh" and platform != "windows-2022")
        assert choice.reason or choice.executor == CARRY


# --- in plans -----------------------------------------------------------------------------------------------------


def topology(contract=WEB, platform="debian-12", **wanted):
    spec = site({"edge": ["web"]}, {"a": ["edge"], "b": ["edge"]}, policy=Policy(executors=Executors(**wanted)))
    nodes = {**spec.nodes, "b": replace(spec.nodes["b"], platform=platform)}
    return resolve(replace(spec, nodes=nodes), catalog(contract))


def test_each_step_says_who_does_it_and_a_plan_keeps_it():
    made = plan.make(topology(platform="rocky-9", groups={"all": CARRY, "edge": PUSH}), Snapshot())
    assert [(s.executor, s.executor_reason) for s in made.steps] == [(PUSH, "policy.executors.groups.edge")] * 2
    made = plan.make(topology(replace(WEB, includes=("db",)), platform="rocky-9"), Snapshot())
    assert [(s.executor, s.executor_reason) for s in made.steps] == [(CARRY, ""), (PUSH, "Python 3.9 on rocky-9")]
    assert made.roles["web"].includes == ("db",)
    assert plan.parse(plan.dump(made), "the plan") == made
    counts = plan.summarize(made).executors
    assert counts == {PUSH: {"Python 3.9 on rocky-9": 1}, CARRY: {"": 1}}


def test_another_executor_alone_changes_nothing():
    applied = after_success(plan.make(topology(), Snapshot()))
    assert plan.make(topology(default=PUSH), applied).steps == ()
    assert plan.make(topology(replace(WEB, executor=PUSH)), applied).steps == ()
    checks = plan.make_check(topology(default=PUSH), applied).steps
    assert {(s.action, s.executor) for s in checks} == {(Action.CHECK, PUSH)}


def test_a_removal_goes_by_what_is_known_of_its_node():
    made = plan.make(topology(platform="rocky-9"), Snapshot())
    nodes = {name: NodeState(name=name, node=node) for name, node in made.nodes.items()}
    applied = replace(after_success(made), nodes=nodes)
    gone = resolve(site({"edge": []}, {"c": ["edge"]}), catalog(WEB))
    removals = plan.make(gone, applied).steps
    assert [(s.node, s.executor, s.executor_reason) for s in removals] == [
        ("a", CARRY, ""),
        ("b", PUSH, "Python 3.9 on rocky-9"),
    ]
    forgotten = plan.make(resolve(site({"edge": []}, {"c": ["edge"]}), catalog()), applied).steps
    assert {s.executor for s in forgotten} == {PUSH}


def test_carry_where_nothing_can_be_carried_is_an_error_of_the_site():
    place = Location(file="cluster.yml", line=9, column=5)
    with pytest.raises(ProblemsError) as caught:
        topology(platform="windows-2022", roles={"web": CARRY}, places={"roles.web": place})
    (problem,) = caught.value.problems
    assert str(problem) == (
        "cluster.yml:9:5: error: policy.executors.roles.web asks for carry, which takes SSH and a Python of the "
        "host's own; b cannot: Windows\n"
        "    hint: name the group of hosts that can instead, or take this entry out: Halligan carries wherever it can"
    )
    for fine in ({"default": CARRY}, {"groups": {"edge": CARRY}, "roles": {"web": PUSH}}):
        topology(platform="windows-2022", **fine)
    topology(platform="rocky-9", groups={"edge": CARRY})  # it may have another Python


def test_an_unknown_role_in_the_policy_is_an_error_with_a_guess():
    with pytest.raises(ProblemsError, match=r'names the role "wep", which is not in the catalogue. Did you mean "web"'):
        topology(roles={"wep": CARRY})
