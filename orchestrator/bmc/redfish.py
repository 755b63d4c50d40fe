"""Power through Redfish (DMTF DSP0266), with sushy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sushy
from sushy import exceptions

from orchestrator.bmc.addresses import Endpoint
from orchestrator.bmc.base import BmcError, BmcIdentity, Change, Credential, Deadline, Device, Kind, Power, Target
from orchestrator.bmc.quirks import Conduct, Quirk, conduct_for, quirks_of
from orchestrator.bmc.switch import Press, carry_out
from orchestrator.bmc.wire import (
    Auth,
    DroppedError,
    NoAuth,
    OverdueError,
    StrangerError,
    UnreachableError,
    Wire,
    text_of,
    trusted,
)

__all__ = ["RedfishController"]

_CLOSE_S = 5.0
_ONCE = sushy.BootSourceOverrideEnabled.ONCE
_MODES = {"uefi": sushy.BootSourceOverrideMode.UEFI, "bios": sushy.BootSourceOverrideMode.LEGACY}
_SOURCES = {
    Device.NETWORK: sushy.BootSource.PXE,
    Device.HTTP: sushy.BootSource.UEFI_HTTP,
    Device.DISK: sushy.BootSource.HDD,
    Device.CD: sushy.BootSource.CD,
}
_SAME = {sushy.BootSource.CD: (sushy.BootSource.CD, sushy.BootSource.USB_CD)}  # sushy asks Supermicro for UsbCd
_STATES = {sushy.PowerState.ON: Power.ON, sushy.PowerState.OFF: Power.OFF}  # in between is neither
_RESETS = {  # in the order of preference; which of them a system takes, it says itself
    Press.ON: (sushy.ResetType.ON, sushy.ResetType.FORCE_ON),
    Press.OFF: (sushy.ResetType.FORCE_OFF,),
    Press.SOFT: (sushy.ResetType.GRACEFUL_SHUTDOWN, sushy.ResetType.PUSH_POWER_BUTTON),
    Press.RESET: (sushy.ResetType.FORCE_RESTART, sushy.ResetType.POWER_CYCLE, sushy.ResetType.GRACEFUL_RESTART),
}


class RedfishController:
    """One ComputerSystem of a Redfish service. Asks nobody before it has to; one session for its whole life."""

    def __init__(
        self,
        target: Target,
        endpoint: Endpoint,
        credential: Credential | None,
        *,
        firmware: str,
        ca: str = "",
        timeout_s: float = 30.0,
    ) -> None:
        self._target, self._endpoint, self._credential = target, endpoint, credential
        self._firmware, self._ca, self._timeout_s = firmware, ca, timeout_s
        self._wire: Wire | None = None
        self._auth: Any = None
        self._root: Any = None
        self._system: Any = None
        self._quirks: frozenset[Quirk] = frozenset()
        self._denied: BmcError | None = None
        self._wanted: Device | None = None

    def identity(self) -> BmcIdentity:
        """Read UUID, serial number, manufacturer and model of the ComputerSystem."""
        with self._operation("read its identity"):
            system = self._found()
            serial = system.sku if Quirk.SERIAL_IS_SKU in self._quirks and system.sku else system.serial_number
            return BmcIdentity(
                uuid=(system.uuid or "").lower(),
                serial=(serial or "").strip(),
                manufacturer=(system.manufacturer or "").strip(),
                model=(system.model or "").strip(),
            )

    def power(self) -> Power:
        """Read PowerState."""
        with self._operation("read its power state"):
            return self._state()

    def set_power(self, change: Change) -> None:
        """Post to ComputerSystem.Reset and watch PowerState."""
        with self._operation(f"power {change}") as deadline:
            carry_out(
                _Buttons(self, f"power {change}"),
                change,
                target=self._target,
                deadline=deadline,
                while_off=self._reassert if self._wanted else None,
            )

    def boot_once(self, device: Device) -> None:
        """Set BootSourceOverrideTarget, and read back that it was taken (where the BMC shows that)."""
        asked = f"boot once from {device}"
        if device is Device.HTTP and self._firmware != "uefi":
            raise self._target.error(
                Kind.REFUSED,
                asked,
                "HTTP boot is a thing of UEFI, and this machine's firmware is BIOS",
                hint="boot from the network (PXE), or set `firmware: uefi` in the node's profile",
            )
        with self._operation(asked) as deadline:
            self._override(device, asked, deadline)
            self._wanted = device

    def close(self) -> None:
        """Delete the session at the BMC, if it still answers."""
        wire, auth = self._wire, self._auth
        self._wire = self._auth = self._root = self._system = None
        if wire is None:
            return
        wire.deadline = Deadline(_CLOSE_S)
        with contextlib.suppress(Exception):  # sessions expire by themselves
            auth.close()
        wire.close()

    # --- the conversation ---

    @contextlib.contextmanager
    def _operation(self, asked: str) -> Iterator[Deadline]:
        if self._denied is not None:
            raise self._denied from None
        deadline = Deadline(self._timeout_s)
        with self.asking(asked):
            wire = self._connected()
            wire.deadline = deadline
            self._logged_in(wire)
            yield deadline

    @contextlib.contextmanager
    def asking(self, asked: str) -> Iterator[None]:
        """Turn whatever goes wrong in a conversation into the BmcError of it."""
        try:
            yield
        except exceptions.AccessError as error:
            raise self._refused_entry(asked, error) from None
        except UnreachableError as error:
            raise self._target.error(Kind.UNREACHABLE, asked, str(error)) from None
        except DroppedError as error:
            raise self._target.error(Kind.UNREACHABLE, asked, f"the connection broke: {error}") from None
        except OverdueError as error:
            raise self._target.error(Kind.TIMEOUT, asked, f"{error}, within {self._timeout_s:g} s") from None
        except StrangerError as error:
            raise self._target.error(
                Kind.REFUSED,
                asked,
                str(error),
                hint="name the authority that signed it as bmc.ca; its names must include the address in the spec. "
                "If that was so until now, somebody else may be answering",
            ) from None
        except exceptions.HTTPError as error:
            raise self._target.error(
                Kind.REFUSED, asked, f"HTTP {error.status_code}: {text_of(error) or 'no reason given'}"
            ) from None
        except (exceptions.SushyError, ValueError, KeyError, TypeError, AttributeError) as error:
            # What follows from a document that is not what Redfish says, inside sushy or here.
            raise self._target.error(
                Kind.REFUSED,
                asked,
                f"the BMC's answer makes no sense: {str(error) or type(error).__name__}",
                hint="check that this address is a Redfish service, and which firmware its BMC has",
            ) from None

    def _refused_entry(self, asked: str, error: exceptions.AccessError) -> BmcError:
        user = self._credential.user if self._credential else ""
        if error.status_code == 403 and self._root is not None:
            return self._target.error(
                Kind.DENIED, asked, f'the user "{user}" may not do this: {text_of(error)}',
                hint="give the user the role Operator or Administrator at the BMC",
            )  # fmt: skip
        why = f'user "{user}" and password were not accepted' if user else "the BMC wants a user and password"
        self._denied = self._target.error(
            Kind.DENIED,
            asked,
            why,
            hint="" if user else "name a secret variable with user and password as bmc.credential",
        )
        return self._denied

    def _connected(self) -> Wire:
        if self._wire is None:
            if self._ca and not Path(self._ca).is_file():
                raise self._target.error(
                    Kind.REFUSED,
                    "connect",
                    f"the certificate authority {self._ca} is not a file",
                    hint="correct bmc.ca: the file (PEM) of the authority that signed this BMC's certificate",
                )
            self._wire = Wire(self._endpoint.url, verify=trusted(self._ca))
        return self._wire

    def _logged_in(self, wire: Wire) -> None:
        if self._root is None:
            given = self._credential
            self._auth = Auth(username=given.user, password=given.password) if given else NoAuth()
            self._root = sushy.Sushy(self._endpoint.url, auth=self._auth, connector=wire)
            # sushy's finalizer would log out: a network call in whatever thread collects garbage. `close` does it.
            self._root._auth = None  # noqa: SLF001

    def _found(self) -> Any:
        """Return the ComputerSystem as it is now."""
        if self._system is not None:
            self._system.refresh(force=True)
            return self._system
        system = self._by_uuid() if self._endpoint.uuid else self._root.get_system(self._endpoint.system or None)
        self._quirks = quirks_of("redfish", system.manufacturer or "", system.model or "")
        assert self._wire is not None
        self._wire.if_match = Quirk.IF_MATCH in self._quirks
        self._system = system
        return system

    def _by_uuid(self) -> Any:
        for system in self._root.get_system_collection().get_members():
            if (system.uuid or "").lower() == self._endpoint.uuid:
                return system
        raise self._target.error(
            Kind.REFUSED,
            "find its system",
            f"no ComputerSystem of this service has the UUID {self._endpoint.uuid}",
            hint="correct the address: its path may name the system, as /redfish/v1/Systems/...",
        )

    # --- power ---

    def _state(self) -> Power:
        return _STATES.get(self._found().power_state, Power.UNKNOWN)

    def resets(self, press: Press) -> list[Any]:
        """Return the reset types of the system that do this, the best first."""
        allowed = (self._system or self._found()).get_allowed_reset_system_values()
        wanted = _RESETS[press]
        if press is Press.SOFT and Quirk.SOFT_BY_BUTTON in self._quirks:
            wanted = wanted[::-1]
        return [kind for kind in wanted if kind in allowed]

    def press(self, press: Press, asked: str) -> bool:
        """Post the reset. Whether it was confirmed."""
        kinds = self.resets(press)
        if not kinds:
            allowed = ", ".join(sorted(kind.value for kind in self._system.get_allowed_reset_system_values()))
            raise self._target.error(
                Kind.REFUSED, asked, f"the BMC offers nothing for it, only: {allowed or 'nothing'}"
            )
        with self.asking(asked):
            try:
                self._system.reset_system(kinds[0])
            except DroppedError:
                return False
        return True

    def state(self, asked: str) -> Power:
        """Read PowerState in the middle of an operation."""
        with self.asking(asked):
            return self._state()

    # --- boot ---

    def _reassert(self) -> None:
        """Set the override again if switching off has lost it."""
        assert self._wire is not None
        system = self._found()
        assert self._wanted is not None
        if Quirk.BOOT_UNREADABLE in self._quirks or not _shows(system, self._wanted):
            self._override(self._wanted, f"boot once from {self._wanted}", self._wire.deadline)

    def _override(self, device: Device, asked: str, deadline: Deadline) -> None:
        system = self._found()
        if system.boot is None:
            raise self._target.error(Kind.REFUSED, asked, "the BMC offers no way to choose what the machine boots from")
        source = _SOURCES[device]
        allowed = system.get_allowed_system_boot_source_values()
        if source not in allowed:
            names = ", ".join(sorted(one.value for one in allowed))
            raise self._target.error(
                Kind.REFUSED, asked, f"the BMC cannot have it boot from {source.value}, only from: {names}"
            )
        enabled = _ONCE
        if system.boot.enabled is _ONCE and Quirk.SEND_ENABLED not in self._quirks:
            enabled = None  # some refuse what is so already: storyboard.openstack.org/#!/story/2007355
        try:
            system.set_system_boot_options(source, enabled=enabled, mode=self._mode(system, asked))
        except exceptions.HTTPError as error:
            if conduct_for(text_of(error)) is not Conduct.SETTINGS:
                raise
            self._override_settings(source)
            return
        if Quirk.BOOT_UNREADABLE in self._quirks:
            return
        pause = 0.1
        while not _shows(self._found(), device):
            if not deadline.pause(pause):
                boot = self._system.boot
                raise self._target.error(
                    Kind.LYING,
                    asked,
                    f"the BMC confirmed it, and shows {_value(boot.target)}, {_value(boot.enabled)} "
                    f"{self._timeout_s:g} s later",
                )
            pause = min(2.0, pause * 1.5)

    def _override_settings(self, source: Any) -> None:
        assert self._wire is not None
        boot = {
            "BootSourceOverrideTarget": source.value,
            "BootSourceOverrideEnabled": _ONCE.value,
            "BootSourceOverrideMode": _MODES[self._firmware].value,
        }
        self._wire.patch(
            f"{self._system.path}/SD", data={"Boot": boot}, etag=self._wire.etag(f"{self._system.path}/SD")
        )

    def _mode(self, system: Any, asked: str) -> Any:
        """Return the boot mode to send, or None: only what differs, unless this machine wants it otherwise.

        To a Dell, the mode that it has already is a change of its BIOS settings, with a job and two more boots
        (github.com/ironcore-dev/metal-operator/issues/81). Old Supermicros do not have it (same, issues/982).
        """
        has, wants = system.boot.mode, _MODES[self._firmware]
        if Quirk.NEVER_MODE in self._quirks:
            if has not in (None, wants):
                raise self._target.error(
                    Kind.REFUSED,
                    asked,
                    f"the machine boots in {has.value} mode, and its BMC cannot change that",
                    hint=f"set {wants.value} in the machine's firmware, or correct the profile's `firmware`",
                )
            return None
        if has is None:
            return None
        allowed = (system.json.get("Boot") or {}).get("BootSourceOverrideMode@Redfish.AllowableValues")
        if allowed and wants.value not in allowed:
            return None
        return wants if Quirk.SEND_MODE in self._quirks or has is not wants else None


class _Buttons:
    """The controller as a `Switch`."""

    def __init__(self, controller: RedfishController, asked: str) -> None:
        self._controller, self._asked = controller, asked

    def read(self) -> Power:
        return self._controller.state(self._asked)

    def press(self, press: Press) -> bool:
        return self._controller.press(press, self._asked)

    def only_resets(self) -> bool:
        return not self._controller.resets(Press.OFF)


def _shows(system: Any, device: Device) -> bool:
    source = _SOURCES[device]
    return system.boot.target in _SAME.get(source, (source,)) and system.boot.enabled is _ONCE


def _value(one: Any) -> str:
    return "nothing" if one is None else str(one.value)
