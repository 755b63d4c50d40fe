"""Kinds of events and the JSON in them."""

from __future__ import annotations

import ast
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.model import Connection, PlanNode, SecretRef
from orchestrator.store import kinds
from orchestrator.store.codec import (
    decode,
    encode,
    node_from_json,
    node_to_json,
    pack_text,
    unpack_text,
)

DOCS = Path(__file__).parents[2] / "docs" / "store.md"


def constants() -> dict[str, bool]:
    """Return the value of each constant in kinds.py, and whether a docstring follows it."""
    body = ast.parse(Path(kinds.__file__).read_text()).body
    found = {}
    for statement, following in pairwise(body):
        match statement:
            case ast.Assign(targets=[ast.Name()], value=ast.Constant(value=str() as kind)):
                is_text = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
                found[kind] = is_text
    return found


def test_every_kind_is_known_and_explained() -> None:
    assert constants() == dict.fromkeys(kinds.KINDS, True)


def test_every_kind_has_a_heading_in_the_docs() -> None:
    headings = set(re.findall(r"^#+ `(\w+\.\w+)`$", DOCS.read_text(), re.MULTILINE))
    assert headings == kinds.KINDS


nodes = st.builds(
    PlanNode,
    name=st.text(),
    platform=st.text(),
    address=st.text(),
    connection=st.builds(Connection),
    groups=st.lists(st.text()).map(tuple),
    addresses=st.dictionaries(st.text(), st.text()),
)


@given(nodes)
def test_node_comes_back_from_json(node: PlanNode) -> None:
    assert node_from_json(decode(encode(node_to_json(node)))) == node


def test_node_record_of_another_version_is_readable() -> None:
    """Fields come and go; those of this version count."""
    node = PlanNode(name="n1", platform="debian-12", address="10.0.0.1", connection=Connection(port=22))
    data = node_to_json(node)
    del data["addresses"]
    data["colour"] = "blue"
    data["connection"]["shade"] = "dark"
    assert node_from_json(data) == node


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(json_values)
def test_json_is_ascii_without_nul(value: object) -> None:
    text = encode(value)
    assert text.isascii()
    assert "\0" not in text
    assert decode(text) == value


@given(st.text(st.characters(codec=None)))
def test_packed_text_comes_back(text: str) -> None:
    assert unpack_text(pack_text(text)) == text


def test_secret_is_no_json() -> None:
    with pytest.raises(TypeError):
        encode({"password": SecretRef(file="vault.yml", key="password", fingerprint="f")})
