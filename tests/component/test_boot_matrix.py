"""Every kind of firmware asks a real dnsmasq with our configuration, as DHCP server and as proxyDHCP.

The packets are those of RFC 2131 with what firmware sends besides (RFC 4578, RFC 3004, iPXE's option 175). Nothing is
booted; server and machine are network namespaces of this test's own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.boot import DhcpSettings, Templates, dnsmasq

ROOT = Path(__file__).parents[2]
HTTP = "http://10.97.0.1:8090"
LOADER = f"{HTTP}/files/loaders"


def _missing() -> str:
    if os.geteuid() != 0:
        return "only root can make network namespaces and serve DHCP"
    missing = [tool for tool in ("dnsmasq", "ip", "unshare", "nsenter", "setpriv") if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    made = subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False)
    return "" if made.returncode == 0 else "network namespaces cannot be made here"


pytestmark = pytest.mark.skipif(bool(_missing()), reason=_missing())

# Runs in the machine's namespace: sends one question until an answer came, and prints what it says.
CLIENT = """
import json, socket, sys, time
question = json.loads(sys.argv[1])
mac = bytes.fromhex("525400000077")

def option(code, value):
    return bytes([code, len(value)]) + value

def message(kind, ciaddr):
    head = bytes([1, 1, 6, 0]) + b"ABCD" + bytes([0, 0, 128, 0]) + socket.inet_aton(ciaddr) + bytes(12)
    body = option(53, bytes([kind])) + option(55, bytes([1, 3, 6, 26, 43, 60, 66, 67])) + option(97, bytes(17))
    if question["arch"] is not None:
        body += option(93, question["arch"].to_bytes(2, "big")) + option(94, bytes([1, 3, 0]))
    if question["vendor"]:
        body += option(60, question["vendor"].encode())
    if question["user"]:
        body += option(77, question["user"].encode())
    if kind == 3 and question["arch"] == 0:
        body += option(43, bytes([71, 4, 128, 0, 0, 0]))  # the first item of the menu, as BIOS firmware asks for it
    if question["ipxe"]:
        body += option(175, bytes([177, 5, 1, 128, 134, 16, 14, 19, 1, 1]))
    return head + mac + bytes(10 + 64 + 128) + bytes([99, 130, 83, 99]) + body + bytes([255])

def read(packet):
    options, at = {}, 240
    while at < len(packet) and packet[at] != 255:
        if packet[at]:
            options[packet[at]] = packet[at + 2 : at + 2 + packet[at + 1]]
            at += packet[at + 1] + 1
        at += 1
    file = packet[108:236].split(bytes(1))[0] or options.get(67, b"").split(bytes(1))[0]
    return {"kind": options[53][0], "yours": socket.inet_ntoa(packet[16:20]), "next": socket.inet_ntoa(packet[20:24]),
            "file": file.decode(), "class": options.get(60, b"").decode(),
            "options": {code: value.hex() for code, value in options.items()}}

def ask(kind, port, to, ciaddr):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
        udp.bind(("", 68))
        udp.settimeout(0.5)
        for _ in range(question["tries"]):
            udp.sendto(message(kind, ciaddr), (to, port))
            try:
                return read(udp.recv(2048))
            except TimeoutError:
                pass
    return None

answer = {"offer": ask(1, 67, "255.255.255.255", "0.0.0.0")}
if question["binl"]:
    answer["ack"] = ask(3, 4011, "10.97.0.1", "10.97.0.50")
print(json.dumps(answer))
"""


class Room:
    """Two namespaces with a cable between them: ours with dnsmasq, and the machine's."""

    def __init__(self, folder: Path, mode: str) -> None:
        self._folder = folder
        self._mode = mode
        self._children: list[subprocess.Popen[bytes]] = []
        self.log = folder / "dnsmasq.log"

    def open(self) -> None:
        ours, machine = (self._namespace() for _ in range(2))
        self._ours, self._machine = ours, machine
        self._run(ours, "ip", "link", "add", "eth1", "type", "veth", "peer", "name", "eth0", "netns", str(machine))
        self._run(ours, "ip", "address", "add", "10.97.0.1/24", "dev", "eth1")
        self._run(ours, "ip", "link", "set", "eth1", "up")
        self._run(machine, "ip", "address", "add", "10.97.0.50/24", "dev", "eth0")
        self._run(machine, "ip", "link", "set", "eth0", "up")
        self._configure()
        command = ["setpriv", "--pdeathsig", "KILL", "dnsmasq", "-C", str(self._folder / "dnsmasq.conf")]
        with self.log.open("wb") as log:
            self._children.append(subprocess.Popen([*self._inside(ours), *command], stderr=log, stdout=log))
        deadline = time.monotonic() + 30
        while "started, version" not in self.log.read_text():
            assert self._children[-1].poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def _configure(self) -> None:
        tftp = self._folder / "tftp"
        tftp.mkdir(mode=0o755)
        server = self._mode == "server"
        settings = DhcpSettings(
            mode=self._mode,
            interface="eth1",
            address="10.97.0.1",
            network="10.97.0.0/24",
            http=HTTP,
            lease_file=str(self._folder / "leases"),
            tftp_root=str(tftp),
            first="10.97.0.100" if server else "",
            last="10.97.0.109" if server else "",
            gateway="10.97.0.254" if server else "",
            mtu=9000 if server else 1500,
            user="root",
        )
        templates = Templates({path.name: path.read_text() for path in (ROOT / "pxe/templates").glob("*.j2")})
        # The PID file's default place is the machine's own: a dnsmasq that runs here keeps it.
        (self._folder / "dnsmasq.conf").write_text(dnsmasq(settings, templates) + "pid-file=\n")

    def ask(self, arch=None, vendor="", user="", *, ipxe=False, binl=False, tries=20):
        question = {"arch": arch, "vendor": vendor, "user": user, "ipxe": ipxe, "binl": binl, "tries": tries}
        done = self._run(self._machine, sys.executable, "-c", CLIENT, json.dumps(question))
        return json.loads(done.stdout)

    def close(self) -> None:
        for child in reversed(self._children):
            child.kill()
            child.wait()
            if child.stdin:
                child.stdin.close()

    def _namespace(self) -> int:
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "-n", "sh", "-c", "echo; cat"]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._children.append(child)
        assert child.stdout is not None
        child.stdout.readline()  # it is in its own namespace by now
        child.stdout.close()
        return child.pid

    @staticmethod
    def _inside(pid: int) -> tuple[str, ...]:
        return ("nsenter", "-t", str(pid), "-n")

    def _run(self, pid: int, *command: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([*self._inside(pid), *command], capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        return done


def opened(mode, tmp_path_factory):
    made = Room(tmp_path_factory.mktemp(mode), mode)
    try:
        made.open()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    yield from opened("server", tmp_path_factory)


@pytest.fixture(scope="module")
def proxy(tmp_path_factory):
    yield from opened("proxy", tmp_path_factory)


@pytest.fixture(params=["server", "proxy"])
def room(request):
    return request.getfixturevalue(request.param)


FIRMWARE = [
    pytest.param(0, "undionly.kpxe", id="bios"),
    pytest.param(7, "snponly.efi", id="uefi"),
    pytest.param(9, "snponly.efi", id="uefi-as-ebc"),
    pytest.param(11, "snponly-arm64.efi", id="arm64"),
]
HTTP_FIRMWARE = [
    pytest.param(16, f"{LOADER}/snponly.efi", id="uefi-http"),
    pytest.param(19, f"{LOADER}/snponly-arm64.efi", id="arm64-http"),
]


def vendor(kind, arch):
    return f"{kind}:Arch:{arch:05}:UNDI:003016"


@pytest.mark.parametrize(("arch", "file"), FIRMWARE)
def test_pxe_firmware_gets_address_and_loader(server, arch, file):
    offer = server.ask(arch, vendor("PXEClient", arch))["offer"]
    assert (offer["kind"], offer["file"], offer["next"]) == (2, file, "10.97.0.1")
    assert offer["yours"].startswith("10.97.0.10")
    assert offer["options"]["3"] == bytes([10, 97, 0, 254]).hex()
    assert offer["options"]["26"] == (9000).to_bytes(2, "big").hex()


@pytest.mark.parametrize(("arch", "file"), HTTP_FIRMWARE)
def test_http_firmware_gets_a_url_and_its_class(room, arch, file):
    offer = room.ask(arch, vendor("HTTPClient", arch))["offer"]
    assert (offer["kind"], offer["file"]) == (2, file)
    assert offer["class"].startswith("HTTPClient")


@pytest.mark.parametrize("arch", [0, 7, 11, 16])
@pytest.mark.parametrize(
    "shows", [{"ipxe": True}, {"user": "iPXE"}, {"ipxe": True, "user": "iPXE"}], ids=["175", "class", "both"]
)
def test_ipxe_gets_the_first_script(room, arch, shows):
    """Whatever it runs on, and whichever of its two marks it shows: else it would load itself for ever."""
    offer = room.ask(arch, vendor("PXEClient", arch), **shows)["offer"]
    assert offer["file"] == f"{HTTP}/boot/script"


def test_a_32_bit_uefi_gets_an_address_and_no_loader(server):
    offer = server.ask(6, vendor("PXEClient", 6))["offer"]
    assert (offer["kind"], offer["file"]) == (2, "")


def test_an_operating_system_gets_an_address_and_no_loader(server):
    offer = server.ask(None, "")["offer"]
    assert (offer["kind"], offer["file"]) == (2, "")


def test_one_machine_has_one_address_however_often_it_asks(server):
    """Firmware, iPXE and kernel have different client ids; two leases per boot would halve the pool."""
    answers = [server.ask(0, vendor("PXEClient", 0)), server.ask(0, vendor("PXEClient", 0), ipxe=True), server.ask()]
    assert len({answer["offer"]["yours"] for answer in answers}) == 1


def test_a_proxy_offers_no_address(proxy):
    offer = proxy.ask(0, vendor("PXEClient", 0))["offer"]
    assert (offer["kind"], offer["yours"], offer["class"]) == (2, "0.0.0.0", "PXEClient")


def test_a_proxy_is_silent_to_who_does_not_boot(proxy):
    assert proxy.ask(None, "", tries=3)["offer"] is None


@pytest.mark.parametrize(("arch", "file"), FIRMWARE)
def test_a_proxy_names_the_loader_on_the_boot_server_s_port(proxy, arch, file):
    """Firmware that has an address from the other server asks port 4011 what to load."""
    ack = proxy.ask(arch, vendor("PXEClient", arch), binl=True)["ack"]
    assert ack is not None
    assert (ack["kind"], ack["file"]) == (5, file)
    assert ack["yours"] in ("0.0.0.0", "10.97.0.50")  # none, or the one that it came with
