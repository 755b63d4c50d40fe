"""The discovery image, built by its recipe and booted on emulated machines: what it tells, and what it refuses."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.certificates import authority
from support.discovery import CUT_OFF, LIMIT_S, TOKEN, Answer, Servers, booted, free_port, site_of, switch

from orchestrator.errors import HalliganError
from orchestrator.images import discovery
from orchestrator.images.discovery import Discovery
from orchestrator.lab import LabError, apt
from orchestrator.processes import users

ROOT = Path(__file__).parents[2]
RECIPE, AGENT = ROOT / "pxe/discovery", ROOT / "pxe/agent/halligan_agent.py"
CACHE = Path(os.environ.get("HALLIGAN_CACHE_DIR") or "/var/cache/halligan")

MAC, OTHER_MAC = "52:54:00:12:34:56", "52:54:00:12:34:57"
UUID = "6f1b2f6c-0b1c-4a4e-9d5e-0123456789ab"
MACHINE = "/v1/machines/m-0123456789ab"
GIB = 1 << 30

CALLED = """
    blkdiscard blockdev btrfs cp dmidecode dmsetup e2fsck efibootmgr ethtool hdparm ip ipmitool lldpcli lshw lspci mcopy
    mdadm mdir mkfs.vfat modprobe mount nvme partx poweroff reboot resize2fs sgdisk ssh-keygen systemctl
    systemd-detect-virt udevadm umount wipefs xfs_growfs zstd
"""


def reason_to_skip() -> str:
    """Why no image can be built or booted here; empty if it can."""
    if os.geteuid() != 0:
        return "only root can build images"
    tools = (*discovery.TOOLS, "qemu-system-x86_64", "qemu-img", "ssh", "ssh-keygen", "unsquashfs")
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    try:
        apt.read_machine()
    except LabError as error:
        return f"{error.summary}. {error.hint}"
    return ""


pytestmark = pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip() or "-")


@pytest.fixture(scope="module")
def image() -> Discovery:
    try:
        return discovery.build(CACHE, print, kernel="cloud", agent=AGENT, recipe=RECIPE)
    except HalliganError as error:
        pytest.fail(str(error))


@dataclass(frozen=True)
class Stand:
    """What a machine meets: servers that run, and what its boot is told of them."""

    servers: Servers
    ports: tuple[int, int]
    ca: str
    folder: Path

    @property
    def network(self) -> tuple[str, ...]:
        return ("-netdev", "user,id=boot", "-device", f"virtio-net-pci,netdev=boot,mac={MAC},romfile=")


@pytest.fixture
def stand(tmp_path: Path, image: Discovery) -> Iterator[Stand]:
    signer = authority(tmp_path)
    root = image.root.path.read_bytes()
    servers = Servers(tls=signer.server("10.0.2.2"), serve=lambda count, asked: (200, root))
    with servers.running() as ports:
        yield Stand(servers=servers, ports=ports, ca=signer.path.read_text(), folder=tmp_path)


def test_the_image_is_small_and_knows_what_is_in_it(image: Discovery) -> None:
    files = (image.kernel, image.initrd, image.root)
    total = sum(file.size for file in files)
    print(f"discovery image {image.digest}, kernel {image.kernel_version}: {total / 1e6:.1f} MB on the wire")
    for file in files:
        print(f"  {file.path.name:14} {file.size / 1e6:6.1f} MB")
        assert file.path.stat().st_size == file.size
        assert (
            subprocess.run(["sha256sum", file.path], capture_output=True, check=True).stdout[:64].decode()
            == file.sha256
        )
    assert total <= 150e6
    assert image.initrd.size <= 6e6
    assert image.initrd.size % 4 == 0, "the kernel would not find the site's archive behind it"


def test_every_program_that_the_agent_calls_is_in_the_root(image: Discovery) -> None:
    listed = subprocess.run(["unsquashfs", "-l", "-d", "", image.root.path], capture_output=True, text=True, check=True)
    inside = set(listed.stdout.splitlines())
    called = CALLED.split()
    agent = AGENT.read_text()
    unknown = [name for name in called if not any(f"/usr/{place}/{name}" in inside for place in ("bin", "sbin"))]
    assert unknown == []
    assert [name for name in ("lshw", "sgdisk", "zstd", "nvme", "mcopy") if f'"{name}"' not in agent] == []
    secrets = [path for path in inside if "/ssh_host_" in path or path.startswith(("/etc/nvme/host", "/root/.ssh/"))]
    assert secrets == [], "what must differ from machine to machine is the same on all"


def test_a_machine_boots_enrols_and_tells_what_it_is(image: Discovery, stand: Stand) -> None:
    """It has two NICs. The boot came from the second, where DHCP is; behind the first is a switch that speaks LLDP."""
    ssh, wire_in, wire_out = free_port(), free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_DGRAM)
    disk = stand.folder / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(3 * GIB)
    devices = (
        *("-netdev", f"socket,id=other,udp=127.0.0.1:{wire_out},localaddr=127.0.0.1:{wire_in}"),
        *("-device", f"virtio-net-pci,netdev=other,mac={OTHER_MAC},romfile="),
        *("-netdev", f"user,id=boot,hostfwd=tcp:127.0.0.1:{ssh}-:22"),
        *("-device", f"virtio-net-pci,netdev=boot,mac={MAC},romfile="),
        *("-drive", f"if=none,id=disk,file={disk},format=raw", "-device", "virtio-blk-pci,drive=disk,serial=DISK-0815"),
        *("-smbios", f"type=1,manufacturer=Acme,product=Anvil,serial=SN-4711,uuid={UUID}"),
    )
    site = site_of(image, stand.ports, stand.ca)
    with (
        switch(wire_in, wire_out, "02:00:00:00:00:03"),
        booted(image, stand.folder, site, devices, boot_mac=MAC) as guest,
    ):
        enrolled = stand.servers.next("POST", "/v1/enrol")
        assert enrolled.key == TOKEN
        assert enrolled.body["identity"] == {"uuid": UUID, "serials": ["SN-4711"], "macs": [MAC, OTHER_MAC]}
        assert enrolled.body["boot"] == {"mac": MAC, "mode": "bios"}

        basic = stand.servers.next("PUT", f"{MACHINE}/facts?level=basic")
        assert basic.key == "secret"
        inventory = basic.body["inventory"]
        assert inventory["cpu"]["count"] == 1
        assert 0.9 * GIB < inventory["memory"]["total"] <= GIB
        (found,) = inventory["disks"]
        assert (found["serial"], found["size"], found["tran"]) == ("DISK-0815", 3 * GIB, "virtio")
        nics = {nic["mac_address"]: nic for nic in inventory["interfaces"]}
        assert set(nics) == {MAC, OTHER_MAC}
        assert nics[MAC]["ipv4_address"] == "10.0.2.15"
        assert not nics[MAC]["name"].startswith("eth"), "the NIC of stage 1 kept its kernel name"

        full = stand.servers.next("PUT", f"{MACHINE}/facts?level=full")
        assert sum(dimm["size_mb"] for dimm in full.body["inventory"]["memory"]["dimms"]) == 1024
        (neighbour,) = full.body["lldp"][nics[OTHER_MAC]["name"]]
        assert (neighbour["system_name"], neighbour["port_id"]) == ("leaf-3a", "Eth1/7")
        notes = [note for note in full.body["agent"]["notes"] if "IPMI" not in note]
        assert notes == [], "a tool is missing or does not work"

        assert banner(ssh) == b"", "sshd runs without being asked to"
        for phase in (
            f"booted from {MAC}",
            "has the address 10.0.2.15/24",
            "fetching the root image",
            "SHA-256 checked",
            "starting the root image",
        ):
            guest.wait_for(phase)
        assert TOKEN not in guest.console
        for phase in ("stage 1 of", "SHA-256 checked", "starting the root", "basic facts sent", "full facts sent"):
            print(f"guest time {guest.seconds(phase):6.1f} s  {phase}")


def banner(port: int) -> bytes:
    """What a server says first; nothing if there is none."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            return connection.recv(64)
    except ConnectionError:
        return b""


def test_a_damaged_root_is_refused_and_a_cut_off_one_is_completed(image: Discovery, stand: Stand) -> None:
    root = image.root.path.read_bytes()
    damaged = root[: len(root) // 2 - 1] + bytes([root[len(root) // 2 - 1] ^ 1]) + root[len(root) // 2 :]
    assert len(damaged) == len(root)

    def serve(count: int, asked: str) -> Answer:
        if count == 0:
            return 503, b""
        if count == 1:
            return CUT_OFF, damaged[: len(root) // 2]
        if count == 2:
            return 206, root[int(asked.removeprefix("bytes=").rstrip("-")) :]
        return 200, root

    stand.servers.serve = serve
    with booted(
        image, stand.folder, site_of(image, stand.ports, stand.ca), stand.network, boot_mac=MAC, memory_mib=512
    ) as guest:
        assert "503" in guest.wait_for("cannot fetch http://10.0.2.2")
        refused = guest.wait_for("the root image is damaged and was thrown away")
        assert image.root.sha256 in refused
        guest.wait_for("starting the root image")
        stand.servers.next("POST", "/v1/enrol")
    console = guest.console
    assert console.index("thrown away") < console.index("SHA-256 checked") < console.index("starting the root image")
    assert stand.servers.ranges == ["", "", f"bytes={len(root) // 2}-", ""]


def test_without_the_sites_archive_it_says_so_and_restarts(image: Discovery, stand: Stand) -> None:
    with booted(image, stand.folder, {}, stand.network, boot_mac=MAC, memory_mib=256) as guest:
        guest.wait_for("there is no /etc/halligan/site.env")
        assert guest.process.wait(LIMIT_S) == 0  # QEMU ends where a machine would restart
    assert "starting the root image" not in guest.console


def test_too_little_memory_is_said_before_anything_is_fetched(image: Discovery, stand: Stand) -> None:
    site = site_of(image, stand.ports, stand.ca)
    with booted(image, stand.folder, site, stand.network, boot_mac=MAC, memory_mib=192) as guest:
        guest.wait_for("MiB of free memory; the root image wants")
    assert stand.servers.ranges == []


def test_rescue_lets_the_given_key_in_and_nobody_else(image: Discovery, stand: Stand) -> None:
    port = free_port()
    for name in ("ours", "other"):
        key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", stand.folder / name]
        subprocess.run(key, check=True)
    devices = (
        *("-netdev", f"user,id=boot,hostfwd=tcp:127.0.0.1:{port}-:22"),
        *("-device", f"virtio-net-pci,netdev=boot,mac={MAC},romfile="),
    )
    stand.servers.mode = "rescue"
    key_text = (stand.folder / "ours.pub").read_text().strip()
    site = site_of(image, stand.ports, stand.ca, mode="rescue", authorized_keys=[key_text])

    def shell(name: str) -> subprocess.CompletedProcess[str]:
        options = ("BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=no", "ConnectTimeout=60")
        words = [word for option in (*options, f"UserKnownHostsFile={stand.folder}/known") for word in ("-o", option)]
        command = ["ssh", "-F", "none", *words, "-i", stand.folder / name, "-p", str(port), "root@127.0.0.1", "id -un"]
        return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)

    with booted(image, stand.folder, site, devices, boot_mac=MAC) as guest:
        guest.wait_for("rescue: ssh root@10.0.2.15")
        ours, other = shell("ours"), shell("other")
    assert (ours.returncode, ours.stdout) == (0, "root\n"), ours.stderr
    assert other.returncode != 0
    assert "Permission denied" in other.stderr


def test_a_build_that_is_killed_leaves_nothing_running_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from orchestrator.images import discovery;"
        f"discovery.build(Path({str(tmp_path)!r}), print, agent=Path({str(AGENT)!r}), recipe=Path({str(RECIPE)!r}))"
    )
    builder = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL)
    wait_until(lambda: bool(list(tmp_path.glob("discovery/*.part/tree/usr"))), "the build begins")
    (partial,) = tmp_path.glob("discovery/*.part")
    assert users(partial) != []
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    wait_until(lambda: users(partial) == [], "all that it started ends")
    assert not list(tmp_path.glob("discovery/*/manifest.json"))
    assert [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(partial) in line] == []
    discovery.forget_partial(tmp_path)
    assert not partial.exists()


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}: never came true"
        time.sleep(0.05)
