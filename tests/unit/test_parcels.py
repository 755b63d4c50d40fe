"""Parcels are named by what is in them and by nothing else."""

from __future__ import annotations

import hashlib
import io
import lzma
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import parcels
from orchestrator.parcels import known_key, read_tree, role_files, tree_digest, tree_parcel, unpack

NAMES = st.text(st.characters(categories=("L", "N"), include_characters="._- "), min_size=1, max_size=12)
FILES = st.tuples(st.sampled_from([0o644, 0o755]), st.binary(max_size=64))
TREES = st.dictionaries(NAMES.filter(lambda name: name not in (".", "..")), FILES, max_size=6)
TREE = {"tasks/main.yml": (0o644, b"- debug:\n"), "files/run.sh": (0o755, b"#!/bin/sh\n"), "empty": (0o644, b"")}


@given(TREES, st.randoms())
def test_the_order_of_files_never_matters(tree, die):
    shuffled = list(tree.items())
    die.shuffle(shuffled)
    assert tree_digest(dict(shuffled)) == tree_digest(tree)
    assert tree_parcel("role", dict(shuffled)) == tree_parcel("role", tree)


@given(TREES, TREES)
def test_trees_share_a_digest_only_if_they_are_the_same(one, other):
    assert (tree_digest(one) == tree_digest(other)) == (one == other)


@pytest.mark.parametrize(
    "change",
    [
        {"empty": (0o755, b"")},
        {"empty": (0o644, b"\0")},
        {"files/run.sh": (0o755, b"#!/bin/sh\n\n")},
        {"more": (0o644, b"")},
    ],
    ids=["mode", "a-byte", "a-line", "a-file"],
)
def test_any_change_gives_another_name(change):
    assert tree_digest({**TREE, **change}) != tree_digest(TREE)
    moved = {("tasks/other.yml" if path == "tasks/main.yml" else path): file for path, file in TREE.items()}
    assert tree_digest(moved) != tree_digest(TREE)


def test_a_parcel_unpacks_to_what_it_was_made_of(tmp_path):
    parcel = tree_parcel("role", TREE)
    folder = unpack(parcel, tmp_path)
    assert folder.name == parcel.name == f"role-{tree_digest(TREE)}"
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    assert read_tree(files) == TREE
    with tarfile.open(fileobj=io.BytesIO(lzma.decompress(parcel.content))) as archive:
        assert {(member.mtime, member.uid, member.uname) for member in archive} == {(1, 0, "")}


def test_a_roles_files_are_those_that_a_play_may_need(tmp_path):
    for name in ("tasks/main.yml", "library/own.py", "library/__pycache__/own.pyc", "molecule/default/molecule.yml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "files").mkdir()
    (tmp_path / "files/link").symlink_to(tmp_path / "tasks/main.yml")
    (tmp_path / "files/run.sh").touch(mode=0o700)
    tree = read_tree(dict(role_files(tmp_path)))
    assert tree == {
        "files/link": (0o644, b"tasks/main.yml"),
        "files/run.sh": (0o755, b""),
        "library/own.py": (0o644, b"library/own.py"),
        "tasks/main.yml": (0o644, b"tasks/main.yml"),
    }


def test_ansible_is_packed_once_and_again_when_the_packer_changes(tmp_path, monkeypatch):
    packed = []
    monkeypatch.setattr(parcels, "_ansible_tree", lambda: packed.append(1) or TREE)
    first = parcels.ansible_parcel(tmp_path)
    assert first == parcels.ansible_parcel(tmp_path) == tree_parcel("ansible", TREE)
    assert len(packed) == 1
    monkeypatch.setattr(parcels, "ansible_version", lambda: "another")
    parcels.ansible_parcel(tmp_path)
    assert len(packed) == 2
    assert len(list(tmp_path.iterdir())) == 2


def test_a_kept_parcel_that_was_cut_short_is_packed_again(tmp_path, monkeypatch):
    monkeypatch.setattr(parcels, "_ansible_tree", lambda: TREE)
    whole = parcels.ansible_parcel(tmp_path)
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(kept.read_bytes()[:-40])
    assert parcels.ansible_parcel(tmp_path) == whole


def test_texts_that_are_read_in_two_ways_have_two_keys():
    assert known_key(True, "a: 1") != known_key(False, "a: 1")
    assert known_key(False, "a: 1") == hashlib.sha256(b"safe a: 1").hexdigest()[:32]
