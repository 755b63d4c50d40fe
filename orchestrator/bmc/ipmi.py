"""Power through IPMI 2.0 over LAN (RMCP+, "lanplus"), with pyghmi.

pyghmi's usual session shares sockets, tables and one event loop between all sessions of a process: whichever thread
runs the loop handles everybody's packets, and two threads that log in at once trip over each other. Its second one,
`simplesession`, has a socket of its own and shares nothing, but waits for ever and never asks twice: UDP loses packets,
and dead BMCs say nothing. `_Session` is that one with a deadline and with pyghmi's own rules for asking again.

Each operation is a session: log in, do it, log out. BMCs have few sessions, and forget those that are idle.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import select
import time
from collections.abc import Iterator
from typing import Any

from pyghmi.exceptions import IpmiException
from pyghmi.ipmi.command import Command
from pyghmi.ipmi.fru import FRU
from pyghmi.ipmi.private import simplesession
from pyghmi.ipmi.private.util import decode_wireformat_uuid

from orchestrator.bmc.base import BmcError, BmcIdentity, Change, Credential, Deadline, Device, Kind, Power, Target
from orchestrator.bmc.quirks import Quirk, quirks_of
from orchestrator.bmc.switch import Press, carry_out

__all__ = ["IpmiController"]

_CHASSIS, _APPLICATION = 0x00, 0x06
_STATUS, _CONTROL, _SET_BOOT, _GET_BOOT, _GUID = 0x01, 0x02, 0x08, 0x09, 0x37
_BUTTONS = {Press.OFF: 0, Press.ON: 1, Press.RESET: 3, Press.SOFT: 5}  # IPMI 2.0, table 28-4
_DEVICES = {Device.NETWORK: 0x04, Device.DISK: 0x08, Device.CD: 0x14}  # table 28-14, parameter 5, data 2
_VALID, _PERSISTENT, _EFI = 0x80, 0x40, 0x20  # data 1
_OPERATOR = 3  # enough for all that we ask (IPMI 2.0, appendix G), and saves a second login by pyghmi
_DENIALS = ("password", "unauthorized", "invalid username", "invalid role", "integrity", "privelege")  # pyghmi's words
_PASSING = ("insufficient resources", "no longer connected")

logging.getLogger("pyghmi").addHandler(logging.NullHandler())


class _SilentError(Exception):
    """The BMC never answered, or not any more; `heard` is whether it ever did."""

    def __init__(self, heard: bool) -> None:
        super().__init__()
        self.heard = heard


class IpmiController:
    """One machine behind a BMC that speaks IPMI. Keeps no connection between operations."""

    def __init__(
        self, target: Target, host: str, port: int, credential: Credential, *, firmware: str, timeout_s: float = 30.0
    ) -> None:
        self._target, self._host, self._port, self._credential = target, host, port, credential
        self._firmware, self._timeout_s = firmware, timeout_s
        self._denied: BmcError | None = None
        self._known: BmcIdentity | None = None
        self._wanted: Device | None = None

    def identity(self) -> BmcIdentity:
        """Read the system GUID and the FRU information of the machine (device 0)."""
        with self._operation("read its identity") as command:
            self._known = _identity(command)
            return self._known

    def power(self) -> Power:
        """Read the chassis status."""
        with self._operation("read its power state") as command:
            return _power(command)

    def set_power(self, change: Change) -> None:
        """Send Chassis Control and watch the chassis status."""
        asked = f"power {change}"
        with self._operation(asked) as command:
            carry_out(
                _Buttons(self, command, asked),
                change,
                target=self._target,
                deadline=command.deadline,
                while_off=(lambda: self._override(command, self._wanted)) if self._wanted else None,
            )

    def boot_once(self, device: Device) -> None:
        """Set the boot flags (System Boot Options, parameter 5), and read them back."""
        asked = f"boot once from {device}"
        if device not in _DEVICES:
            raise self._target.error(
                Kind.REFUSED,
                asked,
                "IPMI knows no HTTP boot",
                hint="boot from the network (PXE), or use the driver redfish if this BMC speaks it",
            )
        with self._operation(asked) as command:
            self._override(command, device)
            data = _answer(command, _CHASSIS, _GET_BOOT, (5, 0, 0))["data"]
            # Not the "valid" bit: OpenIPMI's simulator, for one, takes the flags and never shows it.
            if len(data) < 4 or data[3] & 0x3C != _DEVICES[device]:
                raise self._target.error(Kind.LYING, asked, "the BMC confirmed it, and shows no such boot flags")
            self._wanted = device

    def close(self) -> None:
        """Do nothing: no session outlives its operation."""

    @contextlib.contextmanager
    def _operation(self, asked: str) -> Iterator[_Command]:
        if self._denied is not None:
            raise self._denied from None
        command = None
        with self.asking(asked):
            try:
                command = _Command(self._host, self._port, self._credential, Deadline(self._timeout_s))
                yield command
            finally:
                if command is not None:
                    command.end()

    @contextlib.contextmanager
    def asking(self, asked: str) -> Iterator[None]:
        """Turn whatever goes wrong in a conversation into the BmcError of it."""
        try:
            yield
        except _SilentError as error:
            if error.heard:
                raise self._target.error(
                    Kind.TIMEOUT, asked, "the BMC fell silent in the middle", hint=f"see whether the BMC of "
                    f"{self._target.node} is busy, and whether it knows this user at all: some say nothing then",
                ) from None  # fmt: skip
            raise self._target.error(Kind.UNREACHABLE, asked, "no answer over UDP") from None
        except OSError as error:
            raise self._target.error(Kind.UNREACHABLE, asked, str(error)) from None
        except IpmiException as error:
            raise self._refused(asked, str(error)) from None
        except (ValueError, KeyError, IndexError, TypeError, AssertionError) as error:
            raise self._target.error(
                Kind.REFUSED, asked, f"the BMC's answer makes no sense: {str(error) or type(error).__name__}"
            ) from None

    def _refused(self, asked: str, why: str) -> BmcError:
        if any(word in why.lower() for word in _DENIALS):
            self._denied = self._target.error(
                Kind.DENIED, asked, f'user "{self._credential.user}" and password were not accepted: {why}'
            )
            return self._denied
        if "unable to transmit" in why.lower():
            return self._target.error(Kind.UNREACHABLE, asked, f'the name "{self._host}" has no address')
        passing = any(word in why.lower() for word in _PASSING)
        return self._target.error(Kind.TIMEOUT if passing else Kind.REFUSED, asked, why)

    def _override(self, command: _Command, device: Device | None) -> None:
        assert device is not None
        if self._known is None:
            self._known = _identity(command)
        quirks = quirks_of("ipmi", self._known.manufacturer, self._known.model)
        flags = _VALID | (_EFI if self._firmware == "uefi" else 0)
        if flags & _EFI and Quirk.PERSISTENT_EFI in quirks:
            flags |= _PERSISTENT
        # Keep the flags for longer than 60 s. A BMC that knows no such thing refuses, and does not need it
        # (github.com/bougou/go-ipmi/pull/74).
        command.raw_command(netfn=_CHASSIS, command=_SET_BOOT, data=(3, 8))
        _answer(command, _CHASSIS, _SET_BOOT, (5, flags, _DEVICES[device], 0, 0, 0))


class _Buttons:
    """A session as a `Switch`."""

    def __init__(self, controller: IpmiController, command: _Command, asked: str) -> None:
        self._controller, self._command, self._asked = controller, command, asked

    def read(self) -> Power:
        with self._controller.asking(self._asked):
            return _power(self._command)

    def press(self, press: Press) -> bool:
        _answer(self._command, _CHASSIS, _CONTROL, (_BUTTONS[press],))
        return True

    def only_resets(self) -> bool:
        return False  # "power down" is mandatory (IPMI 2.0, table 28-4)


def _power(command: _Command) -> Power:
    return Power.ON if _answer(command, _CHASSIS, _STATUS)["data"][0] & 1 else Power.OFF


def _identity(command: _Command) -> BmcIdentity:
    guid = command.raw_command(netfn=_APPLICATION, command=_GUID)
    uuid = ""
    if guid["code"] == 0 and any(guid["data"]):
        uuid = decode_wireformat_uuid(guid["data"]).lower()
    info: dict[str, Any] = {}
    with contextlib.suppress(IpmiException, ValueError, IndexError, KeyError):  # not all have FRU data, or sound ones
        info = FRU(ipmicmd=command).info or {}
    return BmcIdentity(
        uuid=uuid,
        serial=_text(info, "Serial Number", "Board serial number"),
        manufacturer=_text(info, "Manufacturer", "Board manufacturer"),
        model=_text(info, "Product name", "Model", "Board product name"),
    )


def _text(info: dict[str, Any], *names: str) -> str:
    return next((text for text in (str(info.get(name) or "").strip() for name in names) if text), "")


def _answer(command: _Command, netfn: int, number: int, data: tuple[int, ...] = ()) -> dict[str, Any]:
    answer: dict[str, Any] = command.raw_command(netfn=netfn, command=number, data=data)
    if "error" in answer:
        raise IpmiException(answer["error"], code=answer["code"])
    return answer


class _Command(Command):  # type: ignore[misc]  # pyghmi ships no types
    """pyghmi's Command on a session that shares nothing."""

    def __init__(self, host: str, port: int, credential: Credential, deadline: Deadline) -> None:
        # Not super().__init__: it would open a session that shares everything, and there is no other way to give one.
        self.bmc, self.onlogon, self.certverify = host, None, None
        self.kwargs: dict[str, Any] = {}
        self._sdrcachedir = self._sdr = self._oem = self._netchannel = self._ipv6support = None
        self._oemknown = False
        self.deadline = deadline
        self.ipmi_session = _Session(host, port, credential, deadline)

    def end(self) -> None:
        """Log out without waiting for the answer, and close the socket."""
        self.ipmi_session.end()


class _Session(simplesession.Session):  # type: ignore[misc]
    """A session with an end in time, on a socket of its own, used by one thread."""

    def __init__(self, host: str, port: int, credential: Credential, deadline: Deadline) -> None:
        self._deadline = deadline
        self._resend = time.monotonic()
        self.sockaddr: Any = None
        self.socket: Any = None
        self.attemptedhash = 256
        try:
            super().__init__(host, credential.user, credential.password, port=port, privlevel=_OPERATOR)
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """Log out without waiting for the answer, and close the socket."""
        if self.socket is None:
            return
        self.incommand, self.lastpayload = False, None
        with contextlib.suppress(Exception):  # the BMC forgets sessions by itself
            self.logout()
        with simplesession.util.protect(simplesession.KEEPALIVE_SESSIONS):
            simplesession.Session.keepalive_sessions.pop(self, None)
        self.socket.close()
        self.socket = None

    def wait_for_rsp(self, timeout: float | None = None, callout: bool = True) -> None:  # noqa: ARG002  # pyghmi's
        """Handle what comes until it is time to ask again, or the end."""
        now = time.monotonic()
        if self._resend <= now or self._deadline.left() <= 0:
            self._ask_again()
            return
        wait = min(self._resend - now, self._deadline.left(), timeout if timeout is not None else 60.0)
        self._wait(wait)
        self.process_pktqueue()

    def awaitresponse(self, retry: bool) -> None:
        """Wait for the answer to a command; pyghmi's own waits half a minute at a time and never asks again."""
        while retry and self.lastresponse is None and self.logged:
            self.wait_for_rsp()

    def process_pktqueue(self) -> None:
        """Handle the packets that are there. Without select(): it cannot take descriptors above 1023."""
        while self.socket is not None and self._wait(0):
            data, sender = self.socket.recvfrom(3000)
            packet = bytearray(data)
            if len(packet) > 16 and packet[0] == 6 and packet[2:4] == b"\xff\x07":
                self._handle_ipmi_packet(packet, sockaddr=sender, qent=(data, sender))

    def _wait(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def _ask_again(self) -> None:
        heard = self.sockaddr is not None
        if self._deadline.left() <= 0 or self.timeout + 1 > self.maxtimeout:
            self.logging = False
            raise _SilentError(heard)
        self._timedout()  # pyghmi's rules: what may be sent again, and where only a new login helps

    def _xmit_packet(self, retry: bool = True, delay_xmit: float | None = None, timeout: float | None = None) -> None:
        super()._xmit_packet(retry, delay_xmit=delay_xmit, timeout=timeout)
        self._resend = time.monotonic() + (timeout or self.timeout)

    def _initsession(self) -> None:
        silent_for = getattr(self, "timeout", None)
        super()._initsession()
        if silent_for is not None:
            self.timeout = silent_for  # a new login is another try, not a new patience

    def _got_rmcp_response(self, data: bytearray) -> Any:
        # A BMC may choose another authentication than the one proposed; pyghmi takes it for granted that none does.
        if len(data) > 16 and data[1] == 0 and data[16] == 1 and self.attemptedhash == 256:
            self.attemptedhash, self.currhashlib, self.currhashlen = 1, hashlib.sha1, 12
        return super()._got_rmcp_response(data)
