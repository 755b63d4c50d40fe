"""What a machine is ordered to write: the right disk, the right seed, no secret; and what is refused in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography import x509

from orchestrator import facts
from orchestrator.errors import HalliganError
from orchestrator.executors.metal.orders import Orders
from orchestrator.executors.metal.wanted import Wanted
from orchestrator.images.library import Image
from orchestrator.model import Connection, PlanNode, StepId, StepRun
from orchestrator.seed import File

MATERIAL = Path(__file__).parent / "material" / "facts"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIG9uZSBvZiB0aG9zZSBrZXlzIHRoYXQgYXJlIG5vbmUhISE"
MGMT = {"name": "mgmt", "address": "10.7.0.2", "cidr": "10.7.0.0/24", "gateway": "10.7.0.1", "vlan": 0, "mtu": 1500}


def image(name, size, **fields):
    told = {"sha256": "a" * 64, "file_sha256": "b" * 64, "file_size": 9, "root": "ext4", "source": ""}
    return Image(name=name, size=size, created="2026-01-01T00:00:00+00:00", **{**told, **fields})


class Shelf:
    """A library with two images."""

    def __init__(self, *, size=1 << 30):
        both = ("bios", "uefi")
        self.images = {
            "debian-12": image("debian-12", size, file="d.raw.zst", firmware=both, os="linux", seed="nocloud"),
            "windows-2022": image(
                "windows-2022", size, file="w.raw.zst", firmware=("uefi",), os="windows", seed="configdrive"
            ),
        }

    def current(self, name):
        if name not in self.images:
            raise HalliganError(f"there is no image {name}", hint="build it")
        return self.images[name]


@pytest.fixture
def connection(tmp_path):
    (tmp_path / "key").write_text("not looked at")
    (tmp_path / "key.pub").write_text(f"{KEY} me@here\n")
    return Connection(user="halligan", private_key=str(tmp_path / "key"))


def wanted(connection, *, platform="debian-12", networks=(MGMT,), name="kvm-1", **profile):
    host = PlanNode(name=name, platform=platform, address="10.7.0.2", connection=connection)
    inputs = {
        "mac": "",
        "profile": {"name": "p", "image": "debian-12", "firmware": "uefi", "root_disk": {}, "expect": {}, **profile},
        "networks": list(networks),
        "boot_network": "mgmt",
    }
    return Wanted.of(StepRun(step=StepId(f"install@{name}"), node=host, inputs=inputs))


def found(name="qemu"):
    return facts.read((MATERIAL / f"{name}.json").read_bytes())


def orders(tmp_path, shelf=None, **further):
    return Orders(shelf or Shelf(), lambda: 1_760_000_000.0, certificates=tmp_path / "winrm", further=further)


def test_an_order_has_image_disk_and_seed(tmp_path, connection):
    machine = found()
    order = orders(tmp_path).install(wanted(connection, networks=({**MGMT, "dns": ["10.7.0.9"]},)), machine, "o-1")
    assert (order.id, order.task) == ("o-1", "install")
    assert order.args["image"]["path"] == "/files/images/d.raw.zst"
    assert order.args["disk"]["serial"] == machine.disks[0].serial
    files = order.args["seed"]["files"]
    assert KEY in files["user-data"]
    assert "10.7.0.2/24" in files["network-config"]
    assert "10.7.0.9" in files["network-config"]
    assert machine.nics[0].mac in files["network-config"]
    assert order.args["host_keys"] == ["ed25519"]
    json.dumps(order.args)  # it travels


def test_the_profile_and_the_lab_add_to_the_first_start(tmp_path, connection):
    further = {"kvm-1": (File(path="/etc/apt/apt.conf.d/90lab", content="Acquire;"),)}
    told = orders(tmp_path, **further).install(wanted(connection, user_data={"timezone": "UTC"}), found(), "o-1")
    assert "timezone: UTC" in told.args["seed"]["files"]["user-data"]
    assert "/etc/apt/apt.conf.d/90lab" in told.args["seed"]["files"]["user-data"]


def test_a_windows_image_takes_the_same_road_with_a_certificate_instead_of_a_password(tmp_path, connection):
    windows = wanted(connection, image="windows-2022", platform="windows-2022", name="hv-1")
    order = orders(tmp_path).install(windows, found(), "o-1")
    assert order.args["seed"]["kind"] == "configdrive"
    files = order.args["seed"]["files"]
    meta = json.loads(files["openstack/latest/meta_data.json"])
    pem = "".join(meta["meta"][name] for name in sorted(meta["meta"]) if name.startswith("admin_cert"))
    certificate = x509.load_pem_x509_certificate(pem.encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert b"halligan@localhost" in next(iter(names)).value
    assert "#ps1" in files["openstack/latest/user_data"]
    assert "PRIVATE" not in json.dumps(order.args)
    assert "password" not in json.dumps(meta).lower()
    assert order.args["host_keys"] == []
    again = orders(tmp_path).install(windows, found(), "o-2")
    assert again.args["seed"]["files"]["openstack/latest/meta_data.json"] == files["openstack/latest/meta_data.json"]
    assert (tmp_path / "winrm" / "halligan.key").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("profile", "machine", "words"),
    [
        ({"image": "debian-13"}, "qemu", "there is no image debian-13"),
        ({"image": "windows-2022", "firmware": "bios"}, "qemu", "does not start in bios mode"),
        ({"root_disk": {"size": ">= 900 TB"}}, "qemu", "no disk"),
        ({"root_disk": {"type": "nvme"}}, "dell-r660", "2 disks"),
        ({"interfaces": {"bond0": {"members": ["nic0", "nic7"], "networks": ["mgmt"]}}}, "qemu", "nic7"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_ordered(tmp_path, connection, profile, machine, words):
    with pytest.raises(HalliganError) as caught:
        orders(tmp_path).install(wanted(connection, **profile), found(machine), "o-1")
    assert words in str(caught.value)


def test_an_image_larger_than_the_disk_is_refused(tmp_path, connection):
    with pytest.raises(HalliganError) as caught:
        orders(tmp_path, Shelf(size=1 << 50)).install(wanted(connection), found(), "o-1")
    assert "too small" in str(caught.value)


def test_without_a_key_nobody_could_log_in(tmp_path):
    with pytest.raises(HalliganError, match="names no private_key"):
        orders(tmp_path).install(wanted(Connection(user="halligan")), found(), "o-1")
