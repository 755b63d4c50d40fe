"""A real lab of two containers: logged in to, installed on, broken, mended and taken down without a trace."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from orchestrator.lab import Lab, LabError, LabNode, apt, connection, down, room, status, up
from orchestrator.lab.host import Cgroup
from orchestrator.lab.node import Node
from orchestrator.lab.values import Places

# Parallel test workers each have a lab of their own.
SITE = f"labtest{os.environ.get('PYTEST_XDIST_WORKER', '')}"


def reason_to_skip() -> str:
    """Why no lab can be had here; empty if one can."""
    try:
        room.require_machine()
        apt.read_machine()
    except LabError as error:
        return f"{error.summary}. {error.hint}"
    except FileNotFoundError as error:
        return str(error)
    return ""


pytestmark = pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip() or "-")


@dataclass(frozen=True)
class Room:
    """The lab under test, and what it reported last."""

    lab: Lab
    lines: list[str] = field(default_factory=list)

    def up(self) -> list[str]:
        self.lines.clear()
        return [f"{node.name} {node.state}" for node in up(self.lab, self.lines.append)]

    def down(self) -> None:
        down(self.lab, self.lines.append)

    def states(self) -> dict[str, str]:
        return {node.name: node.state for node in status(self.lab)}

    def node(self, name: str) -> Node:
        places = Places.of(self.lab)
        return next(Node(lab=self.lab, places=places, node=n) for n in self.lab.nodes if n.name == name)

    def ssh_command(self, name: str, *words: str) -> list[str]:
        how = connection(self.lab)
        options = {
            "BatchMode": "yes",
            "IdentitiesOnly": "yes",
            "IdentityFile": str(how.private_key),
            "ProxyCommand": how.proxy_command,
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": str(how.known_hosts),
        }
        address = self.node(name).node.address
        flags = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        return ["ssh", "-F", "none", *flags, f"{how.user}@{address}", *words]

    def ssh(self, name: str, command: str) -> str:
        done = subprocess.run(self.ssh_command(name, command), capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout[-1000:]}{done.stderr[-1000:]}"
        return done.stdout.strip()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Disks and keys below the test's own folder; the cache is the machine's, so that the image is built once."""
    folder = tmp_path_factory.mktemp("lab")
    before = os.environ.get("HALLIGAN_LAB_DIR")
    os.environ["HALLIGAN_LAB_DIR"] = str(folder / "disks")
    yield folder
    os.environ.pop("HALLIGAN_LAB_DIR")
    if before is not None:
        os.environ["HALLIGAN_LAB_DIR"] = before


@pytest.fixture(scope="module")
def room_(folder: Path) -> Iterator[Room]:
    """Two nodes, up. Tests may break them and leave that to be mended."""
    nodes = (LabNode(name="ctl-1", address="10.77.0.11"), LabNode(name="proxy", address="10.77.0.12"))
    lab = Lab(site=SITE, cidr="10.77.0.0/24", gateway="10.77.0.1", nodes=nodes, state_dir=folder / "state")
    made = Room(lab)
    made.down()  # what an earlier run that was killed may have left
    made.up()
    yield made
    made.down()


@dataclass(frozen=True)
class Traces:
    """What belongs to the lab right now, anywhere on the machine."""

    pids: frozenset[int]
    namespaces: frozenset[str]

    @classmethod
    def of(cls, lab: Lab) -> Traces:
        pids = frozenset(Cgroup.of(lab.site).pids())
        kinds = ("net", "mnt", "pid")
        ours = {link for pid in pids for kind in kinds if (link := _namespace(pid, kind))}
        machine = {_namespace(os.getpid(), kind) for kind in kinds}
        return cls(pids=pids, namespaces=frozenset(ours - machine))


def _namespace(pid: int, kind: str) -> str:
    try:
        return str(Path(f"/proc/{pid}/ns/{kind}").readlink())
    except OSError:
        return ""


def _machine_pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _mounts(text: str) -> list[str]:
    """Mounts of the lab (or of its namespaces) in any mount namespace of the machine."""
    found = set()
    for pid in _machine_pids():
        try:
            lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
        except OSError:
            continue
        found.update(line for line in lines if text in line)
    return sorted(found)


def test_every_node_runs_and_answers(room_: Room):
    """systemd finished starting, without a failed unit."""
    assert room_.states() == {"ctl-1": "running", "proxy": "running"}
    assert (
        room_.ssh("ctl-1", "hostname; systemctl is-system-running; systemctl --failed --no-legend") == "ctl-1\nrunning"
    )


def test_a_login_checks_the_host_key(room_: Room, tmp_path: Path):
    """A node that shows another key than the one on its disk is refused."""
    how = connection(room_.lab)
    swapped = how.known_hosts.read_text().replace("ctl-1,10.77.0.11", "x").replace("proxy,10.77.0.12", "y")
    wrong = tmp_path / "known_hosts"
    wrong.write_text(swapped.replace("x ", "proxy,10.77.0.12 ").replace("y ", "ctl-1,10.77.0.11 "))
    command = [word.replace(str(how.known_hosts), str(wrong)) for word in room_.ssh_command("ctl-1", "true")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 255
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in done.stderr


def test_only_the_lab_user_with_its_key_gets_in(room_: Room):
    """Root login is off, and so are passwords; sudo needs none."""
    assert room_.ssh("ctl-1", "id -un; sudo -n id -un") == "halligan\nroot"
    command = [word.replace("halligan@", "root@") for word in room_.ssh_command("ctl-1", "true")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 255
    assert "Permission denied (publickey)" in done.stderr


def test_secrets_are_private(room_: Room):
    """The key and its folder are for their owner only."""
    assert connection(room_.lab).private_key.stat().st_mode & 0o777 == 0o600
    assert room_.lab.state_dir.stat().st_mode & 0o777 == 0o700


def test_packages_come_through_the_proxy(room_: Room):
    """On both nodes at the same time, and nothing else of the outside is there."""
    install = "sudo apt-get -q update && sudo apt-get -qy install less && less --version | head -n1"
    running = [
        subprocess.Popen(room_.ssh_command(name, install), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for name in ("ctl-1", "proxy")
    ]
    for process in running:
        output, _ = process.communicate(timeout=180)
        assert process.returncode == 0, output[-1500:]
    outside = room_.ssh("ctl-1", "ip route get 192.0.2.1 >/dev/null; ping -c1 -W2 192.0.2.1 | grep Unreachable")
    assert "From 10.77.0.1" in outside


def test_the_proxy_refuses_other_hosts(room_: Room):
    """A role that downloads from elsewhere is told so at once."""
    ask = (
        "import urllib.request as u, urllib.error as e\n"
        "o = u.build_opener(u.ProxyHandler({'http': 'http://10.77.0.1:3142'}))\n"
        "try: print(o.open('http://other.example/debian/x').status)\n"
        "except e.HTTPError as error: print(error.code)"
    )
    assert room_.ssh("ctl-1", f'python3 -c "{ask}"') == "403"


def test_nodes_reach_each_other_and_have_sane_limits(room_: Room):
    """Erlang closes every descriptor up to the limit when it starts."""
    room_.ssh("ctl-1", "ping -c1 -W2 10.77.0.12")
    assert room_.ssh("ctl-1", "ulimit -Sn; ulimit -Hn") == "1024\n20000"
    assert room_.ssh("ctl-1", "sudo systemd-tmpfiles --create && findmnt -n -o FSTYPE -T /tmp") == "overlay"


def test_up_again_changes_nothing(room_: Room):
    """Same processes, same keys, and no time spent."""
    before = (room_.node("ctl-1").init(), connection(room_.lab).known_hosts.read_text())
    started = time.monotonic()
    assert room_.up() == ["ctl-1 running", "proxy running"]
    assert time.monotonic() - started < 10
    assert (room_.node("ctl-1").init(), connection(room_.lab).known_hosts.read_text()) == before
    assert room_.lines == ["ctl-1: running", "proxy: running"]


def test_a_reboot_from_inside_brings_the_node_back(room_: Room):
    """As a role that asks for a reboot expects."""
    before = room_.ssh("ctl-1", "sudo touch /kept; cat /proc/sys/kernel/random/boot_id")
    subprocess.run(room_.ssh_command("ctl-1", "sudo systemctl reboot"), capture_output=True, timeout=30, check=False)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        asked = subprocess.run(
            room_.ssh_command("ctl-1", "cat /proc/sys/kernel/random/boot_id; ls /kept"),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        if asked.returncode == 0 and before not in asked.stdout:
            break
        time.sleep(0.2)
    assert asked.stdout.endswith("/kept\n")
    assert before not in asked.stdout


def test_a_dead_node_is_reported_and_mended(room_: Room):
    """Its disk and host key are still there afterwards."""
    known = connection(room_.lab).known_hosts.read_text()
    room_.ssh("ctl-1", "sudo touch /kept && sync")
    init = room_.node("ctl-1").init()
    assert init is not None
    os.kill(init, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while room_.states()["ctl-1"] != "stopped" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert room_.states() == {"ctl-1": "stopped", "proxy": "running"}
    assert room_.up() == ["ctl-1 running", "proxy running"]
    assert room_.lines[0] == "ctl-1: starting (10.77.0.11)"
    assert connection(room_.lab).known_hosts.read_text() == known
    room_.ssh("ctl-1", "test -e /kept")


def test_a_dead_proxy_is_mended(room_: Room):
    """Otherwise every later role would fail at its first package."""
    (pid,) = Cgroup.of(SITE, "proxy").pids()
    os.kill(pid, signal.SIGKILL)
    room_.up()
    room_.ssh("proxy", "sudo apt-get -q update")


def test_a_failed_unit_is_told_and_does_not_stop_up(room_: Room):
    """Whose unit it is, the role's author knows."""
    room_.ssh("proxy", "sudo systemd-run -q --unit=broken false; sleep 0.2")
    try:
        (found,) = (node for node in status(room_.lab) if node.name == "proxy")
        assert (found.state, found.detail) == ("degraded", "failed units: broken.service")
        assert room_.up() == ["ctl-1 running", "proxy degraded"]
    finally:
        room_.ssh("proxy", "sudo systemctl reset-failed")


def test_a_node_that_cannot_boot_is_shown_with_its_console(room_: Room, monkeypatch: pytest.MonkeyPatch):
    """What, where, why and what to do next."""
    node = room_.node("ctl-1")
    node.stop()
    init = node.disk.upper / "sbin"
    assert not init.exists()
    usr_lib = node.disk.upper / "usr/lib/systemd"
    usr_lib.mkdir(parents=True, exist_ok=True)
    usr_lib.joinpath("systemd").write_text("#!/bin/sh\necho the boot went wrong\nexit 1\n")
    usr_lib.joinpath("systemd").chmod(0o755)
    with pytest.raises(LabError, match=r"Node ctl-1 of lab .* ended while it started") as caught:
        room_.up()
    assert any("the boot went wrong" in line for line in caught.value.detail)
    assert str(node.console) in caught.value.hint
    node.remove()
    assert room_.states() == {"ctl-1": "absent", "proxy": "running"}
    assert room_.up() == ["ctl-1 running", "proxy running"]


def test_a_node_that_is_no_longer_named_goes_and_a_moved_one_starts_anew(room_: Room):
    """`up` makes what is there the same as what should be."""
    first, second = room_.lab.nodes
    other = replace(room_.lab, nodes=(replace(first, address="10.77.0.21"),))
    moved = Room(other)
    assert moved.up() == ["ctl-1 running"]
    assert moved.lines[:2] == ["proxy: removing, no longer part of the lab", "ctl-1: starting (10.77.0.21)"]
    assert moved.ssh("ctl-1", "hostname -I") == "10.77.0.21"
    assert not Places.of(other).disks.joinpath("proxy").exists()
    assert second.address not in connection(other).known_hosts.read_text()


def test_a_container_that_becomes_a_vm_is_made_anew(room_: Room):
    """Both kinds in one lab; and back again, where the endpoint for power goes too."""
    first, second = room_.lab.nodes
    mixed = Room(replace(room_.lab, nodes=(replace(first, kind="vm", firmware="bios", disk_gib=1), second)))
    try:
        room.require_machine(mixed.lab)
    except LabError as error:
        pytest.skip(f"{error.summary}. {error.hint}")
    room_.up()
    assert mixed.up() == ["ctl-1 off", "proxy running"]
    assert mixed.lines[0] == "ctl-1: removing, no longer part of the lab"
    assert first.address not in connection(mixed.lab).known_hosts.read_text()
    assert mixed.lab.state_dir.joinpath("bmc-password").exists()
    assert room_.up() == ["ctl-1 running", "proxy running"]
    assert room_.ssh("ctl-1", "hostname") == "ctl-1"
    assert not Cgroup.of(SITE, "bmc").path.exists()
    assert not mixed.lab.state_dir.joinpath("bmc-password").exists()


def test_labs_stand_side_by_side(room_: Room):
    """The same addresses in two labs are two machines."""
    room_.up()
    twin = Room(replace(room_.lab, site=f"{SITE}-b", state_dir=room_.lab.state_dir.with_name("state-b")))
    try:
        twin.up()
        ids = {made.ssh("ctl-1", "cat /etc/machine-id") for made in (room_, twin)}
        assert len(ids) == 2
    finally:
        twin.down()
    assert room_.states() == {"ctl-1": "running", "proxy": "running"}


def test_an_up_that_is_killed_is_no_obstacle(room_: Room):
    """Neither for the next `up` nor for `down`."""
    room_.down()
    lab = room_.lab
    nodes = [word for node in lab.nodes for word in ("--node", f"{node.name}={node.address}")]
    words = ["-m", "orchestrator.lab", "up", "--site", lab.site, "--state", str(lab.state_dir), *nodes]
    with subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stderr is not None
        while not child.stderr.readline().startswith("proxy: creating"):
            assert child.poll() is None
        child.kill()
    assert room_.states()["proxy"] != "running"
    assert room_.up() == ["ctl-1 running", "proxy running"]


def test_down_leaves_nothing(room_: Room):
    """No process, mount, namespace, cgroup or folder; also with somebody logged in and nodes at work."""
    room_.up()
    with subprocess.Popen(room_.ssh_command("ctl-1", "sudo sleep 600")) as login:
        while "sleep" not in room_.ssh("ctl-1", "ps -e -o comm="):
            time.sleep(0.05)
        before = Traces.of(room_.lab)
        pin = Places.of(room_.lab).netns.stat().st_ino
        assert len(before.pids) > 10
        room_.down()
        assert login.wait(timeout=20) != 0
    assert [pid for pid in before.pids if _alive(pid)] == []
    left = {_namespace(pid, kind) for pid in _machine_pids() if _alive(pid) for kind in ("net", "mnt", "pid")}
    assert before.namespaces & left == set()
    assert _mounts(f"/{SITE}/") == []
    assert _mounts(f"net:[{pin}]") == []
    assert not Cgroup.of(SITE).path.exists()
    places = Places.of(room_.lab)
    assert [folder for folder in (places.run, places.disks, places.state) if folder.exists()] == []
    assert room_.states() == {"ctl-1": "absent", "proxy": "absent"}


def test_down_of_what_is_not_there_is_no_error(room_: Room):
    """So that a clean-up needs no question first; other files in the state folder are not the lab's to delete."""
    room_.lab.state_dir.mkdir()
    room_.lab.state_dir.joinpath("store.db").touch()
    room_.down()
    assert room_.lab.state_dir.joinpath("store.db").exists()
    shutil.rmtree(room_.lab.state_dir)
