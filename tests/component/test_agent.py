"""The discovery agent as a process of its own against a boot service: real TLS, real disks, things that go wrong."""

from __future__ import annotations

import json
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.agent_machine import (
    MIB,
    MadeImage,
    MadeMachine,
    dos_image,
    linux_image,
    loop,
    missing,
    no_loops,
    tool,
    windows_image,
)
from support.agents import Authority, BootService, load_agent, wait_for
from support.bootservice import Machine, Service, settings

from orchestrator import facts
from orchestrator.lifecycle import Signal, move
from orchestrator.model import MachineState, Order, Phase
from orchestrator.store import Store, kinds

agent_file = load_agent()

needs_loops = pytest.mark.skipif(bool(no_loops()), reason=no_loops() or "there are loop devices")
needs_disk_tools = pytest.mark.skipif(
    bool(missing("sgdisk", "zstd", "mke2fs", "mkfs.vfat", "mcopy", "ssh-keygen")),
    reason=f"not installed: {missing('sgdisk', 'zstd', 'mke2fs', 'mkfs.vfat', 'mcopy', 'ssh-keygen')}",
)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[BootService]:
    with BootService(tmp_path / "service").serving() as running:
        yield running


@pytest.fixture
def machine(tmp_path: Path, service: BootService) -> MadeMachine:
    made = MadeMachine(tmp_path / "machine")
    made.site(service)
    return made


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> MadeImage:
    return linux_image(tmp_path_factory.mktemp("image") / "linux")


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    with loop(tmp_path / "disk", 256 * MIB) as made:
        yield made


def _args(image: MadeImage, disk: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "image": image.order(),
        "disk": disk,
        "firmware": "uefi",
        "seed": {"kind": "nocloud", "files": {"meta-data": "instance-id: i-1\n", "user-data": "#cloud-config\n"}},
        "host_keys": ["ed25519"],
        "grow": True,
        **more,
    }


def _bytes(path: Path, start: int, length: int) -> bytes:
    with path.open("rb") as stream:
        stream.seek(start)
        return stream.read(length)


def _does_not_boot(path: Path) -> bool:
    size = path.stat().st_size or 256 * MIB
    return not any(_bytes(path, 0, MIB)) and not any(_bytes(path, size - MIB, MIB))


# --- enrolling and facts --------------------------------------------------------------------------------------------


def test_enrols_and_tells_basic_facts_then_full_ones(service: BootService, machine: MadeMachine) -> None:
    machine.put("/sys/class/dmi/id/sys_vendor", "Dell Inc.\n")
    machine.put("/sys/class/dmi/id/product_uuid", "4C4C4544-0042-3510-8051-B7C04F4E3432\n")
    machine.put("/sys/class/dmi/id/product_serial", "B5QN42\n")
    machine.fake("dmidecode", "Handle 0x1100, DMI type 17, 84 bytes\nMemory Device\n\tSize: 16 GB\n\tLocator: A1\n")
    with machine.agent():
        full = wait_for(lambda: service.facts.get("full"), "the full facts")
    [enrolment] = service.enrolments
    assert enrolment["identity"] == {
        "uuid": "4c4c4544-0042-3510-8051-b7c04f4e3432",
        "serials": ["B5QN42"],
        "macs": ["52:54:00:00:00:01"],
    }
    assert enrolment["boot"] == {"mac": "52:54:00:00:00:01", "mode": "bios"}
    assert service.facts["basic"]["agent"]["level"] == "basic"
    read = facts.read(json.dumps(full).encode())
    assert (read.level, read.vendor, read.memory_bytes, read.virtualization.cpu) == (
        "full",
        "Dell Inc.",
        16 << 30,
        "vmx",
    )
    assert any(note.startswith("ipmitool") for note in full["agent"]["notes"])


def test_the_service_that_the_discovery_image_believes_is_the_only_one(
    service: BootService, machine: MadeMachine, tmp_path: Path
) -> None:
    machine.put("/etc/halligan/ca.pem", Authority(tmp_path / "other").ca.read_bytes())
    with machine.agent() as agent:
        wait_for(lambda: "certificate is not good" in agent.console(), "the refusal")
    assert service.enrolments == []
    assert service.tokens == {"token-1"}


def test_a_certificate_for_another_address_is_refused(machine: MadeMachine, service: BootService) -> None:
    machine.site(service, server=service.server.replace("127.0.0.1", "localhost"))
    with machine.agent() as agent:
        wait_for(lambda: "certificate is not good" in agent.console(), "the refusal")
    assert service.enrolments == []


@pytest.mark.parametrize("status", [401, 403, 409])
def test_a_machine_that_is_refused_says_why_and_restarts(
    service: BootService, machine: MadeMachine, status: int
) -> None:
    service.refuse_enrolment = (status, "this machine is not wanted", "ask somebody")
    with machine.agent() as agent:
        assert agent.child.wait(60) == 0
        console = agent.console()
    assert f"{status} this machine is not wanted (ask somebody)" in console
    assert (machine.path / "run/halligan/agent/switched").read_text() == "reboot"


def test_a_credential_that_is_no_longer_known_leads_to_a_new_boot(service: BootService, machine: MadeMachine) -> None:
    with machine.agent() as agent:
        wait_for(lambda: service.facts.get("full"), "the facts")
        service.credential = "another"
        service.order("reboot", {})
        assert agent.child.wait(60) == 0
        assert "this credential is not known" in agent.console()
    assert service.results == []


def test_waits_for_a_server_that_is_not_there_yet(service: BootService, machine: MadeMachine) -> None:
    service.stop()
    with machine.agent() as agent:
        wait_for(lambda: "cannot reach" in agent.console(), "the first try")
        service.start()
        wait_for(lambda: service.enrolments, "the enrolment")


def test_an_agent_that_restarts_keeps_its_credential(service: BootService, machine: MadeMachine) -> None:
    with machine.agent():
        wait_for(lambda: service.facts.get("basic"), "the facts")
    service.facts.clear()
    with machine.agent():
        wait_for(lambda: service.facts.get("basic"), "the facts after a restart")
    assert len(service.enrolments) == 1
    mode = (machine.path / "run/halligan/agent/credential.json").stat().st_mode & 0o777
    assert mode == 0o600


def test_no_secret_is_said(service: BootService, machine: MadeMachine) -> None:
    with machine.agent() as agent:
        wait_for(lambda: service.facts.get("full"), "the facts")
        assert "token-1" not in agent.console()
        assert "credential-1" not in agent.console()


def test_a_site_without_tls_is_refused(machine: MadeMachine, service: BootService) -> None:
    machine.site(service, server=service.files_url)
    with machine.agent() as agent:
        assert agent.child.wait(60) == 1
        assert "'server' must be https" in agent.console()


# --- power and rescue -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["reboot", "poweroff"])
def test_power_tasks_tell_their_result_first(service: BootService, machine: MadeMachine, task: str) -> None:
    key = service.order(task, {})
    with machine.agent() as agent:
        assert service.result(key)["ok"] is True
        assert agent.child.wait(60) == 0
    assert (machine.path / "run/halligan/agent/switched").read_text() == task


def test_rescue_opens_a_shell_for_the_keys_that_were_given(service: BootService, machine: MadeMachine) -> None:
    key = service.order("rescue", {"authorized_keys": ["ssh-ed25519 AAAAC3 somebody"]})
    with machine.agent():
        result = service.result(key)
    assert result["ok"], result["problem"]
    assert (machine.path / "root/.ssh/authorized_keys").read_text() == "ssh-ed25519 AAAAC3 somebody\n"
    assert "start ssh.service" in machine.calls("systemctl")
    public = (machine.path / "etc/ssh/ssh_host_ed25519_key.pub").read_text().split()
    assert " ".join(public[:2]) in result["outputs"]["host_keys"]


def test_a_boot_for_rescue_opens_the_shell_by_itself(service: BootService, machine: MadeMachine) -> None:
    service.mode = "rescue"
    machine.site(service, authorized_keys=["ssh-ed25519 AAAAC3 somebody"])
    with machine.agent() as agent:
        wait_for(lambda: "rescue: ssh root@" in agent.console(), "the shell")


def test_an_unknown_task_is_a_result_and_not_an_end(service: BootService, machine: MadeMachine) -> None:
    first, second = service.order("dance", {}), service.order("reboot", {}, key="second")
    with machine.agent():
        assert "does not know such a task" in service.result(first)["problem"]
        assert service.result(second)["ok"]


# --- installing -----------------------------------------------------------------------------------------------------


@needs_loops
@needs_disk_tools
def test_installs_over_a_connection_that_breaks(
    service: BootService, machine: MadeMachine, image: MadeImage, device: Path, tmp_path: Path
) -> None:
    disk = machine.disk("vda", device, serial="S1", by_path="/dev/disk/by-path/pci-0000:00:04.0")
    service.files["/files/images/debian-12.raw.zst"] = image.packed
    service.cut = [3 * MIB, 700_001]
    with machine.agent():
        key = service.order("install", _args(image, disk))
        result = service.result(key)
    assert result["ok"], result
    assert service.ranges == ["", f"bytes={3 * MIB}-", f"bytes={3 * MIB + 700_001}-"]
    outputs = result["outputs"]
    assert (outputs["image"], outputs["disk"]) == (f"debian-12@{image.order()['sha256'][:12]}", "/dev/vda")
    assert (outputs["bytes"], outputs["bootloader"]) == (len(image.raw), "EFI/BOOT/BOOTX64.EFI")
    steps = list(dict.fromkeys(body["step"] for task, body in service.progress if task == key))
    assert [step for step in steps if step in ("write", "grow", "seed")] == sorted(
        {"write", "grow", "seed"} & set(steps), key=["write", "grow", "seed"].index
    )
    assert len(result["log"]) <= 64 * 1024

    assert "No problems found" in tool("sgdisk", "-v", device)
    before, after = _entries(image.raw[1024 : 1024 + 3 * 128]), _entries(_bytes(device, 1024, 3 * 128))
    assert after[:2] == before[:2]
    assert after[2][:2] == before[2][:2]  # type and GUID
    assert after[2][4:] == before[2][4:]  # attributes and name
    assert (before[2][2], before[2][3] < after[2][3]) == (after[2][2], True)
    assert after[2][3] >= (256 * MIB) // 512 - 4096
    assert _bytes(device, 512, 8) == _bytes(device, 256 * MIB - 512, 8) == b"EFI PART"

    with _mounted(device, 3, tmp_path) as root:
        assert os.statvfs(root).f_blocks * os.statvfs(root).f_frsize > 200 * MIB
        seed = root / "srv/cloud/seed/nocloud"  # through the image's own absolute link
        assert (seed / "meta-data").read_text() == "instance-id: i-1\n"
        assert sorted(path.name for path in (root / "etc/ssh").iterdir()) == [
            "ssh_host_ed25519_key",
            "ssh_host_ed25519_key.pub",
        ]
        assert (root / "etc/ssh/ssh_host_ed25519_key").stat().st_mode & 0o777 == 0o600
        assert outputs["host_keys"] == [" ".join((root / "etc/ssh/ssh_host_ed25519_key.pub").read_text().split()[:2])]
        assert "ssh_deletekeys: false" in (root / "etc/cloud/cloud.cfg.d/95_halligan_host_keys.cfg").read_text()
        original = image.raw.find((root / "usr/bin/blob").read_bytes()[:4096])
        assert original > 0
    assert not (Path("/srv/cloud/seed/nocloud")).exists()


def _entries(raw: bytes) -> list[tuple[Any, ...]]:
    return [struct.unpack_from("<16s16sQQQ72s", raw, at) for at in range(0, len(raw), 128)]


class _mounted:  # noqa: N801 - reads as a word
    def __init__(self, device: Path, number: int, folder: Path) -> None:
        self._node, self._folder = f"{device}p{number}", folder / "seen"

    def __enter__(self) -> Path:
        self._folder.mkdir(exist_ok=True)
        tool("mount", "-o", "ro", self._node, self._folder)
        return self._folder

    def __exit__(self, *_: object) -> None:
        tool("umount", self._folder)


@needs_loops
@needs_disk_tools
@pytest.mark.parametrize(
    ("change", "failure", "words"),
    [
        ({"sha256": "0" * 64}, "image", "is damaged"),
        ({"size": 48 * MIB + 512}, "image", "ended after"),
        ({"size": 47 * MIB}, "image", "is larger than"),
        ({"path": "/files/images/none.raw.zst"}, "image", "404"),
        ({"path": "/files/images/broken.raw.zst"}, "image", "cannot be unpacked"),
        ({"path": "/files/images/truncated.raw.zst"}, "image", "cannot be unpacked"),
        ({"path": "/files/images/no-loader.raw.zst"}, "image", "is damaged"),
    ],
)
def test_a_wrong_image_leaves_a_disk_that_does_not_boot(
    service: BootService,
    machine: MadeMachine,
    image: MadeImage,
    device: Path,
    change: dict[str, Any],
    failure: str,
    words: str,
) -> None:
    disk = machine.disk("vda", device, serial="S1")
    middle = len(image.packed) // 2
    service.files["/files/images/debian-12.raw.zst"] = image.packed
    service.files["/files/images/broken.raw.zst"] = image.packed[:middle] + b"damage" * 9 + image.packed[middle + 54 :]
    service.files["/files/images/truncated.raw.zst"] = image.packed[:middle]
    other = bytearray(image.raw)
    other[20 * MIB] ^= 1
    service.files["/files/images/no-loader.raw.zst"] = _pack(bytes(other))
    args = _args(image, disk)
    args["image"].update(change)
    with machine.agent():
        result = service.result(service.order("install", args))
    assert (result["ok"], result["failure"]) == (False, failure)
    assert words in result["problem"]
    assert _does_not_boot(device)


def _pack(raw: bytes) -> bytes:
    return subprocess.run(["zstd", "-q", "-c"], input=raw, capture_output=True, check=True).stdout


@needs_loops
@needs_disk_tools
@pytest.mark.parametrize(("firmware", "words"), [("uefi", "EFI system partition"), ("bios", "no boot code")])
def test_an_image_without_a_bootloader_is_refused(
    service: BootService, machine: MadeMachine, device: Path, tmp_path: Path, firmware: str, words: str
) -> None:
    image = linux_image(tmp_path / "image", loader="", bios=False)
    service.files["/files/images/debian-12.raw.zst"] = image.packed
    args = _args(image, machine.disk("vda", device, serial="S1"), firmware=firmware)
    with machine.agent():
        result = service.result(service.order("install", args))
    assert (result["failure"], words in result["problem"]) == ("image", True), result["problem"]
    assert _does_not_boot(device)


@needs_loops
@needs_disk_tools
def test_an_uncompressed_image_for_bios_with_a_dos_table_is_grown_as_well(
    service: BootService, machine: MadeMachine, device: Path, tmp_path: Path
) -> None:
    if missing("sfdisk"):
        pytest.skip("not installed: sfdisk")
    image = dos_image(tmp_path / "image")
    service.files["/files/images/plain.raw"] = image.raw
    args = _args(image, machine.disk("vda", device, serial="S1"), firmware="bios")
    args["image"]["path"] = "/files/images/plain.raw"
    with machine.agent():
        result = service.result(service.order("install", args))
    assert result["ok"], result
    assert result["outputs"]["bootloader"] == "boot code, and active partition 1"
    with _mounted(device, 1, tmp_path) as root:
        assert os.statvfs(root).f_blocks * os.statvfs(root).f_frsize > 200 * MIB
        assert (root / "var/lib/cloud/seed/nocloud/user-data").exists()


@needs_loops
@needs_disk_tools
def test_a_windows_image_gets_a_config_drive_and_is_not_mounted(
    service: BootService, machine: MadeMachine, device: Path, tmp_path: Path
) -> None:
    if missing("mkntfs"):
        pytest.skip("not installed: mkntfs")
    image = windows_image(tmp_path / "image")
    service.files["/files/images/debian-12.raw.zst"] = image.packed
    files = {"openstack/latest/meta_data.json": '{"uuid": "1"}', "openstack/latest/user_data": "rem cmd\r\n"}
    args = _args(image, machine.disk("vda", device, serial="S1"), host_keys=[])
    args["seed"] = {"kind": "configdrive", "files": files}
    with machine.agent():
        result = service.result(service.order("install", args))
    assert result["ok"], result
    assert result["outputs"]["host_keys"] == []
    assert "$ mount" not in result["log"]
    assert "No problems found" in tool("sgdisk", "-v", device)
    assert _bytes(device, 9 * MIB, 5 * MIB) == image.raw[9 * MIB : 14 * MIB]
    assert _bytes(Path(f"{device}p3"), 43, 11) == b"config-2   "
    for name, text in files.items():
        assert tool("mtype", "-i", f"{device}p3", f"::/{name}") == text.replace("\r\n", "\n")


@needs_loops
@needs_disk_tools
def test_a_linux_image_with_a_config_drive_grows_up_to_it(
    service: BootService, machine: MadeMachine, image: MadeImage, device: Path, tmp_path: Path
) -> None:
    service.files["/files/images/debian-12.raw.zst"] = image.packed
    args = _args(image, machine.disk("vda", device, serial="S1"), firmware="bios")
    args["seed"] = {"kind": "configdrive", "files": {"openstack/latest/meta_data.json": "{}"}}
    with machine.agent():
        result = service.result(service.order("install", args))
    assert result["ok"], result
    assert result["outputs"]["bootloader"] == "boot code, and BIOS boot partition 1"
    assert "No problems found" in tool("sgdisk", "-v", device)
    root, drive = _entries(_bytes(device, 1024 + 2 * 128, 2 * 128))
    assert root[3] < drive[2] <= root[3] + 2 * 2048
    assert (drive[3] - drive[2] + 1) * 512 == 64 * MIB
    assert drive[4] == 0
    assert tool("mtype", "-i", f"{device}p4", "::/openstack/latest/meta_data.json") == "{}"
    with _mounted(device, 3, tmp_path) as folder:
        assert os.statvfs(folder).f_blocks * os.statvfs(folder).f_frsize > 140 * MIB
        assert not (folder / "srv/cloud/seed").exists()
        assert len(result["outputs"]["host_keys"]) == 1


@needs_loops
@needs_disk_tools
@pytest.mark.parametrize("kind", ["nocloud", "configdrive"])
def test_an_image_larger_than_the_disk_is_refused_before_anything_is_written(
    service: BootService, machine: MadeMachine, image: MadeImage, tmp_path: Path, kind: str
) -> None:
    size = (40 if kind == "nocloud" else 100) * MIB
    with loop(tmp_path / "disk", size) as device, machine.agent():
        before = _bytes(device, 0, size)
        args = _args(image, machine.disk("vda", device, serial="S1"), seed={"kind": kind, "files": {}})
        result = service.result(service.order("install", args))
        assert (result["ok"], result["failure"]) == (False, "disk")
        assert "needs" in result["problem"]
        assert _bytes(device, 0, size) == before
    assert service.ranges == []


@needs_loops
@needs_disk_tools
def test_two_disks_with_one_serial_are_told_apart_or_left_alone(
    service: BootService, machine: MadeMachine, image: MadeImage, device: Path, tmp_path: Path
) -> None:
    service.files["/files/images/debian-12.raw.zst"] = image.packed
    with loop(tmp_path / "other", 256 * MIB) as other, machine.agent():
        first = machine.disk("vda", other, serial="SAME", by_path="/dev/disk/by-path/pci-1")
        second = machine.disk("vdb", device, serial="SAME", by_path="/dev/disk/by-path/pci-2")
        result = service.result(service.order("install", _args(image, {**first, "by_path": ""}), key="unclear"))
        assert (result["failure"], "2 disks have the serial SAME" in result["problem"]) == ("disk", True)
        result = service.result(service.order("install", _args(image, {**second, "name": "/dev/vda"}), key="clear"))
        assert result["outputs"]["disk"] == "/dev/vdb"
        assert _bytes(other, 0, 8) == b"old data"
        assert _bytes(device, 512, 8) == b"EFI PART"


@needs_loops
@needs_disk_tools
def test_a_server_that_is_gone_for_a_while_stops_no_install(
    service: BootService, machine: MadeMachine, image: MadeImage, device: Path
) -> None:
    disk = machine.disk("vda", device, serial="S1")
    service.files["/files/images/debian-12.raw.zst"] = image.packed
    service.cut = [5 * MIB, *[0] * 1000]
    key = service.order("install", _args(image, disk))
    with machine.agent() as agent:
        wait_for(lambda: len(service.ranges) > 1, "the second try")
        service.stop()
        assert not dict(service.results)
        wait_for(lambda: agent.child.poll() is None, "the agent goes on", 5)
        service.cut = []
        service.start()
        result = service.result(key)
    assert result["ok"], result
    assert f"bytes={5 * MIB}-" in service.ranges
    assert len(service.enrolments) == 1
    assert sum(task == key for task, _ in service.results) == 1


@needs_loops
@needs_disk_tools
def test_a_result_waits_for_a_server_that_is_gone(
    service: BootService, machine: MadeMachine, image: MadeImage, device: Path
) -> None:
    disk = machine.disk("vda", device, serial="S1")
    service.files["/files/images/debian-12.raw.zst"] = image.packed
    key = service.order("install", _args(image, disk))
    with machine.agent() as agent:
        wait_for(lambda: "telling the new system" in agent.console(), "the seed")
        service.stop()
        wait_for(lambda: "cannot deliver the result" in agent.console() or service.results, "the end")
        service.start()
        assert service.result(key)["ok"]


@needs_loops
@needs_disk_tools
def test_a_task_that_is_handed_out_twice_is_done_once(
    service: BootService, machine: MadeMachine, image: MadeImage, device: Path
) -> None:
    disk = machine.disk("vda", device, serial="S1")
    service.files["/files/images/debian-12.raw.zst"] = image.packed
    with machine.agent() as agent:
        first = service.result(service.order("install", _args(image, disk), key="once"))
        service.results.clear()
        service.order("install", _args(image, disk), key="once")
        assert service.result("once") == first
        assert service.ranges == [""]
        assert agent.console().count("task install") == 2  # began, done
    with machine.agent():  # not even one that has just started
        service.results.clear()
        service.order("install", _args(image, disk), key="once")
        assert service.result("once") == first
    assert service.ranges == [""]


@needs_loops
@needs_disk_tools
def test_an_agent_that_died_in_an_install_does_not_begin_it_again(
    service: BootService, machine: MadeMachine, image: MadeImage, device: Path
) -> None:
    disk = machine.disk("vda", device, serial="S1")
    service.files["/files/images/debian-12.raw.zst"] = image.packed
    service.cut = [8 * MIB, *[0] * 1000]
    key = service.order("install", _args(image, disk))
    with machine.agent():
        wait_for(lambda: len(service.ranges) > 1, "the second try")
    assert not any(_bytes(device, 0, MIB)), "a half image would boot"
    with machine.agent():
        result = service.result(key)
    assert (result["ok"], result["failure"]) == (False, "interrupted")


@needs_loops
@needs_disk_tools
def test_an_install_that_is_no_longer_wanted_stops(
    service: BootService, machine: MadeMachine, image: MadeImage, device: Path
) -> None:
    disk = machine.disk("vda", device, serial="S1")
    service.files["/files/images/debian-12.raw.zst"] = image.packed
    service.cut = [8 * MIB, *[0] * 1000]
    with machine.agent():
        key = service.order("install", _args(image, disk))
        wait_for(lambda: len(service.ranges) > 1, "the second try")
        service.deaf.add(key)
        result = service.result(key)
    assert (result["ok"], result["failure"]) == (False, "interrupted")
    assert _does_not_boot(device)


@needs_loops
@needs_disk_tools
@pytest.mark.parametrize("how", ["mountinfo", "swap", "kernel"])
def test_a_disk_in_use_is_left_alone(
    service: BootService, machine: MadeMachine, image: MadeImage, device: Path, tmp_path: Path, how: str
) -> None:
    disk = machine.disk("vda", device, serial="S1")
    service.files["/files/images/debian-12.raw.zst"] = image.packed
    number = (machine.path / "sys/block/vda/dev").read_text().strip()
    if how == "mountinfo":
        machine.put("/proc/self/mountinfo", f"36 35 {number} / /mnt rw,noatime - ext4 /dev/vda rw\n")
    elif how == "swap":
        machine.put("/proc/swaps", "Filename Type Size\n/dev/vda partition 100\n")
    else:
        tool("mke2fs", "-q", "-F", device)
        (tmp_path / "mounted").mkdir()
        tool("mount", device, tmp_path / "mounted")
    try:
        with machine.agent():
            installed = service.result(service.order("install", _args(image, disk), key="i"))
            erased = service.result(service.order("erase", {"disks": "all", "method": "zero"}, key="e"))
    finally:
        if how == "kernel":
            tool("umount", tmp_path / "mounted")
    assert (installed["ok"], installed["failure"]) == (False, "disk")
    assert erased["ok"] is False
    assert service.ranges == []
    assert any(_bytes(device, 0, MIB))


@needs_loops
@needs_disk_tools
def test_the_real_boot_service_and_the_agent_install_a_machine(image: MadeImage, device: Path, tmp_path: Path) -> None:
    real = Service(settings=settings(tmp_path), folder=tmp_path)
    (real.settings.images / "debian-12.raw.zst").write_bytes(image.packed)
    met = Machine(real.start())
    made = MadeMachine(tmp_path / "machine")
    try:
        assert met.script().status == 200
        assert met.archive().status == 200
        made.put("/etc/halligan/site.json", json.dumps({**met.site, "lldp_s": 0}))
        made.put("/etc/halligan/ca.pem", met.ca)
        made.put("/run/halligan/bootif", met.mac)
        made.put("/sys/class/dmi/id/product_uuid", met.uuid)
        for name, text in {"address": met.mac, "type": "1", "device/vendor": "0x1af4"}.items():
            made.put(f"/sys/class/net/eth0/{name}", text)
        disk = made.disk("vda", device, serial="S1")
        with Store.open(real.settings.store) as store, made.agent() as agent:

            def state(phase: Phase) -> MachineState | None:
                assert agent.child.poll() is None, agent.console()
                [found] = store.machines_like([f"mac:{met.mac}"])
                return found if found.phase is phase and found.level == "full" else None

            found = wait_for(lambda: state(Phase.DISCOVERED), "the full facts")
            store.append([kinds.machine_moved(move(found, Signal.CLAIM, node="kvm-1"), at=1.0, by="test")])
            found = wait_for(lambda: state(Phase.CLAIMED), "the claim")
            order = Order(id="t-1", task="install", args=_args(image, disk))
            store.append([kinds.machine_moved(move(found, Signal.INSTALL, order=order), at=2.0, by="test")])
            done = wait_for(lambda: state(Phase.INSTALLED), "the install")
        assert done.image == f"debian-12@{image.order()['sha256'][:12]}"
        assert [key.split()[0] for key in done.host_keys] == ["ssh-ed25519"]
    finally:
        real.stop()


# --- erasing --------------------------------------------------------------------------------------------------------


@needs_loops
@pytest.mark.parametrize(
    ("method", "discards", "used"), [("auto", "real", "discard"), ("auto", "lies", "zero"), ("zero", "real", "zero")]
)
def test_erases_with_proof(
    service: BootService, machine: MadeMachine, device: Path, tmp_path: Path, method: str, discards: str, used: str
) -> None:
    disk = machine.disk("vda", device, serial="S1")
    machine.put("/sys/block/vda/queue/discard_max_bytes", "4294966784\n")
    if discards == "lies":
        machine.fake("blkdiscard")
    with loop(tmp_path / "usb", 8 * MIB) as stick, machine.agent():
        machine.disk("sdx", stick, serial="USB")
        machine.put("/sys/block/sdx/removable", "1")
        result = service.result(service.order("erase", {"disks": "all", "method": method}))
        assert any(_bytes(stick, 0, MIB))
    assert result["ok"], result
    [proof] = result["outputs"]["disks"]
    samples = proof.pop("samples")
    assert 3 <= samples <= 66
    assert proof == {"name": "/dev/vda", "serial": "S1", "size": disk["size"], "method": used, "verified": True}
    assert result["outputs"]["left"] == ["/dev/sdx"]
    assert not any(_bytes(device, 0, 256 * MIB))


@needs_loops
def test_what_cannot_be_proven_is_a_failure_and_what_was_erased_is_told(
    service: BootService, machine: MadeMachine, device: Path, tmp_path: Path
) -> None:
    with loop(tmp_path / "other", 16 * MIB) as other, machine.agent():
        machine.disk("vda", device, serial="S1")
        machine.put("/sys/block/vda/queue/discard_max_bytes", "4294966784\n")
        machine.disk("vdb", other, serial="S2")  # discards nothing
        result = service.result(service.order("erase", {"disks": "all", "method": "discard"}))
    assert (result["ok"], result["failure"]) == (False, "erase")
    assert "/dev/vdb (serial S2) is not erased" in result["problem"]
    assert [disk["serial"] for disk in result["outputs"]["disks"]] == ["S1"]


def test_a_plain_file_is_a_disk_too(service: BootService, machine: MadeMachine, tmp_path: Path) -> None:
    file = tmp_path / "disk"
    file.write_bytes(os.urandom(9 * MIB + 512))
    disk = machine.disk("vda", file, wwn="0x5000c50012345678")
    with machine.agent():
        result = service.result(service.order("erase", {"disks": [disk], "method": "auto"}))
    assert result["ok"], result
    assert not any(file.read_bytes())
    assert file.stat().st_size == 9 * MIB + 512


def test_a_disk_of_another_size_is_not_erased(service: BootService, machine: MadeMachine, tmp_path: Path) -> None:
    file = tmp_path / "disk"
    file.write_bytes(os.urandom(2 * MIB))
    disk = machine.disk("vda", file, serial="S1")
    with machine.agent():
        result = service.result(service.order("erase", {"disks": [{**disk, "size": 1}], "method": "zero"}))
    assert (result["ok"], "has 2097152 bytes, not 1" in result["problem"]) == (False, True)
    assert any(file.read_bytes())
