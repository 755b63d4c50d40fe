"""How the discovery agent finds disks, reads partition tables, and stays inside the new root."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.agents import load_agent

agent = load_agent()
RECORDED = Path(__file__).parent / "recorded"
MIB = 1 << 20


def machine(root: Path, disks: Mapping[str, Mapping[str, Any]]) -> Any:
    for name, disk in disks.items():
        folder = root / "sys/block" / name
        folder.mkdir(parents=True)
        (folder / "size").write_text(str(disk.get("size", MIB) // 512))
        (folder / "serial").write_text(disk.get("serial", ""))
        (folder / "wwid").write_text(disk.get("wwn", "").replace("0x", "naa."))
        (folder / "dev").write_text(disk.get("dev", "254:0"))
        if "by_path" in disk:
            link = root / disk["by_path"].lstrip("/")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(f"../../{name}")
    return agent.Machine(root, lambda argv, limit: agent.Ran(127))


def wanted(**more: Any) -> dict[str, Any]:
    return {"name": "/dev/vda", "serial": "", "wwn": "", "by_path": "", "size": MIB, **more}


# --- finding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "found"),
    [
        ({"serial": "S2"}, "/dev/vdb"),
        ({"serial": "S2", "wwn": "0x5"}, "/dev/vdb"),  # one serial is enough; the WWN may be new to the kernel
        ({"wwn": "0x6"}, "/dev/vdb"),
        ({"by_path": "/dev/disk/by-path/two"}, "/dev/vdb"),
    ],
)
def test_a_disk_is_found_again_whatever_its_name_is_now(tmp_path: Path, order: dict[str, Any], found: str) -> None:
    disks = {
        "vda": {"serial": "S1", "wwn": "0x5", "by_path": "/dev/disk/by-path/one"},
        "vdb": {"serial": "S2", "wwn": "0x6", "by_path": "/dev/disk/by-path/two"},
    }
    assert agent.find_disk(machine(tmp_path, disks), wanted(**order))["name"] == found


@pytest.mark.parametrize(
    ("order", "words"),
    [
        ({}, "names /dev/vda only"),
        ({"serial": "S9"}, "no disk has the serial S9; this machine has /dev/vda (serial S1)"),
        ({"serial": "S9", "wwn": "0x5"}, "no disk has the serial S9"),  # never another disk instead
        ({"serial": "S1", "size": 2 * MIB}, "has 1048576 bytes, not 2097152"),
    ],
)
def test_a_disk_that_is_not_the_one_that_was_ordered_is_refused(
    tmp_path: Path, order: dict[str, Any], words: str
) -> None:
    made = machine(tmp_path, {"vda": {"serial": "S1", "wwn": "0x5"}})
    with pytest.raises(agent.TaskError) as caught:
        agent.find_disk(made, wanted(**order))
    assert caught.value.failure == "disk"
    assert words in caught.value.problem


@pytest.mark.parametrize(
    ("more", "found"),
    [({"wwn": "0x6"}, "/dev/vdb"), ({"by_path": "/dev/disk/by-path/two"}, "/dev/vdb"), ({}, "")],
)
def test_disks_with_one_serial_are_told_apart_by_what_else_is_known(
    tmp_path: Path, more: dict[str, Any], found: str
) -> None:
    disks = {
        "vda": {"serial": "SAME", "wwn": "0x5", "by_path": "/dev/disk/by-path/one"},
        "vdb": {"serial": "SAME", "wwn": "0x6", "by_path": "/dev/disk/by-path/two"},
    }
    made = machine(tmp_path, disks)
    if found:
        assert agent.find_disk(made, wanted(serial="SAME", **more))["name"] == found
        return
    with pytest.raises(agent.TaskError, match="2 disks have the serial SAME"):
        agent.find_disk(made, wanted(serial="SAME"))


def test_raid_and_lvm_that_started_by_themselves_are_taken_down_from_the_top(tmp_path: Path) -> None:
    made = machine(tmp_path, {"vda": {"serial": "S1"}, "md127": {"dev": "9:127"}, "dm-0": {"dev": "253:0"}})
    for part in ("vda/vda1/partition", "vda/vda1/holders/md127/x", "md127/holders/dm-0/x"):
        path = tmp_path / "sys/block" / part
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1")
    calls: list[str] = []

    def run(argv: Sequence[str], limit: float) -> Any:
        del limit
        calls.append(" ".join(argv))
        return agent.Ran(0)

    made = agent.Machine(tmp_path, run)
    work = agent.Work(made, agent.Site("https://x", "http://x"), agent.Console())
    agent.free_disk(work, agent.disk_facts(made)[0])
    assert calls == ["dmsetup remove --retry /dev/dm-0", "mdadm --stop /dev/md127"]
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text("36 35 253:0 / /data rw - ext4 /dev/dm-0 rw\n")
    with pytest.raises(agent.TaskError, match="mounted at /data"):
        agent.free_disk(work, agent.disk_facts(made)[0])
    assert len(calls) == 2, "nothing is taken down where something is mounted"


# --- writing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parts",
    [
        [bytes(MIB), b"x" * MIB, bytes(MIB)],
        [b"x" + bytes(MIB - 1), bytes(MIB), bytes(MIB - 1) + b"y"],
        [bytes(3 * MIB)],
        [b"z" * 100_001],
        [bytes(70_000) + b"a" * 70_000 + bytes(123)],
    ],
)
def test_what_is_put_is_what_is_there_over_old_data(tmp_path: Path, parts: list[bytes]) -> None:
    file = tmp_path / "disk"
    file.write_bytes(b"old" * (2 * MIB))
    at = 0
    with agent.Target(file) as target:
        for part in parts:
            target.put(at, part)
            at += len(part)
        target.sync()
    assert file.read_bytes()[:at] == b"".join(parts)
    assert file.read_bytes()[at:] == (b"old" * (2 * MIB))[at:]


def test_zeroing_stays_within_the_disk(tmp_path: Path) -> None:
    file = tmp_path / "disk"
    file.write_bytes(b"o" * 5000)
    with agent.Target(file) as target:
        target.zero(4000, 9000)
        target.zero(-100, 10)
        target.sync()
    assert file.read_bytes() == bytes(10) + b"o" * 3990 + bytes(1000)


# --- tables ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sector", [512, 4096])
def test_a_gpt_is_read_for_both_sector_sizes(tmp_path: Path, sector: int) -> None:
    guid = uuid.UUID("01234567-89ab-cdef-0123-456789abcdef")
    entry = struct.pack(
        "<16s16sQQQ72s", uuid.UUID(agent.ESP).bytes_le, guid.bytes_le, 40, 99, 1 << 59, "ESP é".encode("utf-16-le")
    )
    header = struct.pack("<8s40xQ16xQII", b"EFI PART", 1000, 2, 4, 128)
    image = bytearray(8 * 4096)
    image[sector : sector + len(header)] = header
    image[2 * sector + 128 : 2 * sector + 256] = entry
    (tmp_path / "disk").write_bytes(image)
    table = agent.read_table(tmp_path / "disk", sector)
    assert (table.scheme, table.last) == ("gpt", 1000)
    assert table.partitions == (agent.Partition(2, agent.ESP, 40, 99, str(guid), "ESP é", 1 << 59),)
    assert agent.sector_size(bytes(image)) == sector


def test_a_dos_table_is_read_and_written(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(510) + b"\x55\xaa" + bytes(MIB))
    assert agent.read_table(disk, 512) == agent.Table("dos", 512, (MIB + 512) // 512 - 1, ())
    agent._set_dos_entry(disk, 4, "83", 2048, 4095, True)
    assert agent.read_table(disk, 512).partitions == (agent.Partition(4, "83", 2048, 4095, active=True),)


@pytest.mark.parametrize("content", [b"", b"\0" * 512, b"EFI PART" * 200])
def test_what_is_no_table_has_no_partitions(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "disk").write_bytes(content)
    assert agent.read_table(tmp_path / "disk", 512).partitions == ()


def test_an_image_for_other_sectors_is_refused() -> None:
    head = bytes(512) + b"EFI PART" + bytes(9000)
    agent._check_sectors(head, 512)
    with pytest.raises(agent.TaskError, match="made for sectors of 512 bytes, and the disk has 4096"):
        agent._check_sectors(head, 4096)


# --- the firmware's list --------------------------------------------------------------------------------------------


def test_the_boot_entry_stands_behind_the_network(tmp_path: Path) -> None:
    listed = (RECORDED / "efibootmgr.txt").read_text()
    after = listed.replace("0001,0003,0000,0007", "0002,0003,0000,0007").replace(
        "Boot0001* Halligan debian-11", "Boot0002* Halligan debian-12"
    )
    calls: list[list[str]] = []

    def run(argv: Sequence[str], limit: float) -> Any:
        del limit
        calls.append(list(argv))
        return agent.Ran(0, after if "-c" in argv else listed)

    (tmp_path / "sys/firmware/efi/efivars/BootOrder-8be4df61").mkdir(parents=True)
    work = agent.Work(agent.Machine(tmp_path, run), agent.Site("https://x", "http://x"), agent.Console())
    install = agent.Install(work, {"name": "/dev/vda"}, Path("/dev/vda"), 512)
    part = agent.Partition(2, agent.ESP, 4096, 20479)
    assert install._boot_entry(part, "/EFI/BOOT/BOOTX64.EFI", "debian-12") is True
    assert ["efibootmgr", "-q", "-b", "0001", "-B"] in calls, "the entry of the last install goes"
    assert calls[-2][:6] == ["efibootmgr", "-c", "-d", "/dev/vda", "-p", "2"]
    assert calls[-2][-1] == "\\EFI\\BOOT\\BOOTX64.EFI"
    assert calls[-1] == ["efibootmgr", "-q", "-o", "0003,0002,0000,0007"]


def test_without_efi_variables_there_is_no_entry(tmp_path: Path) -> None:
    work = agent.Work(agent.Machine(tmp_path, None), agent.Site("https://x", "http://x"), agent.Console())
    install = agent.Install(work, {"name": "/dev/vda"}, Path("/dev/vda"), 512)
    assert install._boot_entry(agent.Partition(1, agent.ESP, 1, 2), "/EFI/BOOT/BOOTX64.EFI", "x") is False


# --- FAT without mtools ---------------------------------------------------------------------------------------------


def _mounting(root: Path, calls: list[list[str]]) -> Any:
    """Return work on a machine without mtools, where a mounted file system has a loader and keeps what is copied."""

    def run(argv: Sequence[str], limit: float) -> Any:
        del limit
        calls.append(list(argv))
        if argv[0].startswith("m") and argv[0] != "mount":
            return agent.Ran(127, err=f"{argv[0]}: No such file or directory")
        if argv[0] == "mount":
            (Path(argv[-1]) / "EFI/BOOT").mkdir(parents=True)
            (Path(argv[-1]) / "EFI/BOOT/BOOTX64.EFI").write_text("MZ")
        return agent.run_command(argv, 10) if argv[0] == "cp" else agent.Ran(0)

    return agent.Work(agent.Machine(root, run), agent.Site("https://x", "http://x"), agent.Console())


def test_without_mtools_a_fat_file_system_is_mounted_and_taken_off_again(tmp_path: Path) -> None:
    calls: list[list[str]] = []
    assert agent.fat_files(_mounting(tmp_path, calls), Path("/dev/vda1")) == ["/EFI/BOOT/BOOTX64.EFI"]
    assert [argv[0] for argv in calls] == ["mdir", "mount", "umount"]


def test_without_mtools_a_config_drive_is_filled_by_mounting(tmp_path: Path) -> None:
    calls: list[list[str]] = []
    source = tmp_path / "source"
    agent.write_files(source, {"openstack/latest/user_data": "x"})
    agent.fat_copy(_mounting(tmp_path, calls), Path("/dev/vda3"), source)
    assert [argv[0] for argv in calls] == ["mcopy", "mount", "cp", "umount"]
    [copied] = (tmp_path / "run/halligan").rglob("user_data")
    assert copied.read_text() == "x"


def test_an_empty_fat_file_system_has_no_files(tmp_path: Path) -> None:
    machine_ = agent.Machine(tmp_path, lambda argv, limit: agent.Ran(1, err='File "*" not found'))
    work = agent.Work(machine_, agent.Site("https://x", "http://x"), agent.Console())
    assert agent.fat_files(work, Path("/dev/vda1")) == []


# --- the new root ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("links", "name", "there"),
    [
        ({}, "etc/ssh/key", "etc/ssh/key"),
        ({"etc": "/usr/etc"}, "etc/ssh", "usr/etc/ssh"),
        ({"etc": "../../../../../../outside"}, "etc/passwd", "outside/passwd"),
        ({"var": "srv", "srv": "data/"}, "var/x", "data/x"),
        ({}, "../../x", "x"),
    ],
)
def test_links_of_the_new_system_never_lead_out_of_it(
    tmp_path: Path, links: dict[str, str], name: str, there: str
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for place, target in links.items():
        (root / place).symlink_to(target)
    assert agent.inside(root, name) == root / there


def test_links_that_go_round_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(agent.TaskError, match="goes round"):
        agent.inside(tmp_path, "a/x")


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", ""])
def test_a_seed_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(agent.TaskError, match="a path that is not its own"):
        agent.write_files(tmp_path, {name: "x"}, "seed")
    assert list(tmp_path.iterdir()) == []


def test_a_seed_is_for_root_only(tmp_path: Path) -> None:
    agent.write_files(tmp_path, {"openstack/latest/user_data": "é\n"})
    path = tmp_path / "openstack/latest/user_data"
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("é\n", 0o600)
