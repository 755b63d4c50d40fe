"""A node's disk and identity, as far as it is plain files."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.lab import Lab, LabError, LabNode, base
from orchestrator.lab.host import Process, tail, wait_until, write_whole
from orchestrator.lab.node import Disk, _write, seed_digest, seed_files

NODE = LabNode(name="ctl-1", address="10.77.0.11")
LAB = Lab(site="demo", cidr="10.77.0.0/25", gateway="10.77.0.1", nodes=(NODE,), state_dir=Path("state"))


def seed(node: LabNode = NODE) -> dict[str, str]:
    return dict(seed_files(LAB, node, sources="sources\n", conf="conf\n", public_key="ssh-ed25519 AAAA lab\n"))


def test_the_seed_says_who_the_node_is():
    """Everything a node knows about itself is in these files."""
    files = seed()
    assert files["etc/hostname"] == "ctl-1\n"
    assert "10.77.0.11 ctl-1\n" in files["etc/hosts"]
    assert "Address=10.77.0.11/25\nGateway=10.77.0.1\n" in files["etc/systemd/network/10-lab.network"]
    assert files["home/halligan/.ssh/authorized_keys"] == "ssh-ed25519 AAAA lab\n"


def test_another_address_is_another_seed():
    """`up` compares digests to see whether a node must start anew."""
    moved = LabNode(name="ctl-1", address="10.77.0.12")
    assert seed_digest(seed()) == seed_digest(seed())
    assert seed_digest(seed()) != seed_digest(seed(moved))


def test_a_disk_is_whole_or_absent(tmp_path: Path):
    """What a killed `up` left under another name is no disk, and is in nobody's way."""
    disk = Disk(path=tmp_path / "ctl-1")
    (tmp_path / ".ctl-1.part" / "upper").mkdir(parents=True)
    assert not disk.exists()
    disk.make("abc")
    assert (disk.exists(), disk.base(), disk.seed()) == (True, "abc", "")
    disk.delete()
    disk.delete()
    assert list(tmp_path.iterdir()) == []


def test_host_keys_are_read_from_the_disk(tmp_path: Path):
    """Their comments are not part of a known_hosts line."""
    disk = Disk(path=tmp_path / "ctl-1")
    disk.make("abc")
    keys = disk.upper / "etc/ssh"
    keys.mkdir(parents=True)
    keys.joinpath("ssh_host_ed25519_key.pub").write_text("ssh-ed25519 AAAA root@ctl-1\n")
    keys.joinpath("ssh_host_rsa_key.pub").write_text("ssh-rsa BBBB\n")
    assert disk.host_keys() == ("ssh-ed25519 AAAA", "ssh-rsa BBBB")


def test_a_link_inside_does_not_lead_the_writer_out(tmp_path: Path):
    """Who is root in a container must not choose where root of the machine writes."""
    upper, outside = tmp_path / "upper", tmp_path / "outside"
    upper.mkdir()
    outside.mkdir()
    upper.joinpath("etc").symlink_to(outside)
    with pytest.raises(LabError, match="is a link"):
        _write(upper, "etc/hostname", "x")
    upper.joinpath("etc").unlink()
    upper.joinpath("etc").mkdir()
    upper.joinpath("etc/hostname").symlink_to(outside / "hostname")
    _write(upper, "etc/hostname", "x")
    assert list(outside.iterdir()) == []
    assert upper.joinpath("etc/hostname").read_text() == "x"


def test_the_base_image_is_named_by_its_recipe(monkeypatch: pytest.MonkeyPatch):
    """One more package is another image; nodes made on the old one keep it."""
    before = base.digest()
    assert before == base.digest()
    monkeypatch.setattr(base, "PACKAGES", (*base.PACKAGES, "less"))
    assert base.digest() != before


def test_a_process_on_record_is_told_from_a_later_one_with_its_pid(tmp_path: Path):
    """Pids come again, start times do not."""
    me = Process.of(1)
    me.write(tmp_path / "pid")
    assert Process.read(tmp_path / "pid") == me
    assert me.is_alive()
    assert not Process(pid=1, started=me.started + 1).is_alive()


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"pid": 1}'])
def test_a_record_cut_short_is_no_record(text: str, tmp_path: Path):
    """The machine may have stopped while it was written."""
    tmp_path.joinpath("pid").write_text(text)
    assert Process.read(tmp_path / "pid") is None
    assert Process.read(tmp_path / "none") is None


def test_waiting_ends_with_the_condition_or_in_time():
    """The condition is looked at once more than time allows, never less than once."""
    answers = iter([False, False, True])
    assert wait_until(lambda: next(answers), 5, every_s=0)
    assert not wait_until(lambda: False, 0, every_s=0)


def test_a_logs_tail_is_its_last_full_lines(tmp_path: Path):
    """Blank lines and bytes that are no text do not spoil an error message."""
    log = tmp_path / "ctl-1.console"
    log.write_bytes(b"one\n\ntwo\xff\r\nthree\n")
    assert tail(log, 2) == ["ctl-1.console: two\ufffd", "ctl-1.console: three"]
    assert "no log" in tail(tmp_path / "none")[0]


def test_writing_whole_leaves_no_partial_file(tmp_path: Path):
    """The old text is there until the new one is."""
    path = tmp_path / "known_hosts"
    write_whole(path, "old")
    write_whole(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
