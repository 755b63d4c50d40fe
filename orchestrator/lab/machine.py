"""One virtual machine: its hardware as a QEMU command line, its disk, and the switch that turns it on and off.

A machine is made like one that is bolted into a rack: an empty disk, firmware that has never run, and no power. It is
switched on and off by the lab's Redfish endpoint only, so its processes are recorded here and found again by whoever
looks next. The processor is always emulated (TCG): a `/dev/kvm` that opens may still not run a stock kernel.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from io import BufferedRWPair
from pathlib import Path
from typing import Any

from orchestrator.lab.errors import LabError
from orchestrator.lab.host import Cgroup, Process, spawn, tail, wait_until, write_whole
from orchestrator.lab.node import BRIDGE
from orchestrator.lab.values import LabNode, NodeStatus, Places

__all__ = ["COMMANDS", "DISK", "FILES", "MANUFACTURER", "PRODUCT", "Machine", "Qmp", "connected"]

MANUFACTURER, PRODUCT = "Halligan", "lab machine"

# OVMF does PXE by itself. SeaBIOS has no network code: as on a real BIOS board, that is in the ROM of the NIC, and the
# one that Debian has is iPXE. (QEMU's default, which is not named to it: only then does it write the NIC's own PCI ids
# into the ROM, without which SeaBIOS passes it over.)
OVMF_CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
OVMF_VARS = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
NIC_ROM = Path("/usr/lib/ipxe/qemu/efi-virtio.rom")

# Firmware → file → the Debian package that has it.
FILES: Mapping[str, Mapping[Path, str]] = {
    "uefi": {OVMF_CODE: "ovmf", OVMF_VARS: "ovmf"},
    "bios": {NIC_ROM: "ipxe-qemu"},
}

QEMU = "qemu-system-x86_64"
COMMANDS: Mapping[str, str] = {QEMU: "qemu-system-x86"}  # → package

DISK = "disk.raw"

# QEMU makes the tap inside the lab's network namespace and the kernel removes it with the process.
TAP_UP = f"""#!/bin/sh
exec ip link set dev "$1" master {BRIDGE} up
"""

START_TIMEOUT_S = 30.0
QMP_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A vm of a lab. `node` has its MAC, serial number and UUID filled in (`machine_of`)."""

    site: str
    places: Places
    node: LabNode

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def folder(self) -> Path:
        """Disk and firmware settings: what a machine keeps without power."""
        return self.places.disks / self.name

    @property
    def disk(self) -> Path:
        return self.folder / DISK

    def settings(self, boot: str) -> Path:
        """OVMF's variables: this machine's own boot entries.

        HTTP boot has a set of its own: with PXE turned off OVMF forgets its PXE entry, and puts it behind the one for
        HTTP when PXE is back.
        """
        return self.folder / ("vars-http.fd" if boot == "http" else "vars.fd")

    @property
    def console(self) -> Path:
        return self.places.console(self.name)

    @property
    def cgroup(self) -> Cgroup:
        return Cgroup.of(self.site, f"node-{self.name}")

    @property
    def tap(self) -> str:
        return f"vm{sha256(self.name.encode()).hexdigest()[:10]}"  # at most 15 characters

    @property
    def disk_serial(self) -> str:
        """What the disk says it is; virtio carries 20 characters at most."""
        return sha256(self.node.uuid.encode()).hexdigest()[:16].upper()

    @property
    def monitor(self) -> Path:
        """QEMU's monitor for orders. (Named by the UUID: a socket's path has 107 characters at most.)"""
        return self.places.run / f"{self.node.uuid}.qmp"

    @property
    def events(self) -> Path:
        """A second monitor for who listens all the time: one monitor serves one client."""
        return self.places.run / f"{self.node.uuid}.events"

    def exists(self) -> bool:
        return self.disk.exists()

    def make(self) -> None:
        """Put the machine into the rack: made whole or not at all, its disk empty and taking no room."""
        partial = self.folder.with_name(f".{self.name}.part")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        with partial.joinpath(self.disk.name).open("wb") as disk:
            disk.truncate(self.node.disk_gib << 30)
        partial.rename(self.folder)

    def grow(self) -> bool:
        """Give the disk the size that is wanted, if it is smaller; data is never cut off. Tells whether it was."""
        wanted = self.node.disk_gib << 30
        if self.disk.stat().st_size >= wanted:
            return False
        os.truncate(self.disk, wanted)
        return True

    def process(self) -> Process | None:
        """The machine's QEMU, or None while it is off."""
        found = Process.read(self.places.record(self.name))
        return found if found and found.is_alive() else None

    def status(self) -> NodeStatus:
        found = self.process()
        state = ("on" if found else "off") if self.exists() else "absent"
        detail = {"on": f"{self.node.firmware}, pid {found.pid if found else 0}", "off": self.node.firmware}
        return NodeStatus(
            name=self.name, address=self.node.address, state=state, detail=detail.get(state, "not made yet")
        )

    def switch_on(self, boot: str) -> Process:
        """Power; returns when QEMU runs. The console's log goes on.

        `boot` is what the firmware tries first: "network" (PXE), "http" (UEFI's HTTP boot) or "disk".
        """
        self.switch_off()
        if self.node.firmware == "uefi" and not self.settings(boot).exists():
            shutil.copyfile(OVMF_VARS, self.settings(boot))
        script = self.places.run / "tap-up"
        write_whole(script, TAP_UP)
        script.chmod(0o755)
        self.note(f"switched on, boots from {boot} first")
        enter = ("nsenter", f"--net={self.places.netns}")
        process = spawn(
            (*enter, *self.command(boot, script)),
            cgroup=self.cgroup,
            log=self.console,
            record=self.places.record(self.name),
        )
        answers = wait_until(lambda: not process.is_alive() or self._answers(), START_TIMEOUT_S, every_s=0.02)
        if not answers or not process.is_alive():
            self.switch_off()
            raise LabError(
                f"Machine {self.name} of lab {self.site} could not be switched on",
                detail=tail(self.console),
                hint=f"The whole console is in {self.console}.",
            )
        return process

    def switch_off(self) -> bool:
        """Take the power away, whatever runs. Tells whether it was on."""
        was_on = self.process() is not None
        self.cgroup.kill()
        for file in (self.places.record(self.name), self.monitor, self.events):
            file.unlink(missing_ok=True)
        return was_on

    def remove(self) -> None:
        """Take the machine out of the rack."""
        self.switch_off()
        if self.folder.exists():
            gone = self.folder.with_name(f".{self.name}.gone")
            shutil.rmtree(gone, ignore_errors=True)
            self.folder.rename(gone)
            shutil.rmtree(gone)
        self.console.unlink(missing_ok=True)

    def order(self, command: str) -> None:
        """Have QEMU do something, such as `system_reset`; LabError if it does not take the order."""
        try:
            with connected(self.monitor) as qmp:
                qmp.execute(command)
        except (OSError, ValueError) as error:
            raise LabError(
                f"Machine {self.name} of lab {self.site} did not take {command}: {error}",
                hint="ForceOff works whatever state the machine is in.",
            ) from error

    def note(self, text: str) -> None:
        """A line of ours in the console's log."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with self.console.open("a") as log:
            log.write(f"\n--- {now} {self.name}: {text}\n")

    def _answers(self) -> bool:
        try:
            with connected(self.monitor):
                return True
        except (OSError, ValueError):
            return False

    def command(self, boot: str, tap_script: Path) -> tuple[str | Path, ...]:
        """QEMU's command line."""
        first, second = ("disk", "nic") if boot == "disk" else ("nic", "disk")
        order = {first: 1, second: 2}
        nic = f"virtio-net-pci,id=nic,netdev=net,mac={self.node.mac},bootindex={order['nic']}"
        disk = f"virtio-blk-pci,id=disk,drive=disk,serial={self.disk_serial},bootindex={order['disk']}"
        smbios = f"type=1,manufacturer={MANUFACTURER},product={PRODUCT},serial={self.node.serial},uuid={self.node.uuid}"
        return (
            QEMU,
            *("-name", self.name, "-nodefaults", "-no-user-config"),
            *(
                "-machine",
                "q35,accel=tcg,graphics=off",
                "-cpu",
                "max",
            ),  # graphics=off: SeaBIOS writes to the serial line
            *("-smp", str(self.node.cpus), "-m", str(self.node.memory_mib)),
            *("-uuid", self.node.uuid, "-smbios", smbios),
            *("-boot", "strict=on", "-display", "none", "-vga", "none", "-rtc", "base=utc"),
            *self._firmware(boot),
            *("-netdev", f"tap,id=net,ifname={self.tap},script={tap_script},downscript=no"),
            *("-device", nic if self.node.firmware == "bios" else f"{nic},romfile="),
            # unsafe: nothing is flushed to the machine's own disk. The data is in its page cache, which survives QEMU.
            *("-drive", f"if=none,id=disk,file={self.disk},format=raw,cache=unsafe,discard=unmap,detect-zeroes=unmap"),
            *("-device", disk, "-device", "virtio-rng-pci"),
            *("-chardev", f"file,id=console,path={self.console},append=on", "-serial", "chardev:console"),
            *("-qmp", f"unix:{self.monitor},server=on,wait=off", "-qmp", f"unix:{self.events},server=on,wait=off"),
        )

    def _firmware(self, boot: str) -> tuple[str | Path, ...]:
        if self.node.firmware == "bios":
            return ()
        # The lab has no IPv6, and OVMF would wait for it. Without PXE, a NIC's first way is HTTP.
        off = ("IPv6Support", "IPv6PXESupport", *(("IPv4PXESupport",) if boot == "http" else ()))
        return (
            *("-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={OVMF_CODE}"),
            *("-drive", f"if=pflash,unit=1,format=raw,file={self.settings(boot)}"),
            *(word for name in off for word in ("-fw_cfg", f"name=opt/org.tianocore/{name},string=no")),
        )


class Qmp:
    """A conversation with QEMU's monitor (docs/interop/qmp-spec of QEMU): one JSON object per line.

    OSError if it ends or takes too long, ValueError if what comes is no answer or a refusal.
    """

    def __init__(self, stream: BufferedRWPair) -> None:
        self._stream = stream
        if "QMP" not in self.read():
            raise ValueError("no greeting")
        self.execute("qmp_capabilities")

    def read(self) -> Mapping[str, Any]:
        """The next object: an answer or an event."""
        line = self._stream.readline()
        if not line:
            raise ConnectionResetError("QEMU has ended")
        found: dict[str, Any] = json.loads(line)
        return found

    def execute(self, command: str) -> None:
        """Give an order and wait until it is taken; events that come in between are passed over."""
        self._stream.write(json.dumps({"execute": command}).encode() + b"\n")
        self._stream.flush()
        while "return" not in (answer := self.read()):
            if "error" in answer:
                raise ValueError(str(answer["error"].get("desc", "refused")))


@contextmanager
def connected(path: Path, *, timeout_s: float | None = QMP_TIMEOUT_S) -> Iterator[Qmp]:
    """Talk to the monitor behind a socket. Without a limit, reading waits for the next event however long it takes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        connection.connect(str(path))
        with connection.makefile("rwb") as stream:
            yield Qmp(stream)
