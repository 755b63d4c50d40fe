"""A BMC that speaks IPMI 2.0 (RMCP+) over real UDP, on pyghmi's `Bmc`; with the faults that BMCs have.

    with serving(IpmiMachine(password="right")) as machine:
        address = machine.address      # 127.0.0.1:PORT

pyghmi serves all BMCs of a process from one event loop; here that runs in one daemon thread, started with the first.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pyghmi.ipmi.bmc import Bmc
from pyghmi.ipmi.private import constants, serversession
from pyghmi.ipmi.private import session as ipmisession

__all__ = ["IpmiMachine", "free_port", "serving"]

_loop_lock = threading.Lock()
_loop: threading.Thread | None = None


@dataclass(slots=True, kw_only=True)
class IpmiMachine:
    """One machine and the manners of its BMC; the knobs are those of `redfish_server.Machine`.

    `loses` is how many requests inside of sessions get lost on the way, `silent` answers nothing at all;
    `sha256` whether it takes the newer cipher suite 17 (pyghmi's server cannot, so it refuses it as older BMCs do) or,
    with None, answers with suite 3 unasked, as pyghmi's server does by itself.
    """

    user: str = "admin"
    password: str = "secret"
    uuid: str = ""
    serial: str = ""
    manufacturer: str = "Contoso"
    model: str = "3500"
    power: str = "off"
    boot: int = 0  # data 2 of the boot flags
    flags: int = 0  # data 1 of the boot flags
    changes_in: int = 0
    lies: bool = False
    lies_about_boot: bool = False
    deaf: bool = False
    silent: bool = False
    loses: int = 0
    knows_timer: bool = True  # set boot options, parameter 3
    sha256: bool | None = False
    on_power: Callable[[IpmiMachine, str, str], None] | None = None
    logins: int = 0  # logins that got as far as naming a user
    sessions: int = 0  # that are open
    done: list[str] = field(default_factory=list)
    address: str = ""
    _coming: str = ""
    _reads_left: int = 0

    def get(self, user: str) -> str | None:
        """Return a user's password: this is pyghmi's `authdata`, asked once for each login."""
        self.logins += 1
        return self.password if user == self.user else None

    def read(self) -> str:
        """Return the power state, and let a change that is due happen."""
        if self._coming:
            if self._reads_left > 0:
                self._reads_left -= 1
            else:
                before, self.power, self._coming = self.power, self._coming, ""
                if before != self.power and self.on_power is not None:
                    self.on_power(self, before, self.power)
        return self.power

    def press(self, name: str, after: str) -> None:
        """Take a chassis control."""
        self.done.append(name)
        if not self.lies and not (self.deaf and name == "soft"):
            self._coming, self._reads_left = after, self.changes_in


class _Session(serversession.ServerSession):
    def create_open_session_response(self, request: Any) -> bytearray:
        wants = request[12]
        if wants == 3 and self.bmc.machine.sha256 is False:
            # 0x11: no cipher suite match. pyghmi's own answer claims success and means another algorithm.
            return bytearray([request[0], 0x11, 0, 0]) + bytearray(request[4:8])
        return super().create_open_session_response(request)

    def handle_client_request(self, request: dict[str, Any]) -> None:
        if self.bmc.machine.loses > 0:
            self.bmc.machine.loses -= 1
            return
        if request["netfn"] == 6 and request["command"] == 0x3B:
            self.bmc.machine.sessions += 1
        if request["netfn"] == 6 and request["command"] == 0x3C:
            self.bmc.machine.sessions -= 1
        super().handle_client_request(request)


class _Server(Bmc):
    def __init__(self, machine: IpmiMachine, port: int) -> None:
        self.machine = machine
        guid = uuid.UUID(machine.uuid) if machine.uuid else uuid.UUID(int=0)
        super().__init__(machine, port=port, bmcuuid=guid, address="127.0.0.1")
        machine.address = f"127.0.0.1:{port}"
        self.fru = _fru(machine)

    def sessionless_data(self, data: bytes, sockaddr: Any) -> None:
        if self.machine.silent:
            return
        if len(data) > 22 and data[4] == 6 and data[5] == 16:
            _Session(self.authdata, self.kg, sockaddr, self.serversocket, data[16:], self.uuid, bmc=self)
            return
        super().sessionless_data(data, sockaddr)

    def get_system_guid(self) -> uuid.UUID:
        return self.uuid

    def get_power_state(self) -> str:
        return self.machine.read()

    def power_on(self) -> None:
        self.machine.press("on", "on")

    def power_off(self) -> None:
        self.machine.press("off", "off")

    def power_reset(self) -> None:
        self.machine.press("reset", "on")

    def power_shutdown(self) -> None:
        self.machine.press("soft", "off")

    def set_system_boot_options(self, request: dict[str, Any], session: Any) -> None:
        data = request["data"]
        if data[0] == 3 and not self.machine.knows_timer:
            session.send_ipmi_response(code=0x80)
            return
        if data[0] == 5 and not self.machine.lies_about_boot:
            self.machine.flags, self.machine.boot = data[1], data[2]
        session.send_ipmi_response()

    def get_system_boot_options(self, request: dict[str, Any], session: Any) -> None:
        session.send_ipmi_response(data=[1, 5, self.machine.flags, self.machine.boot, 0, 0, 0])

    def handle_raw_request(self, request: dict[str, Any], session: Any) -> None:
        if self.machine.silent:
            return
        if request["netfn"] == 0x0A and request["command"] == 0x10:
            session.send_ipmi_response(data=[*struct.pack("<H", len(self.fru)), 0])
        elif request["netfn"] == 0x0A and request["command"] == 0x11:
            start, count = request["data"][1] | request["data"][2] << 8, request["data"][3]
            chunk = self.fru[start : start + count]
            session.send_ipmi_response(data=[len(chunk), *chunk])
        else:
            super().handle_raw_request(request, session)


def _fru(machine: IpmiMachine) -> bytes:
    """Return FRU data with a product area (IPMI Platform Management FRU Information Storage Definition, 8 and 12)."""
    fields = b"".join(
        bytes([0xC0 | len(text)]) + text.encode()
        for text in (machine.manufacturer, machine.model, "", "", machine.serial, "", "")
    )
    area = b"\x01\x00\x19" + fields + b"\xc1"
    area += b"\x00" * (-(len(area) + 1) % 8)
    area = bytes([1, (len(area) + 1) // 8]) + area[2:]
    area += bytes([-sum(area) & 0xFF])
    header = bytes([1, 0, 0, 0, 1, 0, 0])
    return header + bytes([-sum(header) & 0xFF]) + area


def free_port() -> int:
    """Return a UDP port of 127.0.0.1 that nobody has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listen() -> None:
    while True:
        ipmisession.Session.wait_for_rsp(
            timeout=0.05
        )  # short: a packet that comes between two rounds waits for the next


def _ensure_loop() -> None:
    global _loop  # noqa: PLW0603  # pyghmi's loop is one per process, too
    with _loop_lock:
        if _loop is None:
            _loop = threading.Thread(target=_listen, name="ipmi", daemon=True)
            _loop.start()


@contextlib.contextmanager
def serving(machine: IpmiMachine) -> Iterator[IpmiMachine]:
    """Serve a machine on a free UDP port of 127.0.0.1; its `address` is set."""
    server = _Server(machine, free_port())
    _ensure_loop()
    try:
        yield machine
    finally:
        # pyghmi selects on the socket until the process ends: it cannot be closed, so it says nothing any more.
        machine.silent = True
        server.machine = machine


assert constants.payload_types["rmcpplusopenreq"] == 16
