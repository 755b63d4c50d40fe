"""Boot answers, byte for byte: who asks and in which phase it is against the script that somebody has read.

What they must give is in expected-boot/. HALLIGAN_GOLDEN=rewrite writes that anew; read the diff.
"""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.boot import (
    BootSettings,
    DhcpSettings,
    DiscoveryImage,
    Request,
    Templates,
    decide,
    dnsmasq,
    script,
    start,
)
from orchestrator.model import MachineState, Phase

HERE = Path(__file__).parent
EXPECTED = HERE / "expected-boot"
FOLDER = HERE.parents[1] / "pxe/templates"
HTTP = "http://10.77.0.1:8090"


def image(arch):
    return DiscoveryImage(kernel=f"/files/discovery/{arch}/vmlinuz", initrd=f"/files/discovery/{arch}/initrd.img")


SETTINGS = BootSettings(http=HTTP, images={"amd64": image("amd64"), "arm64": image("arm64")})
DHCP = DhcpSettings(
    mode="server",
    interface="br0",
    address="10.77.0.1",
    network="10.77.0.0/24",
    http=HTTP,
    lease_file="/srv/site/boot/dnsmasq.leases",
    tftp_root="/run/halligan-boot/tftp",
    first="10.77.0.100",
    last="10.77.0.199",
    gateway="10.77.0.254",
    dns=("10.77.0.2",),
    mtu=9000,
)


def request(arch, platform):
    return Request.parse(
        {
            "mac": "52-54-00-AA-BB-CC",
            "uuid": "6d1f5a0e-8a2b-4a39-9c51-0a1b2c3d4e5f",
            "serial": "CZ1234",
            "arch": arch,
            "platform": platform,
        }
    )


BIOS, UEFI, ARM = request("i386", "pcbios"), request("x86_64", "efi"), request("arm64", "efi")


def state(phase):
    return MachineState(id="m-0123456789ab", phase=phase, node="kvm-1" if phase is not Phase.DISCOVERED else "")


CASES = {
    "unknown-bios.ipxe": (None, BIOS, "discover"),
    "unknown-uefi.ipxe": (None, UEFI, "discover"),
    "unknown-arm64.ipxe": (None, ARM, "discover"),
    "unknown-ignored.ipxe": (None, UEFI, "ignore"),
    "unknown-silent.ipxe": (None, Request(), "discover"),
    "discovered.ipxe": (state(Phase.DISCOVERED), UEFI, "ignore"),
    "installing.ipxe": (state(Phase.INSTALLING), BIOS, "discover"),
    "ready.ipxe": (state(Phase.READY), BIOS, "discover"),
    "rescue.ipxe": (state(Phase.RESCUE), UEFI, "discover"),
    "retired.ipxe": (state(Phase.RETIRED), UEFI, "discover"),
    "no-image.ipxe": (None, request("arm32", "efi"), "discover"),
}


def results():
    """Return every document by file name."""
    templates = Templates({path.name: path.read_text() for path in FOLDER.glob("*.j2")})
    answers = {
        name: script(decide(machine, asks, unknown=unknown), SETTINGS, templates)
        for name, (machine, asks, unknown) in CASES.items()
    }
    proxy = DhcpSettings(
        mode="proxy",
        interface=DHCP.interface,
        address=DHCP.address,
        network=DHCP.network,
        http=HTTP,
        lease_file=DHCP.lease_file,
        tftp_root=DHCP.tftp_root,
    )
    return answers | {
        "start.ipxe": start(SETTINGS, templates),
        "dnsmasq-server.conf": dnsmasq(DHCP, templates),
        "dnsmasq-proxy.conf": dnsmasq(proxy, templates),
    }


def test_boot_answers_are_what_they_were():
    """The answers are those that somebody has read and agreed to."""
    found = results()
    if os.environ.get("HALLIGAN_GOLDEN") == "rewrite":
        EXPECTED.mkdir(exist_ok=True)
        for old in EXPECTED.iterdir():
            old.unlink()
        for name, text in found.items():
            (EXPECTED / name).write_text(text)
    assert sorted(found) == sorted(file.name for file in EXPECTED.iterdir())
    for name, text in found.items():
        assert text == (EXPECTED / name).read_text(), name
