"""The keys of Keystone: the same on every node, and readable over a rotation."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from plugins.modules.keystone_keys import FIRST, STAGED, KeysError, derive, keep, read, wanted

SECRET = "a-secret-of-the-site-with-forty-letters."
OTHER = "another-secret-of-the-site-with-letters."
ME = (os.getuid(), os.getgid())


def keys(generation: int, found: dict[int, bytes] | None = None, purpose: str = "token", **options: bool):
    return dict(wanted(found or {}, SECRET, purpose, generation, **options).keys)


def test_a_key_is_one_that_fernet_takes() -> None:
    assert len(base64.urlsafe_b64decode(derive(SECRET, "token", 1))) == 32
    made = {derive(s, p, g) for s in (SECRET, OTHER) for p in ("token", "credential") for g in range(5)}
    assert len(made) == 20


def test_the_present_key_encrypts_and_its_neighbours_decrypt() -> None:
    held = keys(3)
    assert held[max(held)] == derive(SECRET, "token", 3)
    assert set(held.values()) == {derive(SECRET, "token", number) for number in (2, 3, 4)}


def test_nodes_before_and_after_a_rotation_read_each_other() -> None:
    before, after = keys(3), keys(4, keys(3))
    assert before[max(before)] in after.values()
    assert after[max(after)] in before.values()


def test_a_rotation_drops_the_oldest_key() -> None:
    assert derive(SECRET, "token", 2) in keys(3).values()
    assert derive(SECRET, "token", 2) not in keys(4, keys(3)).values()


def test_the_way_back_by_one_is_open() -> None:
    assert keys(3, keys(4, keys(3))) == keys(3)


@pytest.mark.parametrize("generation", [1, 5])
def test_a_jump_is_refused_with_the_number_that_is_there(generation: int) -> None:
    with pytest.raises(KeysError, match="of generation 3, and"):
        keys(generation, keys(3))


def test_keys_that_were_made_on_the_node_decrypt_on() -> None:
    held = keys(1, {0: b"staged", 1: b"primary"})
    assert [held[1], held[2]] == [b"staged", b"primary"]
    assert held[max(held)] == derive(SECRET, "token", 1)
    assert keys(1, held) == held
    assert keys(2, held)[2] == b"primary"


def test_they_are_dropped_when_asked() -> None:
    held = keys(1, {0: b"staged", 1: b"primary"})
    assert keys(1, held, keep_foreign=False) == keys(1)


def test_credentials_are_not_lost_by_dropping_their_key_at_once() -> None:
    with pytest.raises(KeysError, match="encrypted with keys that were not derived"):
        keys(1, {0: b"staged", 1: b"primary"}, "credential", keep_foreign=False)
    held = keys(1, {0: b"staged", 1: b"primary"}, "credential")
    assert keys(1, held, "credential", keep_foreign=False) == keys(1, purpose="credential")


def test_another_secret_keeps_the_keys_of_the_last_one() -> None:
    old = dict(wanted({}, OTHER, "token", 4).keys)
    held = keys(4, old)
    assert set(old.values()) < set(held.values())
    assert held[max(held)] == derive(SECRET, "token", 4)


def test_a_key_finds_its_place_before_its_name_is_taken() -> None:
    """Whoever reads in between always finds the key that encrypted last."""
    order = list(wanted({0: b"staged", 1: b"primary"}, SECRET, "token", 1).keys)
    assert order == [FIRST + 1, FIRST, 2, 1, STAGED]


@pytest.mark.parametrize(("secret", "generation"), [("short", 1), (SECRET, 0), (SECRET, 10_000)])
def test_nonsense_is_refused(secret: str, generation: int) -> None:
    with pytest.raises(KeysError):
        wanted({}, secret, "token", generation)


def test_the_folder_is_written_and_then_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    files = wanted({}, SECRET, "token", 1)
    assert keep(folder, files, ME, change=False) == [f"folder {folder}", "key 101", "key 100", "key 0"]
    assert not folder.exists()
    keep(folder, files, ME, change=True)
    assert read(folder) == files.keys
    assert keep(folder, files, ME, change=True) == []
    assert [path.stat().st_mode & 0o777 for path in folder.iterdir()] == [0o600] * 3


def test_an_interrupted_run_is_repaired(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    keep(folder, wanted({}, SECRET, "token", 1), ME, change=True)
    (folder / "100").write_bytes(b"")
    (folder / "101").chmod(0o644)
    (tmp_path / ".new-key-x").touch()
    (folder / "7").write_bytes(b"old")
    files = wanted(read(folder), SECRET, "token", 1, keep_foreign=False)
    assert keep(folder, files, ME, change=True) == ["key 101", "key 100", "key 7 dropped"]
    assert read(folder) == files.keys
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys"]
