"""Precedence as Ansible has it, and following what a template mentions."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.sites import site

from orchestrator.templates import mentioned
from orchestrator.variables import Variables, visible


def test_precedence_is_ansibles():
    """Inline group vars, parents first; then files in the same order; then the node's own, then its file."""
    spec = site(
        {"a": (), "b": ()}, {"n": ["a", "b"]}, variables={"all": {"x": 1, "y": 1, "z": 1}, "a": {"x": 2}, "b": {"x": 3}}
    )
    spec = replace(spec, groups={**spec.groups, "all": replace(spec.groups["all"], file_vars={"x": 4, "y": 4})})
    assert Variables(spec).of_groups(("all", "a", "b")) == {"x": 4, "y": 4, "z": 1}
    node = replace(spec.nodes["n"], vars={"y": 5, "w": 5}, file_vars={"w": 6})
    found = Variables(spec).of_node(node)
    assert (found["x"], found["y"], found["w"], found["node_name"]) == (4, 5, 6, "n")


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("plain", set()),
        ("{{ a }} and {{ b.c | default(d) }}", {"a", "b", "d"}),
        ({"k": ["{{ a }}", {"x": "{% if b %}1{% endif %}"}]}, {"a", "b"}),
        ("{{ a | some_filter_only_ansible_knows(b) }}", {"a", "b"}),
        ("{{ broken", set()),
        (7, set()),
    ],
)
def test_mentioned_finds_every_variable_of_a_template(value, names):
    assert mentioned(value) == names


def test_visible_follows_mentions_and_survives_circles():
    values = {"a": "{{ b }}", "b": "{{ a }} {{ c }}", "c": 1, "d": 2}
    assert set(visible(["a", "unknown"], values)) == {"a", "b", "c"}
