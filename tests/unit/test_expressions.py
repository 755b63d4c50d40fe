"""What expressions of contracts can say, and that they are pure."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.expressions import EvaluationError, calls, evaluate, names, render, template_names


@pytest.mark.parametrize(
    ("text", "values", "wanted"),
    [
        ("a | difference(['vxlan'])", {"a": ["vlan", "vxlan", "vlan"]}, ["vlan"]),
        ("a | intersect(['vlan', 'gre'])", {"a": ["gre", "vlan"]}, ["gre", "vlan"]),
        ("a | union([2, 3])", {"a": [1, 2]}, [1, 2, 3]),
        ("a | flatten", {"a": [[1, [2]], 3]}, [1, 2, 3]),
        ("a | duplicates", {"a": ["x", "y", "x", "x"]}, ["x"]),
        ("a is subset([1, 2])", {"a": [1]}, True),
        ("a is superset([1, 2])", {"a": [1]}, False),
        ("a is contains('x')", {"a": "axe"}, True),
        ("a is match('windows')", {"a": "windows-2022"}, True),
        ("a is search('2022$')", {"a": "windows-2022"}, True),
        ("a | bool", {"a": "no"}, False),
        ("a | ternary('yes', 'no')", {"a": True}, "yes"),
        ("a | split(':') | first", {"a": "physnet1:br-ex"}, "physnet1"),
        ("a | regex_replace(':.*', '')", {"a": "physnet1:br-ex"}, "physnet1"),
        ("{'x': 1} | combine({'x': 2})", {}, {"x": 2}),
        ("a | map('upper')", {"a": ["x"]}, ["X"]),
        ("b | default(3)", {}, 3),
        ("b is defined", {}, False),
    ],
)
def test_what_an_expression_gives(text, values, wanted):
    assert evaluate(text, values) == wanted


@pytest.mark.parametrize(
    ("value", "around", "wanted"),
    [
        ("10.0.0.7", "10.0.0.0/24", True),
        ("10.0.1.7", "10.0.0.0/24", False),
        ("10.0.1.7", ["10.0.0.0/24", "10.0.1.0/24"], True),
        ("10.0.0.0/25", "10.0.0.0/24", True),
        ("10.0.0.0/23", "10.0.0.0/24", False),
        ("10.0.0.10-10.0.0.20", "10.0.0.0/24", True),
        ("10.0.0.10-10.0.1.20", "10.0.0.0/24", False),
        (["10.0.0.1", "10.0.0.2"], "10.0.0.0/24", True),
        (["10.0.0.1", "10.9.0.2"], "10.0.0.0/24", False),
        ("fd00::7", {"cidr": "fd00::/64", "gateway": ""}, True),
        ("10.0.0.7", {"mgmt": {"cidr": "10.0.0.0/24"}, "wan": {"cidr": "fd00::/64"}}, True),
        ("nonsense", "10.0.0.0/24", False),
        ("10.0.0.1", "nonsense", False),
    ],
)
def test_whether_something_lies_inside_a_network(value, around, wanted):
    assert evaluate("a is inside(b)", {"a": value, "b": around}) is wanted


@pytest.mark.parametrize(
    ("ranges", "wanted"),
    [
        (["physnet1:100:199", "physnet1:150:300"], ["physnet1:100:199 and physnet1:150:300"]),
        (["physnet1:100:199", "physnet2:150:300"], []),
        (["physnet1:100:199", "physnet1:200:300", "physnet1"], []),
        (["10.0.0.0/24", "10.0.0.128/25"], ["10.0.0.0/24 and 10.0.0.128/25"]),
        (["10.0.0.1-10.0.0.9", "10.0.0.9-10.0.0.12"], ["10.0.0.1-10.0.0.9 and 10.0.0.9-10.0.0.12"]),
        (["1:9", "5-12"], ["1:9 and 5-12"]),
    ],
)
def test_ranges_that_overlap(ranges, wanted):
    assert evaluate("a | overlaps", {"a": ranges}) == wanted


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 30), st.integers(0, 30)).map(lambda t: (t[0], *sorted(t[1:])))
    ),
)
def test_no_overlap_is_missed_or_invented(spans):
    """The pairs are those that share a number under one label."""
    texts = [f"{label}:{low}:{high}" for label, low, high in spans]
    numbers = [{(label, n) for n in range(low, high + 1)} for label, low, high in spans]
    shared = [
        f"{texts[i]} and {texts[j]}"
        for i in range(len(spans))
        for j in range(i + 1, len(spans))
        if numbers[i] & numbers[j]
    ]
    assert evaluate("a | overlaps", {"a": texts}) == shared


@given(st.ip_addresses(v=4), st.ip_addresses(v=4), st.integers(0, 32))
def test_inside_agrees_with_the_standard_library(address, base, length):
    network = ipaddress.ip_network((int(base), length), strict=False)
    assert evaluate("a is inside(b)", {"a": str(address), "b": str(network)}) is (address in network)


@pytest.mark.parametrize(
    ("text", "wanted"), [("10.0.0.0/24", True), ("10.0.0.1/24", False), ("10.0.0.0", False), (7, False)]
)
def test_what_a_network_is(text, wanted):
    assert evaluate("a is cidr", {"a": text}) is wanted


@pytest.mark.parametrize("text", ["10.0.0.1", "fd00::1"])
def test_what_an_address_is(text):
    assert evaluate("a is address", {"a": text})
    assert not evaluate("a is address", {"a": f"{text}x"})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a ==", "end of"),
        ("a | nofilter", "No filter named 'nofilter'"),
        ("a is notest", "No test named 'notest'"),
        ("[1, 2] | random", "No filter named 'random'"),
    ],
)
def test_what_is_not_valid_is_said_without_any_value(text, why):
    with pytest.raises(ValueError, match=why):
        names(text)


@pytest.mark.parametrize("text", ["a < b", "a.b.c", "missing", "a / 0", "''.__class__.__mro__", "a.append(1)"])
def test_what_cannot_be_evaluated_raises_one_kind_of_error(text):
    with pytest.raises(EvaluationError):
        evaluate(text, {"a": ["x"] if "append" in text else "x", "b": 1})


def test_names_are_those_that_somebody_has_to_give():
    assert names("outputs('a', 'b') | length > n and not m") == {"outputs", "n", "m"}
    assert names("range(3) | list == items") == {"items"}
    assert template_names("{{ a }} of {% for b in c %}{{ b }}{% endfor %}") == {"a", "c"}


def test_calls_are_found_with_their_literal_arguments():
    found = calls("outputs('network.l2', 'types') and placed(x) and here('a', 'b')")
    assert [(call.function, call.arguments, call.literal) for call in found] == [
        ("outputs", ("network.l2", "types"), True),
        ("placed", (), False),
        ("here", ("a", "b"), True),
    ]


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        ("{{ a }}", [1]),
        ("{{ a | length }}", 1),
        ("x{{ a[0] }}", "x1"),
        ("{{ a[0] }}{{ a[0] }}", "11"),
        ("plain", "plain"),
    ],
)
def test_a_template_that_is_one_expression_keeps_its_type(template, wanted):
    assert render(template, {"a": [1]}) == wanted


VALUES = st.dictionaries(
    st.sampled_from("abc"),
    st.one_of(st.integers(), st.text(max_size=5), st.lists(st.integers(), max_size=4)),
    max_size=3,
)


@given(
    VALUES,
    st.sampled_from(
        [
            "a | duplicates",
            "a == b",
            "a | unique | sort",
            "a + b",
            "a | union(b)",
            "{{ a",
            "c is inside(a)",
            "a | overlaps",
        ]
    ),
)
def test_evaluation_is_pure_and_deterministic(values, text):
    """Equal values give equal results, and the values are as they were."""

    def result():
        try:
            return evaluate(text, values)
        except (EvaluationError, ValueError) as error:
            return type(error), str(error)

    before = repr(values)
    assert result() == result()
    assert repr(values) == before
