"""Debian 12 as our image starts on a BIOS and on UEFI with Secure Boot, and lets in who its seed says, and nobody else.

The machines are virtual and emulated (TCG), which takes a minute or two of each of two cores. Each has its seed and its
host key written into the root file system beforehand, as the installer does it, and is known by that key.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator import files, seed
from orchestrator.images import debian
from orchestrator.images.disk import TOOLS
from orchestrator.images.inspecting import inspect
from orchestrator.images.library import Library
from tests.support.sshd import free_port

OVMF = Path("/usr/share/OVMF/OVMF_CODE_4M.ms.fd")  # with Microsoft's keys, and Secure Boot on
OVMF_VARS = Path("/usr/share/OVMF/OVMF_VARS_4M.ms.fd")
RECIPE = files.HOME / "pxe/debian-12"
PATIENCE_S = 900.0


def reason_to_skip() -> str:
    """Why no image can be built or started here; empty if it can."""
    programs = ("qemu-system-x86_64", "mmdebstrap", "zstd", "debugfs", "sfdisk", "ssh", *TOOLS)
    missing = [each for each in programs if not shutil.which(each, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")]
    if missing:
        return f"not installed: {', '.join(missing)}"
    if not OVMF.exists():
        return "OVMF is not installed (apt install ovmf)"
    return "" if os.geteuid() == 0 else "only root can build images"


pytestmark = pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip() or "-")


@dataclass(frozen=True)
class Machine:
    """A virtual machine that runs."""

    firmware: str
    folder: Path
    port: int
    process: subprocess.Popen[bytes]
    ssh_options: tuple[str, ...]

    def ssh(self, command: str, *options: str, user: str = "halligan") -> subprocess.CompletedProcess[str]:
        words = ["ssh", *self.ssh_options, *options, "-p", str(self.port), f"{user}@127.0.0.1", command]
        return subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)

    def ask(self, command: str) -> str:
        done = self.ssh(command)
        assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout.strip()

    def wait(self) -> None:
        """Wait until somebody with the right key is let in by a host with the right key."""
        deadline, said = time.monotonic() + PATIENCE_S, ""
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"{self.firmware}: QEMU ended\n{self.console()}"
            done = self.ssh("true", "-o", "ConnectTimeout=20")
            if done.returncode == 0:
                return
            said = done.stderr
            time.sleep(1)
        pytest.fail(f"{self.firmware}: no login: {said}\n{self.console()}")

    def console(self) -> str:
        return (self.folder / "console.log").read_bytes().decode(errors="replace")[-3000:]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image as a raw disk: the one of the machine's library if this recipe made it, else one of the cache."""
    cache = Path(os.environ.get("HALLIGAN_CACHE_DIR") or "/var/cache/halligan")
    library = Library()
    made_by = debian.digest(kernel="cloud", recipe=RECIPE)
    if debian.NAME not in library.names() or library.find(debian.NAME).recipe != made_by:
        library = Library(cache / "images")
    image = debian.build(library, cache, print, recipe=RECIPE)
    raw = tmp_path_factory.mktemp("image") / "disk.raw"
    with raw.open("wb") as target:
        subprocess.run(["zstd", "-dcq", library.path(image)], stdout=target, check=True)
    return raw


@pytest.fixture(scope="module")
def machines(disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Machine]]:
    """Both machines, started at once and waited for."""
    folder = tmp_path_factory.mktemp("machines")
    started = {}
    try:
        for number, firmware in enumerate(("bios", "uefi"), 1):
            started[firmware] = start(firmware, number, disk, folder / firmware)
        for machine in started.values():
            machine.wait()
        yield started
    finally:
        for machine in started.values():
            machine.process.send_signal(signal.SIGTERM)
        for machine in started.values():
            machine.process.wait()
            (machine.folder / "disk.raw").unlink()


@pytest.fixture(params=["bios", "uefi"])
def machine(request: pytest.FixtureRequest, machines: dict[str, Machine]) -> Machine:
    return machines[request.param]


def start(firmware: str, number: int, image: Path, folder: Path) -> Machine:
    folder.mkdir()
    mac, port, disk = f"52:54:00:12:34:{number:02x}", free_port(), folder / "disk.raw"
    for name in ("user", "host"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", folder / name], check=True)
    public = (folder / "host.pub").read_text()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {public}")
    subprocess.run(["cp", "--sparse=always", image, disk], check=True)
    personalise(disk, folder, mac, f"{firmware}-1")
    with (folder / "console.log").open("wb") as console:
        process = subprocess.Popen(
            [
                *("qemu-system-x86_64", "-nodefaults", "-display", "none", "-cpu", "max", "-m", "1024"),
                *("-drive", f"if=none,id=disk,format=raw,file={disk},cache=unsafe"),
                *("-device", "virtio-blk-pci,drive=disk", "-device", "virtio-rng-pci"),
                *("-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22"),
                *("-device", f"virtio-net-pci,netdev=net,mac={mac},romfile=", "-serial", "stdio"),
                *firmware_options(firmware, folder),
            ],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
        )
    settings = {
        "BatchMode": "yes",
        "IdentitiesOnly": "yes",
        "IdentityFile": str(folder / "user"),
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": str(folder / "known_hosts"),
    }
    options = ("-F", "none", *(word for key, value in settings.items() for word in ("-o", f"{key}={value}")))
    return Machine(firmware=firmware, folder=folder, port=port, process=process, ssh_options=options)


def firmware_options(firmware: str, folder: Path) -> list[str]:
    if firmware == "bios":
        return ["-machine", "q35,accel=tcg"]
    variables = folder / "variables.fd"
    shutil.copyfile(OVMF_VARS, variables)
    return [
        *("-machine", "q35,accel=tcg,smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on"),
        *("-drive", f"if=pflash,format=raw,readonly=on,file={OVMF}"),
        *("-drive", f"if=pflash,format=raw,file={variables}"),
    ]


def personalise(disk: Path, folder: Path, mac: str, name: str) -> None:
    """Write seed and host key into the root file system, as the installer does, without mounting it."""
    told = seed.linux(
        seed.Host(
            name=name,
            generation=1,
            user="halligan",
            authorized_keys=((folder / "user.pub").read_text().strip(),),
            ports=(seed.Port(mac=mac),),
            networks=(seed.Nic(network="qemu", mac=mac, address="10.0.2.15", prefix=24, gateway="10.0.2.2"),),
            dns=("10.0.2.3",),
        )
    )
    root = next(part for part in inspect(disk).partitions if part.holds == "ext4")
    commands = ["mkdir /var/lib/cloud/seed/nocloud"]
    for file, content in told.files.items():
        (folder / file).write_text(content)
        commands.append(f"write {folder / file} /var/lib/cloud/seed/nocloud/{file}")
    key = "/etc/ssh/ssh_host_ed25519_key"
    commands += [f"write {folder / 'host'} {key}", f"set_inode_field {key} mode 0100600"]
    commands += [f"write {folder / 'host.pub'} {key}.pub"]
    script = folder / "debugfs"
    script.write_text("\n".join(commands) + "\n")
    subprocess.run(
        ["/sbin/debugfs", "-w", "-f", script, f"{disk}?offset={root.start}"], check=True, capture_output=True
    )


# --- what must hold -----------------------------------------------------------------------------------------------


def test_it_started_by_the_firmware_that_it_has(machine: Machine) -> None:
    mode = machine.ask("test -d /sys/firmware/efi && echo uefi || echo bios")
    assert mode == machine.firmware
    if mode == "uefi":
        assert machine.ask("od -An -t u1 -j 4 -N 1 /sys/firmware/efi/efivars/SecureBoot-*") == "1"


def test_it_is_who_its_seed_says(machine: Machine) -> None:
    name = f"{machine.firmware}-1"
    assert machine.ask("hostname") == name
    assert machine.ask("getent hosts $(hostname)"), "a host knows its own name"
    assert "10.0.2.15/24" in machine.ask("ip -brief -4 address show")
    assert machine.ask("networkctl is-online 2>/dev/null; resolvectl dns").split()[-1] == "10.0.2.3"
    assert machine.ask("sudo id -un") == "root"


def test_cloud_init_is_content_and_nothing_failed(machine: Machine) -> None:
    assert "status: done" in machine.ask("cloud-init status --wait")
    assert machine.ask("systemctl list-units --failed --plain --no-legend") == ""
    assert machine.ask("sudo grep -icE ' (error|critical)' /var/log/cloud-init.log || true") == "0"


def test_only_the_key_of_the_seed_logs_in(machine: Machine) -> None:
    assert machine.ssh("true", user="root").returncode == 255
    assert machine.ssh("true", "-o", "PubkeyAuthentication=no").returncode == 255
    open_ones = machine.ask("sudo awk -F: '$2 !~ /^[!*]/ {print $1}' /etc/shadow")
    assert open_ones == "", "nobody has a password"
    settings = machine.ask("sudo sshd -T")
    assert "passwordauthentication no" in settings
    assert "permitrootlogin no" in settings


def test_the_host_keys_are_the_given_one_alone(machine: Machine) -> None:
    assert machine.ask("ls /etc/ssh/ssh_host_*_key") == "/etc/ssh/ssh_host_ed25519_key"


def test_machines_of_one_image_are_not_one(machines: dict[str, Machine]) -> None:
    ids = {machine.ask("cat /etc/machine-id") for machine in machines.values()}
    assert len(ids) == len(machines)
    assert all(len(each) == 32 for each in ids)


def test_ansible_is_there_already(machine: Machine) -> None:
    assert "ansible-" in machine.ask("ls /var/cache/halligan/parcels")


def test_its_own_tools_can_renew_what_starts_it(machine: Machine) -> None:
    """An upgrade of the kernel or of GRUB does this; it must find the disk, both boot partitions and the root."""
    machine.ask("sudo update-grub")
    uuid = machine.ask("findmnt --noheadings --output UUID /")
    config = machine.ask("sudo cat /boot/grub/grub.cfg")
    assert f"root=UUID={uuid} ro console=tty0 console=ttyS0,115200n8" in config
    machine.ask("sudo /var/lib/dpkg/info/grub-cloud-amd64.postinst triggered")
    loaders = machine.ask("sudo find /boot/efi/EFI -iname '*.efi'").lower()
    assert "efi/boot/bootx64.efi" in loaders
