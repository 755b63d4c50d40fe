"""A real dnsmasq under the boot service's supervision, in network namespaces of this test's own."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.bootservice import ROOT, Service, settings, until

from orchestrator.identity import make
from orchestrator.lifecycle import Signal, move
from orchestrator.netboot import Settings
from orchestrator.processes import users
from orchestrator.store import kinds
from orchestrator.store.store import Store


def _missing() -> str:
    if os.geteuid() != 0:
        return "only root can make network namespaces and serve DHCP"
    missing = [tool for tool in ("dnsmasq", "busybox", "ip", "unshare", "nsenter") if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    if not Path("/usr/lib/ipxe/undionly.kpxe").exists():
        return "not installed: ipxe"
    made = subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False)
    return "" if made.returncode == 0 else "network namespaces cannot be made here"


pytestmark = pytest.mark.skipif(bool(_missing()), reason=_missing())

MAC = "52:54:00:00:00:{:02x}"

# Asks as PXE firmware does, and prints who offers what.
ASK = """
import json, socket, sys, time
from orchestrator.netboot import probe
interface, mac = sys.argv[1], bytes.fromhex(sys.argv[2].replace(":", ""))
vendor, arch = sys.argv[3].encode(), int(sys.argv[4])
message = probe.discover(77, mac)[:-1] + bytes([60, len(vendor)]) + vendor + bytes([93, 2, 0, arch, 94, 3, 1, 2, 1])
message += bytes([97, 17, 0]) + bytes(15) + b"\\1" + b"\\xff"
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x800)) as raw:
    raw.bind((interface, 0x800))
    raw.settimeout(0.2)
    offers, deadline, again = {}, time.monotonic() + 20, 0
    while time.monotonic() < deadline and len(offers) < int(sys.argv[5]):
        if time.monotonic() > again:
            raw.send(probe.frame(message, mac))
            again = time.monotonic() + 2
        try:
            received = raw.recv(2048)
        except TimeoutError:
            continue
        if found := probe.offer(received, 77):
            body = received[14 + (received[14] & 15) * 4 + 8:]
            options = dict(probe._options(body[240:]))
            file = body[108:236].split(b"\\0")[0] or options.get(67, b"").split(b"\\0")[0]
            kind = options.get(60, b"").decode()
            offers[found.server] = {"offered": found.offered, "file": file.decode(), "class": kind}
print(json.dumps(offers))
"""


@dataclass
class Net:
    """Three namespaces: ours with the bridge `br0`, one of a machine (`eth0`), one of another server (`eth0`)."""

    folder: Path
    holders: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    others: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def make(self) -> None:
        for name in ("ours", "machine", "other"):
            self.holders[name] = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "unshare", "-n", "cat"], stdin=-1)
            until(lambda pid=self.holders[name].pid: _namespace(pid) != _namespace("self"), "the namespace is there")
            self.run(name, "ip", "link", "set", "lo", "up")
        self.run("ours", "ip", "link", "add", "br0", "type", "bridge")
        self.run("ours", "ip", "address", "add", "10.98.0.1/24", "dev", "br0")
        for name in ("machine", "other"):
            port = f"to-{name}"
            peer = ("peer", "name", "eth0", "netns", str(self.holders[name].pid))
            self.run("ours", "ip", "link", "add", port, "type", "veth", *peer)
            self.run("ours", "ip", "link", "set", port, "master", "br0", "up")
            self.run(name, "ip", "link", "set", "eth0", "up")
        self.run("ours", "ip", "link", "set", "br0", "up")
        self.run("other", "ip", "address", "add", "10.98.0.2/24", "dev", "eth0")

    def inside(self, name: str) -> tuple[str, ...]:
        return ("nsenter", "-t", str(self.holders[name].pid), "-n")

    def run(self, name: str, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.inside(name), *command], capture_output=True, text=True, check=check, timeout=60, cwd=ROOT
        )

    def lease(self, number: int) -> bool:
        """Whether a machine with this number gets an address."""
        self.run("machine", "ip", "link", "set", "eth0", "down")
        self.run("machine", "ip", "link", "set", "eth0", "address", MAC.format(number))
        self.run("machine", "ip", "link", "set", "eth0", "up")
        asked = ("busybox", "udhcpc", "-i", "eth0", "-f", "-n", "-q", "-t", "4", "-T", "1", "-s", "/bin/true")
        return self.run("machine", *asked, check=False).returncode == 0

    def ask(self, number: int, vendor: str, arch: int, *, offers: int = 1) -> dict[str, dict[str, str]]:
        words = ("-c", ASK, "eth0", MAC.format(number), vendor, str(arch), str(offers))
        found: dict[str, dict[str, str]] = json.loads(self.run("machine", sys.executable, *words).stdout)
        return found

    def other_server(self) -> None:
        """Start a DHCP server that is none of ours."""
        log = self.folder / "other.log"
        command = [
            *(*self.inside("other"), "setpriv", "--pdeathsig", "KILL", "dnsmasq", "--conf-file=/dev/null", "--port=0"),
            *("--user=root", "--interface=eth0", "--bind-dynamic", "--keep-in-foreground", "--log-facility=-"),
            *("--dhcp-range=10.98.0.200,10.98.0.220,600", "--pid-file=", f"--dhcp-leasefile={self.folder / 'other'}"),
        ]
        with log.open("wb") as file:
            self.others.append(subprocess.Popen(command, stderr=file))
        until(lambda: "started, version" in log.read_text(), "the other server serves")

    def end(self) -> None:
        for process in (*self.others, *self.holders.values()):
            process.kill()
            process.wait()
            if process.stdin:
                process.stdin.close()


def _namespace(pid: int | str) -> Path:
    return Path(f"/proc/{pid}/ns/net").readlink()


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    made = Net(tmp_path)
    try:
        made.make()
        yield made
    finally:
        made.end()


def configured(folder: Path, mode: str = "server", last: str = "10.98.0.29", **changes: object) -> Settings:
    boot = {"dhcp": mode, "address": "10.98.0.1", "first": "10.98.0.20", "last": last}
    return settings(folder, boot=boot, network="10.98.0.0/24", **changes)


@pytest.fixture
def start(net: Net, tmp_path: Path) -> Iterator[object]:
    started: list[Service] = []

    def begin(**changes: object) -> Service:
        service = Service(settings=configured(tmp_path, **changes), folder=tmp_path, prefix=net.inside("ours"))
        started.append(service)
        service.start()
        return service

    yield begin
    for service in started:
        if service.process is not None and service.process.poll() is None:
            service.stop()


def seen(service: Service, what: str) -> list[tuple[str, str, str]]:
    """Machine, MAC and detail of each sighting."""
    with Store.open(service.settings.store) as store:
        found = [event.data for event in store.events(kinds=(kinds.MACHINE_BOOT,))]
    return [(data["machine"], data["mac"], data["detail"]) for data in found if data["what"] == what]


def configuration(service: Service) -> Path:
    return service.settings.state_dir / "dnsmasq.conf"


def the_dnsmasq(service: Service) -> list[int]:
    pids = users(configuration(service))
    return [pid for pid in pids if Path(f"/proc/{pid}/comm").read_text() == "dnsmasq\n"]


def test_a_machine_gets_an_address_and_its_loader(net: Net, start, tmp_path: Path) -> None:
    service = start()
    with Store.open(service.settings.store) as store:
        known = move(None, Signal.BOOT, machine="m-000000000002", identity=make(macs=[MAC.format(2)]))
        store.append([kinds.machine_moved(known, at=1.0)])
    assert net.lease(1)
    assert net.lease(2)
    details = until(lambda: len(found := seen(service, "dhcp")) >= 8 and found, "the sightings are on record")
    verbs = {(machine, mac, detail.split()[0]) for machine, mac, detail in details}
    given = ("DHCPDISCOVER", "DHCPOFFER", "DHCPREQUEST", "DHCPACK")
    assert verbs == {("", MAC.format(1), v) for v in given} | {("m-000000000002", MAC.format(2), v) for v in given}
    [address] = {detail.split()[1] for _, mac, detail in details if mac == MAC.format(2) and "ACK" in detail}

    net.run("machine", "ip", "address", "add", f"{address}/24", "dev", "eth0")
    loaded = tmp_path / "loaded"
    net.run("machine", "busybox", "tftp", "-g", "-r", "undionly.kpxe", "-l", str(loaded), "10.98.0.1")
    assert loaded.read_bytes() == Path("/usr/lib/ipxe/undionly.kpxe").read_bytes()
    net.run("machine", "busybox", "tftp", "-g", "-r", "nothing", "-l", str(loaded), "10.98.0.1", check=False)
    tftp = until(lambda: len(found := seen(service, "tftp")) >= 2 and found, "both transfers are on record")
    assert tftp[0] == ("m-000000000002", MAC.format(2), f"sent undionly.kpxe to {address}")
    assert tftp[1][2] == f"nothing is missing for {address}"


@pytest.mark.parametrize(
    ("vendor", "arch", "file"),
    [
        ("PXEClient:Arch:00000:UNDI:002001", 0, "undionly.kpxe"),
        ("PXEClient:Arch:00007:UNDI:003016", 7, "snponly.efi"),
        ("HTTPClient:Arch:00016:UNDI:003001", 16, "http://10.98.0.1:{port}/files/loaders/snponly.efi"),
    ],
)
def test_firmware_is_told_its_loader(net: Net, start, vendor: str, arch: int, file: str) -> None:
    service = start()
    offers = net.ask(1, vendor, arch)
    assert offers["10.98.0.1"]["file"] == file.format(port=service.record.http_port)


def test_an_exhausted_range_is_told(net: Net, start) -> None:
    service = start(last="10.98.0.20")
    assert net.lease(1)
    assert not net.lease(2)
    full = until(lambda: [s for s in seen(service, "dhcp") if "no address available" in s[2]], "it is on record")
    assert full[0][1] == MAC.format(2)
    until(lambda: f"no address is left for {MAC.format(2)}" in service.log, "it is in the log")
    assert "widen it" in service.log


def test_a_second_server_is_refused(net: Net, tmp_path: Path) -> None:
    net.other_server()
    path = tmp_path / "settings.json"
    configured(tmp_path).write(path)
    done = net.run("ours", sys.executable, "-m", "orchestrator.netboot", str(path), check=False)
    assert done.returncode == 1
    assert "another DHCP server answers on br0: 10.98.0.2" in done.stderr
    assert "boot.dhcp: proxy" in done.stderr


def test_a_second_server_that_comes_later_is_told(net: Net, start) -> None:
    service = start(probe_s=0.5)
    net.other_server()
    until(lambda: "another DHCP server answers: 10.98.0.2" in service.log, "it is in the log")
    until(lambda: any("10.98.0.2" in detail for _, _, detail in seen(service, "dhcp")), "it is on record")


def test_a_proxy_works_beside_another_server(net: Net, start) -> None:
    net.other_server()
    service = start(mode="proxy")
    offers = net.ask(1, "PXEClient:Arch:00000:UNDI:002001", 0, offers=2)
    assert offers["10.98.0.2"]["offered"].startswith("10.98.0.2")
    assert offers["10.98.0.1"]["offered"] == "0.0.0.0"
    assert offers["10.98.0.1"]["class"] == "PXEClient"
    until(lambda: any(mac == MAC.format(1) for _, mac, _ in seen(service, "dhcp")), "it is on record")
    assert net.lease(2)


def test_dnsmasq_is_started_again_when_it_dies(net: Net, start) -> None:
    service = start()
    [first] = the_dnsmasq(service)
    os.kill(first, signal.SIGKILL)
    until(lambda: [pid for pid in the_dnsmasq(service) if pid != first], "another one runs")
    until(lambda: net.lease(1), "it serves")
    assert "dnsmasq ended with exit code 137" in service.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_dnsmasq_ends_with_us(start, number: int) -> None:
    service = start()
    assert the_dnsmasq(service)
    [root] = re.findall("^tftp-root=(.+)$", configuration(service).read_text(), re.MULTILINE)
    assert Path(root).is_dir()
    service.stop(number)
    until(lambda: not users(configuration(service)), "nothing of it runs")
    if number == signal.SIGTERM:
        assert not Path(root).parent.exists()
    shutil.rmtree(Path(root).parent, ignore_errors=True)


def test_what_keeps_dhcp_from_starting_is_told(net: Net, tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    made = configured(tmp_path)

    def said(**boot: str) -> str:
        settings(tmp_path, boot={"dhcp": "server", "address": "10.98.0.1", **boot}, network="10.98.0.0/24").write(path)
        done = net.run("ours", sys.executable, "-m", "orchestrator.netboot", str(path), check=False)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        return done.stderr

    assert "this machine has no such interface" in said(interface="eth7", first=made.boot.first, last=made.boot.last)
    assert "no addresses to lease" in said()
    net.run("ours", "ip", "link", "set", "br0", "down")
    assert "it is down" in said(first=made.boot.first, last=made.boot.last)
