"""Addresses, errors, credentials, quirks and the manual driver: what needs no BMC."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.bmc import DRIVERS, BmcError, Change, Credential, Device, Kind, Power, check, connect, quirks
from orchestrator.bmc.addresses import Endpoint, ipmi_endpoint, redfish_endpoint, shown
from orchestrator.bmc.base import Target
from orchestrator.bmc.fake import FakeRack
from orchestrator.bmc.quirks import Conduct, Quirk, conduct_for, quirks_of
from orchestrator.errors import HalliganError
from orchestrator.model import Bmc

PAGE = Path(__file__).parents[3] / "docs/power.md"
LOGIN = Credential("root", "calvin")


# --- addresses ---


@pytest.mark.parametrize(
    ("address", "endpoint"),
    [
        ("10.90.0.11", Endpoint("https://10.90.0.11")),
        ("bmc-1.example:8443", Endpoint("https://bmc-1.example:8443")),
        ("fd00::11", Endpoint("https://[fd00::11]")),
        ("https://10.90.0.11/redfish/v1/", Endpoint("https://10.90.0.11")),
        ("https://10.90.0.11/redfish/v1/Systems/1/", Endpoint("https://10.90.0.11", system="/redfish/v1/Systems/1")),
        ("https://10.90.0.11?uuid=AB-CD", Endpoint("https://10.90.0.11", uuid="ab-cd")),
        ("http://127.0.0.1:8000", Endpoint("http://127.0.0.1:8000")),
        ("http://[::1]:8000", Endpoint("http://[::1]:8000")),
        ("http://localhost", Endpoint("http://localhost")),
    ],
)
def test_redfish_addresses(address: str, endpoint: Endpoint):
    assert redfish_endpoint(address, node="n") == endpoint


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("http://10.90.0.11", "plain http would send the BMC's password"),
        ("http://127.0.0.1.example.com", "plain http would send the BMC's password"),
        ("http://localhost.example.com", "plain http would send the BMC's password"),
        ("ftp://10.90.0.11", 'https, not "ftp"'),
        ("https://10.90.0.11/ui", '"/ui" is not a path of Redfish'),
        ("https://", "there is no host in it"),
        ("https://10.90.0.11:99999", "this is no address"),
        ("https://root:calvin@10.90.0.11", "it holds a user or a password"),
    ],
)
def test_redfish_addresses_that_are_none(address: str, why: str):
    with pytest.raises(HalliganError) as caught:
        redfish_endpoint(address, node="kvm-1")
    assert why in caught.value.summary
    assert caught.value.summary.startswith("kvm-1: ")
    assert caught.value.hint
    assert "calvin" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "where"),
    [
        ("10.90.0.11", ("10.90.0.11", 623)),
        ("10.90.0.11:6230", ("10.90.0.11", 6230)),
        ("fd00::11", ("fd00::11", 623)),
        ("[fd00::11]:6230", ("fd00::11", 6230)),
        ("ipmi://bmc", ("bmc", 623)),
    ],
)
def test_ipmi_addresses(address: str, where: tuple[str, int]):
    assert ipmi_endpoint(address, node="n") == where


@pytest.mark.parametrize("address", ["https://10.90.0.11", "10.90.0.11/1", "root:calvin@10.90.0.11", "10.90.0.11:0"])
def test_ipmi_addresses_that_are_none(address: str):
    with pytest.raises(HalliganError) as caught:
        ipmi_endpoint(address, node="n")
    assert "calvin" not in str(caught.value)


def test_what_messages_show_of_an_address():
    assert shown("https://root:p@ss@10.90.0.11/x") == "https://10.90.0.11/x"
    assert shown("10.90.0.11") == "10.90.0.11"


# --- connect ---


def test_an_unknown_driver_gets_a_guess_and_the_list():
    for call in (check, lambda bmc, *, node: connect(bmc, LOGIN, node=node, firmware="uefi")):
        with pytest.raises(HalliganError) as caught:
            call(Bmc(driver="redfsh", address="10.90.0.11"), node="kvm-1")
        assert 'kvm-1: there is no BMC driver "redfsh". Did you mean "redfish"?' in str(caught.value)
        assert all(driver in caught.value.hint for driver in DRIVERS)


def test_ipmi_without_a_credential_is_the_users_mistake():
    with pytest.raises(HalliganError, match=r"IPMI at 10.90.0.11 wants a user and a password"):
        connect(Bmc(driver="ipmi", address="10.90.0.11"), None, node="kvm-1", firmware="uefi")


def test_importing_power_imports_no_driver():
    code = "import sys, orchestrator.bmc, orchestrator.bmc.pool; print(*sorted({'sushy', 'pyghmi'} & {*sys.modules}))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == ""


def test_a_ca_that_is_no_file_is_named_before_anybody_is_asked(tmp_path: Path):
    bmc = Bmc(driver="redfish", address="10.90.0.11", ca=str(tmp_path / "missing.pem"))
    with pytest.raises(BmcError, match=r"missing\.pem is not a file") as caught:
        connect(bmc, LOGIN, node="kvm-1", firmware="uefi").power()
    assert caught.value.kind is Kind.REFUSED


# --- errors and secrets ---


def test_a_credential_hides_its_password():
    assert repr(LOGIN) == "Credential(user='root')"
    assert "calvin" not in f"{LOGIN} {[LOGIN]!r} {{'a': LOGIN}}"


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_of_failure_names_node_driver_address_question_and_next_step(kind: Kind):
    error = Target("kvm-1", "redfish", "10.90.0.11").error(kind, "power on", "no")
    assert error.summary == "kvm-1: power on (redfish at 10.90.0.11): no"
    assert error.hint
    assert "{" not in error.hint
    assert error.transient == (kind in ("unreachable", "timeout"))


def test_the_manual_driver_says_what_to_do_and_does_nothing():
    controller = connect(Bmc(driver="manual", address="rack 7"), None, node="kvm-1", firmware="uefi")
    assert controller.power() is Power.UNKNOWN
    assert controller.identity().uuid == ""
    for change in Change:
        with pytest.raises(BmcError, match=r"please (switch|shut) kvm-1 .*by hand") as caught:
            controller.set_power(change)
        assert caught.value.kind is Kind.REFUSED
    for device in Device:
        with pytest.raises(BmcError, match="boot menu of kvm-1"):
            controller.boot_once(device)
    controller.close()


def test_an_address_that_is_not_in_a_fake_rack_is_unreachable():
    controller = FakeRack().connect(Bmc(driver="redfish", address="10.90.0.9"), LOGIN, node="n", firmware="uefi")
    with pytest.raises(BmcError) as caught:
        controller.power()
    assert caught.value.kind is Kind.UNREACHABLE


# --- quirks ---


@pytest.mark.parametrize(
    ("driver", "manufacturer", "model", "expected"),
    [
        ("redfish", "Supermicro", "X12", {Quirk.SEND_MODE, Quirk.SEND_ENABLED}),
        ("redfish", "SUPERMICRO", "ARS-121L-DNR", {Quirk.SEND_MODE, Quirk.SEND_ENABLED, Quirk.BOOT_UNREADABLE}),
        ("ipmi", "Super Micro Computer", "X11", {Quirk.PERSISTENT_EFI}),
        ("redfish", "HPE", "ProLiant DL380 Gen10", {Quirk.NEVER_MODE, Quirk.SOFT_BY_BUTTON}),
        ("redfish", "Hewlett Packard Enterprise", "", {Quirk.NEVER_MODE, Quirk.SOFT_BY_BUTTON}),
        ("redfish", "HP", "DL360 Gen9", {Quirk.NEVER_MODE, Quirk.SOFT_BY_BUTTON}),
        ("redfish", "Dell Inc.", "PowerEdge R660", {Quirk.SERIAL_IS_SKU}),
        ("redfish", "Lenovo", "ThinkSystem SR655", {Quirk.IF_MATCH, Quirk.BOOT_UNREADABLE}),
        ("redfish", "Lenovo", "ThinkSystem SR650", {Quirk.BOOT_UNREADABLE}),
        ("redfish", "GIGABYTE", "R282", {Quirk.IF_MATCH, Quirk.BOOT_UNREADABLE}),
        ("redfish", "ASRockRack", "", {Quirk.IF_MATCH, Quirk.BOOT_UNREADABLE}),
        ("ipmi", "Dell Inc.", "PowerEdge R660", set()),
        ("redfish", "Contoso", "HPE Dell Supermicro", set()),
        ("redfish", "AMITEC", "", set()),
        ("redfish", "", "", set()),
    ],
)
def test_who_needs_what(driver: str, manufacturer: str, model: str, expected: set[Quirk]):
    assert quirks_of(driver, manufacturer, model) == expected


def test_what_to_do_about_an_answer():
    assert conduct_for("x iLO.2.37.UnableToModifyDuringSystemPOST y") is Conduct.WAIT
    assert conduct_for("Ami.1.0.PreconditionHeaderMissing") is Conduct.IF_MATCH
    assert conduct_for("Base.1.8.PropertyNotWritable") is None


def test_every_quirk_and_conduct_is_used_and_every_entry_has_a_source():
    assert {entry.quirk for entry in quirks.VENDORS} == set(Quirk)
    assert {answer.conduct for answer in quirks.ANSWERS} == set(Conduct)
    for one in (*quirks.VENDORS, *quirks.ANSWERS):
        assert re.match(r"https://\S+", one.source), one
        assert one.why


def test_every_quirk_is_honoured_by_a_driver():
    code = "".join((Path(quirks.__file__).parent / name).read_text() for name in ("redfish.py", "ipmi.py", "wire.py"))
    assert {quirk for quirk in Quirk if f"Quirk.{quirk.name}" not in code} == set()
    assert {conduct for conduct in Conduct if f"Conduct.{conduct.name}" not in code} == set()


def test_the_page_shows_the_tables_as_they_are():
    """Paste what `python -c "from orchestrator.bmc.quirks import as_markdown as m; print(m())"` prints."""
    shown_ = PAGE.read_text().partition("<!-- quirks -->\n")[2].partition("\n<!-- /quirks -->")[0]
    assert shown_ == quirks.as_markdown()


def test_the_page_tells_of_every_driver_and_kind():
    page = PAGE.read_text()
    assert {word for word in (*DRIVERS, *Kind, *Change, *Device) if f"`{word}`" not in page} == set()
