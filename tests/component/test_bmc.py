"""Power through every driver, on real parts: Redfish over HTTPS, IPMI over UDP, and the fake that stands for both."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest
from support import ipmi_server, redfish_server
from support.certificates import Authority, authority
from support.ipmi_server import IpmiMachine
from support.redfish_server import Machine, RedfishService

from orchestrator.bmc import BmcError, BmcIdentity, Change, Controller, Credential, Device, Kind, Power, connect
from orchestrator.bmc.fake import FakeBmc, FakeRack
from orchestrator.bmc.pool import Pool
from orchestrator.lab import LabNode
from orchestrator.lab import redfish as lab_redfish
from orchestrator.lab.power import Override
from orchestrator.model import Bmc

UUID = "4c4c4544-0042-4d10-8054-c8c04f583332"
IDENTITY = BmcIdentity(uuid=UUID, serial="SN-0042", manufacturer="Contoso", model="3500")
USER, PASSWORD = "operator", "pa55 w0rd'\"$"
LONG = 60.0  # a limit that nothing reaches unless it is broken


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, with a limit that only a broken thing reaches."""
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, "this never happened"
        time.sleep(0.01)


class World(Protocol):
    """A BMC and its machine, whatever it speaks; knobs as the test servers have them."""

    driver: str
    address: str
    changes: list[str]  # of power, as the machine saw them

    def connect(self, *, password: str = PASSWORD, timeout_s: float = LONG, firmware: str = "uefi") -> Controller: ...
    def set(self, **knobs: Any) -> None: ...
    def power(self) -> str: ...
    def boot(self) -> str: ...
    def logins(self) -> int: ...
    def sessions(self) -> int: ...
    def pressed(self) -> int: ...
    def silence(self) -> None: ...


class RedfishWorld:
    driver = "redfish"

    def __init__(self, service: RedfishService, ca: Path) -> None:
        self.service, self.machine, self.ca = service, service["m1"], ca
        self.address = service.address("m1")
        self.changes: list[str] = []
        self.machine.on_power = lambda _machine, _before, after: self.changes.append(after.lower())

    def connect(self, *, password: str = PASSWORD, timeout_s: float = LONG, firmware: str = "uefi") -> Controller:
        bmc = Bmc(driver="redfish", address=self.address, ca=str(self.ca))
        return connect(bmc, Credential(USER, password), node="kvm-1", firmware=firmware, timeout_s=timeout_s)

    def set(self, **knobs: Any) -> None:
        for name, value in knobs.items():
            setattr(self.machine, name, value.capitalize() if name == "power" else value)

    def power(self) -> str:
        return self.machine.power.lower()

    def boot(self) -> str:
        return {"Pxe": "network", "Hdd": "disk", "Cd": "cd", "UefiHttp": "http"}[self.machine.target]

    def logins(self) -> int:
        return self.service.logins

    def sessions(self) -> int:
        return len(self.service.open)

    def pressed(self) -> int:
        return len([one for one in self.machine.done if not one.startswith("boot")])

    def silence(self) -> None:
        self.machine.silent = True

    def lose(self, count: int) -> None:
        self.machine.drops = count


class IpmiWorld:
    driver = "ipmi"

    def __init__(self, machine: IpmiMachine) -> None:
        self.machine, self.address = machine, machine.address
        self.changes: list[str] = []
        machine.on_power = lambda _machine, _before, after: self.changes.append(after)

    def connect(self, *, password: str = PASSWORD, timeout_s: float = LONG, firmware: str = "uefi") -> Controller:
        bmc = Bmc(driver="ipmi", address=self.address)
        return connect(bmc, Credential(USER, password), node="kvm-1", firmware=firmware, timeout_s=timeout_s)

    def set(self, **knobs: Any) -> None:
        for name, value in knobs.items():
            setattr(self.machine, name, value)

    def power(self) -> str:
        return self.machine.power

    def boot(self) -> str:
        return {0x04: "network", 0x08: "disk", 0x14: "cd"}[self.machine.boot]

    def logins(self) -> int:
        return self.machine.logins

    def sessions(self) -> int:
        return self.machine.sessions

    def pressed(self) -> int:
        return len(self.machine.done)

    def silence(self) -> None:
        self.machine.silent = True

    def lose(self, count: int) -> None:
        self.machine.loses = count


class FakeWorld:
    driver = "redfish"
    address = "10.90.0.11"

    def __init__(self) -> None:
        self.fake = FakeBmc(identity=IDENTITY, user=USER, password=PASSWORD)
        self.rack = FakeRack({self.address: self.fake})
        self.changes: list[str] = []
        self.presses = 0
        self.fake.on_change = lambda _before, after: self.changes.append(str(after))

    def connect(self, *, password: str = PASSWORD, timeout_s: float = LONG, firmware: str = "uefi") -> Controller:
        bmc = Bmc(driver="redfish", address=self.address)
        return self.rack.connect(bmc, Credential(USER, password), node="kvm-1", firmware=firmware, timeout_s=timeout_s)

    def set(self, **knobs: Any) -> None:
        for name, value in knobs.items():
            setattr(self.fake, name, Power(value) if name == "power" else value)

    def power(self) -> str:
        return str(self.fake.power)

    def boot(self) -> str:
        return str(self.fake.boot)

    def logins(self) -> int:
        return self.fake.logins

    def sessions(self) -> int:
        return 0

    def pressed(self) -> int:
        return self.fake.presses

    def silence(self) -> None:
        self.fake.silent = True


@pytest.fixture(scope="session")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority that signs the certificates of this module's BMCs."""
    return authority(tmp_path_factory.mktemp("bmc"))


def a_machine(**more: Any) -> Machine:
    known = {"manufacturer": "Contoso", "model": "3500", "serial": "SN-0042", "uuid": UUID.upper()}
    return Machine(**{"id": "m1", "user": USER, "password": PASSWORD, **known, **more})


@contextlib.contextmanager
def redfish(ca: Authority, **more: Any) -> Iterator[RedfishWorld]:
    with redfish_server.serving([a_machine(**more)], tls=ca.server()) as service:
        yield RedfishWorld(service, ca.path)


@contextlib.contextmanager
def ipmi(**more: Any) -> Iterator[IpmiWorld]:
    machine = IpmiMachine(
        **{"user": USER, "password": PASSWORD, "uuid": UUID, "serial": "SN-0042", "manufacturer": "Contoso", **more}
    )
    with ipmi_server.serving(machine):
        yield IpmiWorld(machine)


@pytest.fixture(params=["redfish", "ipmi", "fake"])
def world(request: pytest.FixtureRequest, ca: Authority) -> Iterator[World]:
    if request.param == "redfish":
        with redfish(ca) as one:
            yield one
    elif request.param == "ipmi":
        with ipmi() as two:
            yield two
    else:
        yield FakeWorld()


def failure(kind: Kind, fn: Callable[..., Any], *args: Any) -> BmcError:
    """Return the error of a call that must fail with this kind."""
    with pytest.raises(BmcError) as caught:
        fn(*args)
    assert caught.value.kind is kind, str(caught.value)
    return caught.value


# --- what every driver does ---


def test_it_says_which_machine_it_is(world: World):
    controller = world.connect()
    assert controller.identity() == IDENTITY
    controller.close()


@pytest.mark.parametrize("before", ["on", "off"])
@pytest.mark.parametrize("after", [Change.ON, Change.OFF])
def test_power_goes_where_it_is_told_and_a_second_time_is_nothing(world: World, before: str, after: Change):
    world.set(power=before)
    controller = world.connect()
    assert controller.power() == before
    controller.set_power(after)
    assert world.power() == str(after) == controller.power()
    pressed = world.pressed()
    assert pressed == (before != str(after))
    controller.set_power(after)
    assert world.pressed() == pressed
    controller.close()


@pytest.mark.parametrize(("before", "seen"), [("on", ["off", "on"]), ("off", ["on"])])
def test_a_cycle_goes_through_off(world: World, before: str, seen: list[str]):
    world.set(power=before)
    controller = world.connect()
    controller.set_power(Change.CYCLE)
    assert world.changes == seen
    controller.close()


def test_soft_off_switches_off_what_listens(world: World):
    world.set(power="on")
    controller = world.connect()
    controller.set_power(Change.SOFT_OFF)
    assert world.changes == ["off"]
    controller.set_power(Change.SOFT_OFF)
    assert world.pressed() == 1
    controller.close()


def test_a_machine_that_ignores_soft_off_is_late_and_its_bmc_no_liar(world: World):
    world.set(power="on", deaf=True)
    controller = world.connect(timeout_s=2)
    error = failure(Kind.TIMEOUT, controller.set_power, Change.SOFT_OFF)
    assert "operating system did not switch the machine off" in str(error)
    assert world.power() == "on"
    controller.close()


def test_set_power_returns_only_when_it_is_so(world: World):
    world.set(changes_in=3)
    controller = world.connect()
    controller.set_power(Change.ON)
    assert world.changes == ["on"]
    controller.close()


def test_a_bmc_that_lies_about_power_is_found_out(world: World):
    world.set(power="on", lies=True)
    controller = world.connect(timeout_s=2)
    error = failure(Kind.LYING, controller.set_power, Change.OFF)
    assert "the BMC confirmed it, and 2 s later still says that the machine is on" in str(error)
    assert not error.transient
    controller.close()


def test_a_wrong_password_is_tried_once_however_often_one_asks(world: World):
    controller = world.connect(password="wr0ng")
    first = failure(Kind.DENIED, controller.power)
    failure(Kind.DENIED, controller.set_power, Change.ON)
    failure(Kind.DENIED, controller.boot_once, Device.NETWORK)
    assert world.logins() == 1
    assert world.power() == "off"
    assert not first.transient
    assert "bmc.credential" in first.hint
    controller.close()


def test_messages_name_everything_but_the_password(world: World):
    controller = world.connect(password="wr0ng secret")
    error = failure(Kind.DENIED, controller.set_power, Change.CYCLE)
    for word in ("kvm-1", world.driver, world.address, "power cycle"):
        assert word in error.summary
    assert "secret" not in str(error).replace("secret variable", "")
    assert "secret" not in repr(error)
    controller.close()


def test_one_that_never_answers_costs_its_time_limit_and_no_more(world: World):
    world.silence()
    controller = world.connect(timeout_s=1)
    with pytest.raises(BmcError) as caught:
        controller.power()
    assert caught.value.transient
    controller.close()


@pytest.mark.parametrize("device", [Device.NETWORK, Device.DISK, Device.CD])
def test_the_next_boot_comes_from_where_it_is_told(world: World, device: Device):
    controller = world.connect()
    controller.boot_once(device)
    assert world.boot() == str(device)
    controller.close()


def test_http_boot_is_refused_to_bios(world: World):
    controller = world.connect(firmware="bios")
    failure(Kind.REFUSED, controller.boot_once, Device.HTTP)
    controller.close()


def test_a_bmc_that_lies_about_the_boot_device_is_found_out(world: World):
    world.set(lies_about_boot=True)
    controller = world.connect(timeout_s=1)
    failure(Kind.LYING, controller.boot_once, Device.NETWORK)
    controller.close()


@pytest.mark.parametrize("driver", ["redfish", "ipmi"])
def test_what_gets_lost_on_the_way_is_asked_again(driver: str, ca: Authority):
    with redfish(ca) if driver == "redfish" else ipmi() as world:
        controller = world.connect()
        assert controller.power() is Power.OFF
        world.lose(1)
        assert controller.power() is Power.OFF
        controller.close()


@pytest.mark.parametrize("driver", ["redfish", "ipmi"])
def test_a_change_whose_answer_got_lost_is_looked_at_and_not_repeated(driver: str, ca: Authority):
    with redfish(ca) if driver == "redfish" else ipmi() as world:
        controller = world.connect()
        controller.power()
        world.machine.on_power = lambda *_: world.lose(1)
        controller.set_power(Change.ON)
        assert (world.power(), world.pressed()) == ("on", 1)
        controller.close()


def test_no_session_is_left_behind(world: World):
    controller = world.connect()
    controller.power()
    controller.boot_once(Device.NETWORK)
    controller.close()
    controller.close()
    until(lambda: world.sessions() == 0)


@pytest.mark.parametrize("driver", ["redfish", "ipmi"])
def test_nobody_at_the_address(driver: str):
    kind = socket.SOCK_STREAM if driver == "redfish" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as held:  # bound and not listening: nobody else can answer there
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        bmc = Bmc(driver=driver, address=address)
        controller = connect(bmc, Credential(USER, PASSWORD), node="kvm-1", firmware="uefi", timeout_s=20)
        error = failure(Kind.UNREACHABLE, controller.power)
        assert error.transient
        assert "address of kvm-1's BMC" in error.hint
        controller.close()


def test_a_name_that_is_none():
    for driver in ("redfish", "ipmi"):
        bmc = Bmc(driver=driver, address="bmc.invalid")
        controller = connect(bmc, Credential(USER, PASSWORD), node="kvm-1", firmware="uefi", timeout_s=20)
        failure(Kind.UNREACHABLE, controller.power)
        controller.close()


# --- Redfish only ---


def test_the_certificate_of_a_stranger_is_refused_before_any_password(ca: Authority, tmp_path: Path):
    stranger = authority(tmp_path, "stranger")
    with redfish_server.serving([a_machine()], tls=stranger.server()) as service:
        for trusted in (str(ca.path), ""):
            bmc = Bmc(driver="redfish", address=service.address("m1"), ca=trusted)
            controller = connect(bmc, Credential(USER, PASSWORD), node="kvm-1", firmware="uefi", timeout_s=LONG)
            error = failure(Kind.REFUSED, controller.power)
            assert "certificate" in error.summary
            assert "bmc.ca" in error.hint
            controller.close()
        assert (service.logins, service.requests) == (0, [])


def test_a_certificate_for_another_address_is_refused(ca: Authority):
    with redfish_server.serving([a_machine()], tls=ca.server("10.90.0.11")) as service:
        world = RedfishWorld(service, ca.path)
        error = failure(Kind.REFUSED, world.connect().power)
        assert "127.0.0.1" in error.summary
        assert service.requests == []


def test_one_that_speaks_no_tls_is_refused(ca: Authority):
    with redfish_server.serving([a_machine()]) as service:
        world = RedfishWorld(service, ca.path)
        world.address = world.address.replace("http:", "https:")
        failure(Kind.REFUSED, world.connect().power)
        assert service.logins == 0


def test_without_sessions_it_logs_in_each_time_and_a_wrong_password_is_still_tried_once(ca: Authority):
    with redfish_server.serving([a_machine()], tls=ca.server(), sessions=False) as service:
        world = RedfishWorld(service, ca.path)
        controller = world.connect()
        controller.set_power(Change.ON)
        assert world.power() == "on"
        controller.close()
        service.logins = 0
        wrong = world.connect(password="wr0ng")
        failure(Kind.DENIED, wrong.power)
        failure(Kind.DENIED, wrong.power)
        assert service.logins == 1


def test_a_session_that_expired_is_opened_anew(ca: Authority):
    with redfish(ca) as world:
        controller = world.connect()
        controller.power()
        world.service.expire()
        controller.set_power(Change.ON)
        assert (world.power(), world.logins()) == ("on", 2)
        controller.close()


def test_a_password_that_changed_meanwhile_is_tried_once_more_and_never_again(ca: Authority):
    with redfish(ca) as world:
        controller = world.connect()
        controller.power()
        world.service.expire()
        world.set(password="another")
        failure(Kind.DENIED, controller.power)
        failure(Kind.DENIED, controller.power)
        assert world.logins() == 2
        controller.close()


def test_a_busy_service_is_asked_again_when_it_says(ca: Authority):
    with redfish(ca, busy=2, retry_after=1) as world:
        controller = world.connect()
        controller.set_power(Change.ON)
        assert (world.power(), world.machine.busy, world.pressed()) == ("on", 0, 1)
        controller.close()


def test_a_service_that_stays_busy_is_late(ca: Authority):
    with redfish(ca, busy=1000) as world:
        controller = world.connect(timeout_s=2)
        assert "busy" in failure(Kind.TIMEOUT, controller.power).summary
        controller.close()


@pytest.mark.parametrize(
    "message",
    ["iLO.2.37.UnableToModifyDuringSystemPOST", "iLO.0.10.InvalidOperationForSystemState", "IDRAC.2.8.SYS518"],
)
def test_not_now_is_no_refusal(ca: Authority, message: str):
    with redfish(ca, refusals=[(400, message)]) as world:
        controller = world.connect()
        controller.boot_once(Device.NETWORK)
        assert world.boot() == "network"
        controller.close()


def test_a_refusal_says_what_the_bmc_said(ca: Authority):
    with redfish(ca, refusals=[(400, "Contoso.1.0.NotToday")]) as world:
        controller = world.connect()
        error = failure(Kind.REFUSED, controller.set_power, Change.ON)
        assert "HTTP 400: The service says NotToday. Contoso.1.0.NotToday" in error.summary
        controller.close()


@pytest.mark.parametrize("manufacturer", ["American Megatrends International LLC", "Contoso"])
def test_patch_carries_if_match_where_it_is_wanted(ca: Authority, manufacturer: str):
    """By vendor at once, by answer at the second try."""
    with redfish(ca, etag=True, manufacturer=manufacturer) as world:
        controller = world.connect()
        controller.boot_once(Device.NETWORK)
        assert world.boot() == "network"
        patches = [one for one in world.service.requests if one.startswith("PATCH")]
        assert len(patches) == (2 if manufacturer == "Contoso" else 1)
        controller.close()


def test_boot_settings_go_to_the_settings_resource_where_they_are_wanted(ca: Authority):
    with redfish(ca, settings=True, etag=True, manufacturer="ASRockRack") as world:
        controller = world.connect()
        controller.boot_once(Device.NETWORK)
        assert (world.boot(), world.machine.enabled, world.machine.mode) == ("network", "Once", "UEFI")
        controller.close()


@pytest.mark.parametrize(
    ("manufacturer", "machine", "sent"),
    [
        ("Contoso", "UEFI", {"BootSourceOverrideTarget": "Pxe", "BootSourceOverrideEnabled": "Once"}),
        (
            "Contoso",
            "Legacy",
            {
                "BootSourceOverrideTarget": "Pxe",
                "BootSourceOverrideEnabled": "Once",
                "BootSourceOverrideMode": "UEFI",
            },
        ),
        (
            "Supermicro",
            "UEFI",
            {
                "BootSourceOverrideTarget": "Pxe",
                "BootSourceOverrideEnabled": "Once",
                "BootSourceOverrideMode": "UEFI",
            },
        ),
        ("Supermicro", None, {"BootSourceOverrideTarget": "Pxe", "BootSourceOverrideEnabled": "Once"}),
        ("HPE", "UEFI", {"BootSourceOverrideTarget": "Pxe", "BootSourceOverrideEnabled": "Once"}),
    ],
)
def test_the_boot_mode_is_sent_to_whom_it_does_good(
    ca: Authority, manufacturer: str, machine: str | None, sent: dict[str, str]
):
    with redfish(ca, manufacturer=manufacturer, mode=machine, mode_writable=manufacturer != "HPE") as world:
        controller = world.connect()
        controller.boot_once(Device.NETWORK)
        assert world.machine.patches == [sent]
        controller.close()


def test_an_hpe_in_the_other_mode_is_refused_with_the_remedy(ca: Authority):
    with redfish(ca, manufacturer="HPE", mode="Legacy", mode_writable=False) as world:
        controller = world.connect()
        error = failure(Kind.REFUSED, controller.boot_once, Device.NETWORK)
        assert "boots in Legacy mode" in error.summary
        assert "set UEFI in the machine's firmware" in error.hint
        assert world.machine.patches == []
        controller.close()


@pytest.mark.parametrize(("manufacturer", "again"), [("Contoso", False), ("Supermicro", True)])
def test_enabled_is_sent_again_to_whom_it_does_good(ca: Authority, manufacturer: str, again: bool):
    with redfish(ca, manufacturer=manufacturer) as world:
        controller = world.connect()
        controller.boot_once(Device.DISK)
        controller.boot_once(Device.NETWORK)
        assert ("BootSourceOverrideEnabled" in world.machine.patches[1]) is again
        controller.close()


def test_an_override_that_power_off_loses_is_set_again_before_power_on(ca: Authority):
    with redfish(ca, power="On", forgets_boot=True) as world:
        booted: list[str] = []
        world.machine.on_power = lambda machine, _, after: booted.append(machine.booted()) if after == "On" else None
        controller = world.connect()
        controller.boot_once(Device.NETWORK)
        controller.set_power(Change.CYCLE)
        assert booted == ["Pxe"]
        controller.close()


@pytest.mark.parametrize(("manufacturer", "kind"), [("Contoso", "GracefulShutdown"), ("HPE", "PushPowerButton")])
def test_a_soft_off_is_what_the_vendor_calls_one(ca: Authority, manufacturer: str, kind: str):
    with redfish(ca, power="On", manufacturer=manufacturer) as world:
        controller = world.connect()
        controller.set_power(Change.SOFT_OFF)
        assert (world.machine.done, world.power()) == ([kind], "off")
        controller.close()


def test_a_system_that_cannot_be_switched_off_is_reset(ca: Authority):
    with redfish(ca, power="On", resets=("On", "ForceRestart")) as world:
        controller = world.connect()
        controller.set_power(Change.CYCLE)
        assert (world.machine.done, world.changes) == (["ForceRestart"], ["off", "on"])
        error = failure(Kind.REFUSED, controller.set_power, Change.OFF)
        assert "only: ForceRestart, On" in error.summary
        controller.close()


def test_a_boot_device_that_is_not_offered_is_refused_with_those_that_are(ca: Authority):
    with redfish(ca, targets=("None", "Hdd")) as world:
        controller = world.connect()
        assert "only from: Hdd, None" in failure(Kind.REFUSED, controller.boot_once, Device.NETWORK).summary
        controller.close()


def test_a_machine_that_is_just_changing_is_waited_for(ca: Authority):
    with redfish(ca, says_changing=True, changes_in=4) as world:
        world.machine.reset("On")
        controller = world.connect()
        controller.set_power(Change.ON)
        assert world.machine.done == ["On"]
        controller.close()


def test_the_service_tag_of_a_dell_is_its_serial_number(ca: Authority):
    with redfish(ca, manufacturer="Dell Inc.", serial="CNIVC00123", sku="5XYZ123") as world:
        controller = world.connect()
        assert controller.identity().serial == "5XYZ123"
        controller.close()


def test_a_system_is_found_by_uuid_or_by_being_the_only_one(ca: Authority):
    machines = [a_machine(id=f"m{n}", uuid=UUID[:-1] + str(n)) for n in (1, 2)]
    with redfish_server.serving(machines, tls=ca.server()) as service:
        world = RedfishWorld(service, ca.path)
        world.address = f"{service.url}?uuid={UUID[:-1].upper()}2"
        controller = world.connect()
        controller.set_power(Change.ON)
        assert [service[name].power for name in ("m1", "m2")] == ["Off", "On"]
        controller.close()
        world.address = f"{service.url}?uuid={UUID[:-1]}3"
        assert "no ComputerSystem of this service has the UUID" in failure(Kind.REFUSED, world.connect().power).summary
        world.address = service.url
        failure(Kind.REFUSED, world.connect().power)
        del service["m1"]
        controller = world.connect()
        controller.set_power(Change.OFF)
        assert service["m2"].power == "Off"
        controller.close()
        world.address = service.address("m9")
        failure(Kind.REFUSED, world.connect().power)


def test_a_controller_that_is_forgotten_makes_no_calls_while_garbage_is_collected(ca: Authority):
    with redfish(ca) as world:
        world.connect().power()
        asked = len(world.service.requests)
        gc.collect()
        assert len(world.service.requests) == asked


def test_proxies_are_for_the_internet_and_not_for_bmcs(ca: Authority, monkeypatch: pytest.MonkeyPatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with redfish(ca) as world:
        controller = world.connect()
        assert controller.power() is Power.OFF
        controller.close()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n<html>hi!", "makes no sense"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "makes no sense"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "makes no sense"),
        (
            b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/redfish/v1/\r\nContent-Length: 0\r\n\r\n",
            "points to another server",
        ),
        (
            b"HTTP/1.1 302 Found\r\nLocation: /redfish/v1/\r\nContent-Length: 0\r\n\r\n",
            "sends us in circles",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n" + b" " * (9 << 20),
            "longer than 8 MiB",
        ),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "the connection broke"),
        (b"", "the connection broke"),
    ],
    ids=["html", "list", "empty", "elsewhere", "circle", "endless", "ssh", "nothing"],
)
def test_whoever_talks_nonsense_gets_a_clear_error(answer: bytes, why: str):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    peer, _ = listener.accept()
                    with peer, contextlib.suppress(OSError):
                        peer.recv(65536)
                        peer.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        bmc = Bmc(driver="redfish", address=f"http://127.0.0.1:{listener.getsockname()[1]}")
        controller = connect(bmc, Credential(USER, PASSWORD), node="kvm-1", firmware="uefi", timeout_s=LONG)
        with pytest.raises(BmcError, match=why) as caught:
            controller.power()
        assert caught.value.kind in (Kind.REFUSED, Kind.UNREACHABLE)
        controller.close()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(LONG)


def test_the_labs_endpoint_is_switched_like_any_other(ca: Authority):
    """`lab: vm` machines have their power behind a Redfish service of the lab's own."""
    power = LabPower(LabNode(name="b1", address="10.77.0.21", kind="vm", firmware="uefi"))
    service = lab_redfish.Service({"b1": power}, user=USER, password=PASSWORD, uuid=UUID)
    listener = socket.create_server(("127.0.0.1", 0))
    with lab_redfish.Server(listener, service, ca.server()) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        address = f"https://127.0.0.1:{listener.getsockname()[1]}/redfish/v1/Systems/b1"
        bmc = Bmc(driver="redfish", address=address, ca=str(ca.path))
        controller = connect(bmc, Credential(USER, PASSWORD), node="b1", firmware="uefi", timeout_s=LONG)
        controller.set_power(Change.ON)
        controller.boot_once(Device.NETWORK)
        controller.set_power(Change.CYCLE)
        controller.set_power(Change.SOFT_OFF)
        assert [line.split()[0] for line in power.done] == ["on", "off", "on", "shutdown"]
        assert "network" in power.done[2] or "pxe" in power.done[2].lower()
        controller.close()
        server.shutdown()
        thread.join()


@dataclass
class LabPower:
    """A machine of the lab that does at once what it is told."""

    node: LabNode
    on: bool = False
    wanted: Override = field(default_factory=Override)
    done: list[str] = field(default_factory=list)

    def is_on(self) -> bool:
        return self.on

    def override(self) -> Override:
        return self.wanted

    def set_override(self, wanted: Override) -> None:
        self.wanted = wanted

    def act(self, action: str) -> None:
        self.done.append(f"{action} {self.wanted.boot()}")
        self.on = action not in ("off", "shutdown")
        if self.on:
            self.wanted = self.wanted.used()


# --- IPMI only ---


@pytest.mark.parametrize("sha256", [False, None], ids=["refuses-suite-17", "answers-suite-3-unasked"])
def test_older_cipher_suites_work(sha256: bool | None):
    with ipmi(sha256=sha256) as world:
        assert world.connect().power() is Power.OFF


@pytest.mark.parametrize(
    ("manufacturer", "firmware", "flags"),
    [("Contoso", "uefi", 0xA0), ("Contoso", "bios", 0x80), ("Supermicro", "uefi", 0xE0), ("Supermicro", "bios", 0x80)],
)
def test_boot_flags_are_those_of_firmware_and_vendor(manufacturer: str, firmware: str, flags: int):
    with ipmi(manufacturer=manufacturer) as world:
        world.connect(firmware=firmware).boot_once(Device.NETWORK)
        assert world.machine.flags == flags


def test_a_bmc_that_knows_no_timer_of_boot_flags_takes_them_all_the_same():
    with ipmi(knows_timer=False) as world:
        world.connect().boot_once(Device.DISK)
        assert world.boot() == "disk"


_CHASSIS = """#!/bin/sh
# What ipmi_sim calls: `get power`, `set power 1`, `set boot pxe`, `set shutdown 1`.
cd {folder} || exit 1
case "$1 $2" in
    "get power") echo "power:$(cat power)" ;;
    "get boot") echo "boot:$(cat boot)" ;;
    "set power") echo "$3" > power; echo "power $3" >> log ;;
    "set boot") echo "$3" > boot; echo "boot $3" >> log ;;
    "set shutdown") echo 0 > power; echo shutdown >> log ;;
esac
"""
_LAN = """name "bmc"
set_working_mc 0x20
  startlan 1
    addr 127.0.0.1 {port}
    priv_limit admin
    allowed_auths_operator none md5
    guid 32333833584f38c80454104d42004444
  endlan
  chassis_control "{folder}/chassis"
  user 2 true "{user}" "secret" operator 10 none md5
"""


def test_openipmis_simulator_is_switched_like_any_other(tmp_path: Path):
    """An implementation that is not pyghmi's, with a user who is no more than operator."""
    program = shutil.which("ipmi_sim")
    if program is None:
        pytest.skip("ipmi_sim is not installed (apt install openipmi)")
    port = ipmi_server.free_port()
    tmp_path.joinpath("chassis").write_text(_CHASSIS.format(folder=tmp_path))
    tmp_path.joinpath("chassis").chmod(0o755)
    tmp_path.joinpath("power").write_text("0\n")
    tmp_path.joinpath("lan.conf").write_text(_LAN.format(folder=tmp_path, port=port, user=USER))
    tmp_path.joinpath("sim.emu").write_text(
        "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02\nmc_enable 0x20\n"
    )
    command = [program, "-c", "lan.conf", "-f", "sim.emu", "-s", str(tmp_path), "-n"]
    with (
        tmp_path.joinpath("out").open("wb") as out,
        subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=out, stderr=out) as process,
    ):
        try:
            bmc = Bmc(driver="ipmi", address=f"127.0.0.1:{port}")
            controller = connect(bmc, Credential(USER, "secret"), node="n", firmware="uefi", timeout_s=LONG)
            until(lambda: answers(controller))
            assert controller.power() is Power.OFF
            controller.set_power(Change.ON)
            controller.boot_once(Device.NETWORK)
            controller.set_power(Change.CYCLE)
            controller.set_power(Change.SOFT_OFF)
            assert controller.power() is Power.OFF
            log = tmp_path.joinpath("log").read_text().splitlines()
            assert log == ["power 1", "boot pxe", "power 0", "boot pxe", "power 1", "shutdown"]
            for user, password in ((USER, "wr0ng"), ("nobody", "secret")):
                other = connect(bmc, Credential(user, password), node="n", firmware="uefi", timeout_s=LONG)
                failure(Kind.DENIED, other.power)
        finally:
            process.kill()


def answers(controller: Controller) -> bool:
    with contextlib.suppress(BmcError):
        controller.power()
        return True
    return False


def test_ipmi_knows_no_http_boot():
    with ipmi() as world:
        assert "redfish" in failure(Kind.REFUSED, world.connect().boot_once, Device.HTTP).hint
        assert world.logins() == 0


def test_a_user_whom_the_bmc_does_not_know_gets_no_answer_and_a_hint():
    with ipmi() as world:
        bmc = Bmc(driver="ipmi", address=world.address)
        controller = connect(bmc, Credential("nobody", PASSWORD), node="kvm-1", firmware="uefi", timeout_s=3)
        assert "whether it knows this user at all" in failure(Kind.TIMEOUT, controller.power).hint


def test_ipmi_sessions_of_many_threads_do_not_meet():
    """Ten BMCs at once, three of them dead; each of the others switches on its own machine and no other."""
    with contextlib.ExitStack() as stack:
        worlds = [stack.enter_context(ipmi(silent=n < 3)) for n in range(10)]
        with ThreadPoolExecutor(10) as threads:
            calls = [threads.submit(world.connect().set_power, Change.ON) for world in worlds]
            errors = [call.exception(LONG) for call in calls]
        assert [type(error) for error in errors] == [BmcError] * 3 + [type(None)] * 7
        assert [world.power() for world in worlds] == ["off"] * 3 + ["on"] * 7
        assert [world.pressed() for world in worlds] == [0] * 3 + [1] * 7


# --- many at once ---


def test_of_200_bmcs_20_never_answer_and_hold_nobody_up():
    """The 180 are all done before any of the 20 is: those end only when the test lets them go."""
    dead = {f"m{n:03}" for n in range(0, 200, 10)}
    machines = [Machine(id=f"m{n:03}", user=USER, password=PASSWORD, silent=f"m{n:03}" in dead) for n in range(200)]
    with redfish_server.serving(machines) as service:

        def switch_on(name: str) -> None:
            bmc = Bmc(driver="redfish", address=service.address(name))
            controller = connect(bmc, Credential(USER, PASSWORD), node=name, firmware="uefi", timeout_s=600)
            try:
                controller.set_power(Change.ON)
            finally:
                controller.close()

        async def run() -> list[str]:
            pool, ended = Pool(threads=40, limit_s=600), []
            everybody_alive = asyncio.Event()

            async def one(name: str) -> None:
                with contextlib.suppress(BmcError):
                    await pool.call(name, switch_on, name)
                ended.append(name)
                if len(ended) == len(machines) - len(dead):
                    everybody_alive.set()

            names = sorted(service, key=lambda name: (name not in dead, name))  # the dead first: they take threads
            async with asyncio.timeout(LONG * 5), asyncio.TaskGroup() as tasks:
                for name in names:
                    tasks.create_task(one(name))
                await everybody_alive.wait()
                for name in dead:
                    service[name].silent = False
                service.let_go()
            pool.close()
            return ended

        ended = asyncio.run(run())
        assert set(ended[:180]) == set(service) - dead
        assert set(ended[180:]) == dead
        assert all(service[name].power == "On" for name in ended[:180])
        assert service.logins >= 200
