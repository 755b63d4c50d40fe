"""The YAML reader: plain values, places, and every way a file can be wrong."""

from __future__ import annotations

import gc
import tracemalloc

import pytest
import yaml as pyyaml
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import yaml
from orchestrator.errors import HalliganError, Location, ProblemsError


def problems_of(text, **options):
    with pytest.raises(ProblemsError) as caught:
        yaml.load(text, "x.yml", **options)
    return caught.value.problems


def problem_of(text, **options):
    (problem,) = problems_of(text, **options)
    return problem


def at(problem):
    return problem.where.line, problem.where.column


# --- values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("Off", "Off"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("52:54:00:12:34:56", "52:54:00:12:34:56"),
        ("22:22", "22:22"),
        ("012", "012"),
        ("0644", "0644"),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        ("1e3", "1e3"),
        ("3.10", 3.1),
        ("-5", -5),
        ("+5", 5),
        ("0", 0),
        ("0x1F", 31),
        ("0o17", 15),
        (".5", 0.5),
        (".inf", ".inf"),
        ("~", None),
        ("null", None),
        ("", None),
        ("50%", "50%"),
        ("'true'", "true"),
        ('"5"', "5"),
        ("!!str 5", "5"),
        ("!!int '5'", 5),
        ("!!float 5", 5.0),
        ("!!bool 'true'", True),
        ("!!null ''", None),
        ("! 5", "5"),
    ],
)
def test_scalars_mean_what_they_look_like(text, value):
    found = yaml.load(f"a: {text}", "x.yml")["a"]
    assert found == value
    assert type(found) is type(value)


def test_keys_are_always_text():
    assert yaml.load("1: a\ntrue: b\nno: c\n1.5: d\n", "x.yml") == {"1": "a", "true": "b", "no": "c", "1.5": "d"}


def test_an_empty_text_is_none():
    assert yaml.load("", "x.yml") is None
    assert yaml.load("# nothing\n", "x.yml") is None


def test_a_byte_order_mark_does_no_harm():
    assert yaml.load(b"\xef\xbb\xbfa: 1", "x.yml") == {"a": 1}


def test_json_is_read_too():
    assert yaml.load('{"a": [1, 2.5, "x", null, true],\n\t"b": {}}', "x.json") == {
        "a": [1, 2.5, "x", None, True],
        "b": {},
    }


def test_merge_keys_give_way_to_own_keys():
    text = "one: &one {a: 1, b: 2}\ntwo: &two {b: 3, c: 4}\nboth: {<<: [*one, *two], c: 5}\n"
    assert yaml.load(text, "x.yml")["both"] == {"a": 1, "b": 2, "c": 5}


def test_a_quoted_merge_key_is_an_ordinary_key():
    assert yaml.load('"<<": {a: 1}', "x.yml") == {"<<": {"a": 1}}


def test_vault_values_are_kept_encrypted():
    document = yaml.read("a: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  6162\n  6364\n", "x.yml")
    assert document.data == {"a": yaml.Vaulted("$ANSIBLE_VAULT;1.1;AES256\n6162\n6364")}
    assert document.vaulted
    assert not yaml.read("a: 1", "x.yml").vaulted


def test_the_places_of_sections_and_names_are_kept():
    document = yaml.read("nodes:\n  a: {x: {y: 1}}\n  b: {}\n", "x.yml")
    assert document.places == {
        ("nodes",): Location(file="x.yml", line=1, column=1),
        ("nodes", "a"): Location(file="x.yml", line=2, column=3),
        ("nodes", "b"): Location(file="x.yml", line=3, column=3),
    }
    assert document.where(("nodes", "a", "x", "y")) == Location(file="x.yml", line=2, column=11)


PLAIN = st.text("abcXYZ -_:.#'\"\\\n{}[],&*!|>%@`~0123456789äé€\t", max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(-1e9, 1e9, width=32) | PLAIN,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(PLAIN, inner, max_size=4),
    max_leaves=25,
)


@settings(deadline=None)
@given(VALUES)
def test_what_pyyaml_writes_is_read_back(value):
    assert yaml.load(pyyaml.safe_dump(value, allow_unicode=True), "x.yml") == value


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_with_a_place(text):
    problems = ()
    try:
        yaml.load(text.encode("utf-8", "replace"), "x.yml")
    except ProblemsError as error:
        problems = error.problems
    assert all(problem.where and problem.where.line for problem in problems)


# --- places -------------------------------------------------------------------------------------------------------


def paths_of(value, path=()):
    if isinstance(value, dict):
        for key, item in value.items():
            yield (*path, key)
            yield from paths_of(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield (*path, index)
            yield from paths_of(item, (*path, index))


@settings(deadline=None)
@given(VALUES, st.booleans())
def test_locate_finds_every_path(value, flow):
    """Every key and item has a place, and the text there is the key or item itself."""
    text = pyyaml.safe_dump(value, default_flow_style=flow, allow_unicode=True)
    paths = list(paths_of(value))
    places = yaml.locate_all(text, "x.yml", paths)
    marks = {
        path: (node.start_mark.line + 1, node.start_mark.column + 1) for path, node in nodes_of(pyyaml.compose(text))
    }
    for path in paths:
        assert (places[path].line, places[path].column) == marks[path]


def nodes_of(node, path=()):
    if isinstance(node, pyyaml.MappingNode):
        for key, value in node.value:
            here = (*path, pyyaml.SafeLoader("").construct_scalar(key))
            yield here, key
            yield from nodes_of(value, here)
    elif isinstance(node, pyyaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield (*path, index), item
            yield from nodes_of(item, (*path, index))


def test_a_path_that_does_not_exist_gets_the_nearest_place_around_it():
    text = "a:\n  b:\n    c: 1\n"
    assert yaml.locate(text, "x.yml", ("a", "b", "z", 3)) == Location(file="x.yml", line=2, column=3)
    assert yaml.locate(text, "x.yml", ("z",)) == Location(file="x.yml")


def test_locate_gives_what_it_can_of_a_broken_text():
    assert yaml.locate("a: 1\nb: [", "x.yml", ("a",)).line == 1


def test_paths_are_written_as_people_write_them():
    assert yaml.dotted(("nodes", "ctl-1", "roles", 0)) == "nodes.ctl-1.roles[0]"
    assert yaml.dotted(()) == ""


# --- mistakes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "column", "summary", "hint"),
    [
        ("a:\n\tb: 1", 2, 1, "a tab is used for indentation", "only spaces"),
        ("a: |\n x\n\ty", 3, 1, "a tab is used for indentation", "only spaces"),
        ("a: b: c", 1, 5, 'a ":" is not expected here', "quotes"),
        ("a:\n  b: 1\n c: 2", 3, 2, "a key was expected here", "indentation"),
        ("a: [1, 2", 2, 1, 'the closing "]" is missing', ""),
        ("a: {b: 1", 2, 1, 'the closing "}" is missing', ""),
        ("a: 'x", 1, 6, "the closing quote is missing", ""),
        ("a: @x", 1, 4, 'a value cannot begin with "@"', "quotes"),
        ("a: `x", 1, 4, 'a value cannot begin with "`"', "quotes"),
        ("a: %x", 1, 4, 'a value cannot begin with "%"', "quotes"),
        ("a: *", 1, 5, "a name was expected here", "begins with * or &"),
        ("a: *nope", 1, 4, 'refers to "&nope", which is not defined above', "quotes"),
        ("a: &x [*x]", 1, 8, "refers to the value that it is part of", ""),
        ("a: {{ x }}", 1, 5, 'begins with "{{" needs quotes', '"{{ … }}"'),
        ("? [a]\n: b", 1, 3, "a key must be text", "quotes"),
        ("a: &x [1]\n*x : 2", 2, 1, "cannot be a key", ""),
        ("?\n: b", 1, 2, "a key is missing", ""),
        ('a: "\\q"', 1, 5, "starts an escape", "single quotes"),
        ("a: - b", 1, 4, 'a "-" is not expected here', "line below"),
        ("a: 1\n---\nb: 2", 2, 1, "a second document", ""),
        ("{a: 1}}", 1, 7, "left over after the end", ""),
        ("a: !x!y z", 1, 4, "the tag is not known", "quotes"),
        ("a: !unsafe z", 1, 4, 'the tag "!unsafe" is not supported', "raw"),
        ("a: !!python/object:os.system z", 1, 4, '"!!python/object:os.system" is not supported', "!vault"),
        ("a: !!set {b: }", 1, 4, "is not supported", "!vault"),
        ("a: !!int x", 1, 4, '"x" is not a value of the type "!!int"', ""),
        ("<<: 3", 1, 5, '"<<" merges a mapping', ""),
        ("a: \x01", 1, 4, "U+0001 is not allowed", "binary"),
        ("a: \x00", 1, 4, "U+0000 is not allowed", "binary"),
        ("%YAML 3.0\n---\na", 1, 1, "this YAML version is not supported", "%YAML"),
        (b"a: 1\nb: \xff", 2, 4, "not UTF-8 text: byte 0xff", "UTF-8"),
        ("ä: ü\n".encode("latin-1"), 1, 1, "not UTF-8 text: byte 0xe4", "UTF-8"),
        ("[" * 200, 1, 101, "nested more than 100 levels", ""),
    ],
)
def test_a_mistake_is_explained_where_it_is(text, line, column, summary, hint):
    problem = problem_of(text)
    assert at(problem) == (line, column)
    assert summary in problem.summary
    assert hint in problem.hint


def test_every_duplicate_key_is_reported_with_both_places():
    first, second = problems_of("a: 1\nb: {c: 1, c: 2}\na: 3\n")
    assert (at(first), first.summary, first.detail) == (
        (2, 11),
        'the key "c" stands twice in b',
        ("first at x.yml:2:5",),
    )
    assert (at(second), second.summary, second.detail) == (
        (3, 1),
        'the key "a" stands twice in this file',
        ("first at x.yml:1:1",),
    )


def test_keys_that_differ_only_in_quotes_are_duplicates():
    assert problem_of('a: 1\n"a": 2').code == "yaml.duplicate-key"


def test_duplicates_before_a_syntax_error_are_reported_too():
    assert {problem.code for problem in problems_of("a: 1\na: 2\nb: [")} == {"yaml.duplicate-key", "yaml.syntax"}


def bomb(width=10, depth=12):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * width)}]" for i in range(depth)]
    return "\n".join(lines)


def test_a_bomb_of_aliases_is_refused():
    problem = problem_of(bomb())
    assert problem.code == "yaml.bomb"
    assert "larger than 64 MiB" in problem.summary


def test_a_bomb_of_merges_is_refused():
    lines = ["a0: &a0 {x: 1, y: 2}"]
    lines += [f"a{i + 1}: &a{i + 1} {{k{i}: [{', '.join([f'*a{i}'] * 10)}]}}" for i in range(12)]
    assert problem_of("\n".join([*lines, "z: {<<: *a12}"])).code == "yaml.bomb"


def test_a_file_over_the_limit_is_refused_unread():
    problem = problem_of("a: " + "x" * 100, limit=50)
    assert problem.code == "yaml.too-big"
    assert "larger than" in problem.summary
    assert "kvm-[001:900]" in problem.hint


def test_too_many_values_are_refused(monkeypatch):
    monkeypatch.setattr("orchestrator.yaml.loader._MAX_VALUES", 100)
    assert problem_of("[" + "1," * 200 + "]").code == "yaml.too-big"


def test_a_large_text_takes_memory_in_proportion():
    """What is kept of a text is a small multiple of it, so that 50 MB fit in a machine's memory."""
    text = "nodes:\n" + "".join(f"  n{i}: {{address: 10.0.{i // 250}.{i % 250}, groups: [kvm]}}\n" for i in range(2000))
    tracemalloc.start()
    try:
        data = yaml.load(text, "x.yml")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(data["nodes"]) == 2000
    assert peak < 25 * len(text)


def test_the_collector_is_back_on_after_an_error():
    assert gc.isenabled()
    problems_of("a: [")
    assert gc.isenabled()


def test_without_libyaml_it_says_so(monkeypatch):
    monkeypatch.setattr(pyyaml, "__with_libyaml__", False)
    with pytest.raises(HalliganError, match="without libyaml"):
        yaml.load("a: 1", "x.yml")
