"""Bare metal for real: two QEMU machines with empty disks, BIOS and UEFI, from power-off to a configured host and back.

Real firmware, DHCP, TFTP, HTTP, TLS and Redfish; the discovery image and the Debian image that this checkout builds.
One test function per thing seen, in order, on one lab: each start of a machine takes minutes here. What is cached of
the images is used again.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support.shell import HALLIGAN, REPO, halligan, run

from orchestrator import bmc, lab
from orchestrator.model import Bmc, Phase
from orchestrator.service import open_site

NODES = ("bios-1", "uefi-1")
LIMIT_S = 2400

NEEDED = {*lab.REQUIRED_COMMANDS, "qemu-system-x86_64", "dnsmasq", "mksquashfs", "zstd", "sgdisk", "mkfs.vfat", "mcopy"}
MISSING = sorted(command for command in NEEDED if not shutil.which(command))

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="the lab needs root"),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A copy of the example site called `metaltest`, taken down at the end."""
    folder = tmp_path_factory.mktemp("metal") / "metaltest"
    shutil.copytree(REPO / "inventories/lab-metal", folder, ignore=shutil.ignore_patterns(".*"))
    halligan("image", "build", "discovery", "--kernel", "cloud")
    halligan("image", "build", "debian-12")
    halligan("lab", "up", folder)
    yield folder
    for name in NODES:
        console = Path("/run/halligan-lab/metaltest") / f"node-{name}.console"
        if console.exists():
            print(f"--- console of {name} ---\n{console.read_text(errors='replace')[-6000:]}")
    print((folder / ".halligan" / "boot.log").read_text(errors="replace")[-6000:])
    halligan("lab", "down", folder)


def machines(site):
    return {view.node.name: view.machine for view in open_site(str(site)).machines.overview() if view.node}


def phases(site):
    return {name: machine.phase if machine else None for name, machine in machines(site).items()}


def on(site, node, command):
    """Run a command on a node, with the host key that the installer made known and no other."""
    opened = open_site(str(site))
    found = opened.spec().nodes[node]
    link = found.connection
    done = run(
        "ssh",
        *("-o", f"UserKnownHostsFile={link.known_hosts}", "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes"),
        *("-o", f"ProxyCommand={link.proxy_command}", "-i", link.private_key),
        f"{link.user}@{found.address}",
        command,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def controller(site, node):
    """Return what switches a lab machine's power, past Halligan: somebody at the plug."""
    room = open_site(str(site)).lab()
    link = lab.bmc_of(room, node)
    credential = bmc.Credential(user=link.user, password=link.password_file.read_text())
    return bmc.connect(
        Bmc(driver="redfish", address=link.address, ca=str(link.ca)), credential, node=node, firmware="uefi"
    )


def orders(site, node):
    """Return the tasks that a node's machine was ever ordered to do."""
    events = open_site(str(site)).events(node=node)
    return [
        order["task"]
        for event in events
        if event.kind == "machine.moved" and (order := event.data["changes"].get("order"))
    ]


def test_a_machine_in_the_rack_is_off_and_empty(site):
    told = halligan("lab", "status", site)
    assert all(re.search(rf"{name}\s+\S+\s+off", told) for name in NODES)
    told = halligan("plan", site, expect=2)
    assert "ERASES DATA: 2 steps" in told
    refused = halligan("apply", site, "--yes", expect=1)
    assert "2 steps would destroy data without your consent" in refused


def test_from_power_off_to_a_configured_host(site):
    """The main job, unattended: power, network boot, discovery, match, install, first login, role; BIOS and UEFI."""
    done = run(HALLIGAN, "apply", site, "--yes", "--allow-destroy", "install@*")
    for name in NODES:
        halligan("trace", site, name)
    assert done.returncode == 0, done.stdout[-4000:]
    assert phases(site) == dict.fromkeys(NODES, Phase.READY)
    for name in NODES:
        print(phase_times(done.stdout, name))
        assert re.search(rf"^{name} base changed", done.stdout, re.M)


def phase_times(told, name):
    """Return how long each step of a node took, in one line."""
    return f"{name}: " + ", ".join(
        f"{step} {took}" for step, took in re.findall(rf"^{name} (\w+) \w+ ([\d.]+s)", told, re.M)
    )


@pytest.mark.parametrize("name", NODES)
def test_the_trace_has_the_whole_way(site, name):
    told = halligan("trace", site, name, "--limit", "0")
    phases_ = ("enrolled", "discovering", "discovered", "claimed", "installing", "installed", "ready")
    moves = [f"{before} -> {after}" for before, after in itertools.pairwise(phases_)]
    seen = ["DHCPACK", "script    discover:", "site.cpio", *moves]
    places = [told.find(word) for word in seen]
    assert -1 not in places, dict(zip(seen, places, strict=True))
    assert places == sorted(places)
    if name == "uefi-1":
        assert "snponly.efi" in told


@pytest.mark.parametrize("name", NODES)
def test_the_system_is_what_the_spec_says(site, name):
    told = on(
        site,
        name,
        "hostname; . /etc/os-release; echo $ID-$VERSION_ID; test -d /sys/firmware/efi && echo uefi || echo bios",
    )
    assert told.split() == [name, "debian-12", name.partition("-")[0]]
    size = int(on(site, name, "df --output=size -B1 / | tail -n 1"))
    assert size > 6 * 10**9  # the image has less than one: it was grown to the disk
    assert "running" in on(site, name, "systemctl is-active ssh >/dev/null && cloud-init status; echo running")
    facts = json.loads(halligan("node", "show", site, name, "--json"))
    assert facts["inventory"]["boot"]["current_boot_mode"] == name.partition("-")[0]


def test_a_second_apply_has_nothing_to_do(site):
    assert "Nothing to do" in halligan("apply", site, "--yes")
    halligan("check", site)


def test_no_secret_is_in_store_log_or_scripts(site):
    """Neither the BMC's password nor a credential or token of a machine is anywhere but where it belongs."""
    opened = open_site(str(site))
    password = lab.bmc_of(opened.lab(), "bios-1").password_file.read_text().encode()
    for file in (opened.state_dir / "state.db", opened.state_dir / "boot.log", opened.state_dir / "boot-settings.json"):
        assert password not in file.read_bytes(), file
    told = [event.data["changes"].get("credential") for event in opened.events() if event.kind == "machine.moved"]
    keys = [key for key in told if key]
    assert keys
    assert all(re.fullmatch("[0-9a-f]{64}", key) for key in keys)  # SHA-256 sums, not the keys


def test_a_machine_that_loses_power_and_a_controller_that_is_killed(site):
    """Both are written anew at once. One loses power in the middle; then the controller is killed; resume ends it."""
    halligan("reinstall", site, *NODES)
    assert "ERASES DATA: 2 steps" in halligan("plan", site, expect=2)
    before = {name: len(orders(site, name)) for name in NODES}
    narrowed = ("--role", "ready")  # roles take minutes here, and have shown what they can
    command = [str(part) for part in (HALLIGAN, "apply", site, "--yes", "--allow-destroy", "install@*", *narrowed)]
    log = (site / "killed.log").open("w")
    with log, subprocess.Popen(command, cwd=REPO, stdout=log, stderr=log, stdin=subprocess.DEVNULL) as first:
        wait_for(lambda: progress(site, "bios-1") or first.poll() is not None)
        plug = controller(site, "bios-1")
        plug.set_power(bmc.Change.OFF)
        wait_for(lambda: progress(site, "uefi-1") or first.poll() is not None)
        first.send_signal(signal.SIGKILL)
    print((site / "killed.log").read_text())
    halligan("apply", site, "--resume")
    for name in NODES:
        halligan("trace", site, name)
    assert phases(site) == dict.fromkeys(NODES, Phase.READY)
    given = {name: [task for task in orders(site, name)[before[name] :] if task == "install"] for name in NODES}
    assert given["uefi-1"] == ["install"]  # it never noticed
    assert given["bios-1"] == ["install", "install"]  # it had to begin again
    assert all(on(site, name, "hostname").strip() == name for name in NODES)


def progress(site, name):
    """Whether a machine is in the middle of writing its image."""
    machine = machines(site)[name]
    if machine is None or machine.phase is not Phase.INSTALLING:
        return False
    events = [e for e in open_site(str(site)).events(node=name) if e.kind == "machine.progress"]
    return any(event.data["task"] and event.at > machine.since for event in events)


def wait_for(condition, limit_s=LIMIT_S):
    until = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.5)


def test_a_retired_machine_is_erased_with_proof(site):
    told = halligan("retire", site, "bios-1", "--yes")
    assert "is erased" in told
    assert phases(site)["bios-1"] is Phase.RETIRED
    assert controller(site, "bios-1").power() is bmc.Power.OFF
    disks = [path for path in Path("/var/lib/halligan/lab/metaltest/bios-1").rglob("*") if path.is_file()]
    disk = max(disks, key=lambda path: path.stat().st_size)
    with disk.open("rb") as file:
        assert not any(file.read(4 << 20))
        file.seek(-(1 << 20), os.SEEK_END)
        assert not any(file.read())


def test_the_lab_goes_without_a_trace(site):
    halligan("lab", "down", site)
    assert not Path("/run/halligan-lab/metaltest").exists()
    assert "12 to create" in halligan("plan", site, expect=2)  # the next machines are new
    with contextlib.suppress(FileNotFoundError):
        assert not list(Path("/var/lib/halligan/lab/metaltest").iterdir())
    halligan("lab", "up", site)  # the fixture's end takes it down again
