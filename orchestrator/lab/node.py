"""One container: its disk, the processes around it, and whether it is well.

A disk is an overlay: the shared base below, the node's own writes in `upper`. Who the node is (name, address, keys) is
written into `upper` as plain files before it boots; nothing is ever run inside to set it up. The mounts are made in a
mount namespace that belongs to the node's processes, so they vanish with the processes, however these end.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import shutil
import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.lab import base
from orchestrator.lab.errors import LabError
from orchestrator.lab.host import Cgroup, Process, connect_inside, run, spawn, write_whole
from orchestrator.lab.values import USER, Lab, LabNode, NodeStatus, Places

__all__ = ["Disk", "Node"]

BRIDGE = "lab0"
FAILED_UNITS = "failed units: "

# A file rather than an argument, so that `ps` stays readable. The shell holds it open when /run is covered.
# $1 cgroup, $2 lower, $3 disk, then the container's command line.
# - cgroup2 is mounted over whatever the machine has: systemd inside needs a plain unified tree.
# - Copies of pinned network namespaces go: they would keep another lab's network alive after it is gone.
# - A private /run keeps systemd-nspawn's own files off the machine.
# - Exit code 133 is a reboot asked for inside. The loop stays outside of the container's own cgroup.
KEEPER = """
set -eu
group="/sys/fs/cgroup/$1" lower="$2" disk="$3"
shift 3
for pin in /run/halligan-lab/*/netns; do umount --lazy "$pin" 2>/dev/null || :; done
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$disk/upper,workdir=$disk/work" "$disk/root"
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p "$group/keeper" "$group/box"
echo $$ > "$group/keeper/cgroup.procs"
while :; do
    code=0
    sh -c 'echo $$ > "$0/cgroup.procs"; exec "$@"' "$group/box" "$@" || code=$?
    [ "$code" -eq 133 ] || exit "$code"
done
"""

# /tmp on the disk as on a Debian server; sysctls of the node's own network writable, the machine's not.
NSPAWN_ENV = ("SYSTEMD_NSPAWN_TMPFS_TMP=0", "SYSTEMD_NSPAWN_API_VFS_WRITABLE=network", "SYSTEMD_NSPAWN_LOCK=0")
DEVICES = ("/dev/net/tun", "/dev/fuse")


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """The folder of one node below the lab's disks."""

    path: Path

    @property
    def upper(self) -> Path:
        return self.path / "upper"

    def exists(self) -> bool:
        return self.path.is_dir()

    def base(self) -> str:
        """The digest of the image this disk was made on."""
        return self.path.joinpath("base").read_text().strip()

    def make(self, image: str) -> None:
        """Made under another name first, so that a disk that exists is whole."""
        partial = self.path.with_name(f".{self.path.name}.part")
        shutil.rmtree(partial, ignore_errors=True)
        for name in ("upper", "work", "root"):
            partial.joinpath(name).mkdir(parents=True)
        partial.joinpath("upper").chmod(0o755)  # it is the container's /
        partial.joinpath("base").write_text(f"{image}\n")
        partial.rename(self.path)

    def delete(self) -> None:
        """Renamed first: a deletion that is cut short must not leave half a disk under the name of a whole one."""
        if self.exists():
            gone = self.path.with_name(f".{self.path.name}.gone")
            shutil.rmtree(gone, ignore_errors=True)
            self.path.rename(gone)
            shutil.rmtree(gone)

    def seed(self) -> str:
        """Which identity was written to it last."""
        file = self.path / "seed"
        return file.read_text() if file.exists() else ""

    def host_keys(self) -> tuple[str, ...]:
        """The public halves (`type base64`), read from the disk: never asked over the network."""
        files = sorted(self.upper.glob("etc/ssh/ssh_host_*_key.pub"))
        return tuple(" ".join(file.read_text().split()[:2]) for file in files if not file.is_symlink())


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node of a lab, with everything needed to make, start, judge and end it."""

    lab: Lab
    places: Places
    node: LabNode

    @property
    def disk(self) -> Disk:
        return Disk(path=self.places.disks / self.node.name)

    @property
    def cgroup(self) -> Cgroup:
        return Cgroup.of(self.lab.site, f"node-{self.node.name}")

    @property
    def _record(self) -> Path:
        return self.places.record(self.node.name)

    @property
    def console(self) -> Path:
        return self.places.console(self.node.name)

    def is_alive(self) -> bool:
        """Its keeper lives; it ends when the container does, unless that asked for a reboot."""
        keeper = Process.read(self._record)
        return keeper is not None and keeper.is_alive()

    def write_seed(self, files: Mapping[str, str]) -> None:
        """Tell the disk who it is; only ever while the node is down."""
        for name, text in files.items():
            _write(self.disk.upper, name, text)
        self._own_home()
        self._host_key()
        _write(self.disk.upper, "etc/machine-id", f"{uuid.uuid4().hex}\n", keep=True)
        self.disk.path.joinpath("seed").write_text(seed_digest(files))

    def _own_home(self) -> None:
        for part in (f"home/{USER}", f"home/{USER}/.ssh", f"home/{USER}/.ssh/authorized_keys"):
            os.chown(self.disk.upper / part, base.USER_ID, base.USER_ID)
        self.disk.upper.joinpath(f"home/{USER}/.ssh").chmod(0o700)

    def _host_key(self) -> None:
        key = self.disk.upper / "etc/ssh/ssh_host_ed25519_key"
        key.parent.mkdir(mode=0o755, exist_ok=True)
        if not key.with_suffix(".pub").exists():
            key.unlink(missing_ok=True)
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.node.name, "-f", key)

    def start(self) -> None:
        """Boot it; returns at once."""
        self.stop()
        self.console.unlink(missing_ok=True)
        lower = base.folder(self.places, self.disk.base())
        enter = ("nsenter", f"--net={self.places.netns}", "unshare", "--mount", "--propagation", "private")
        script = self.places.run / "keeper.sh"
        write_whole(script, KEEPER)
        keeper: tuple[str | Path, ...] = ("sh", script, self.cgroup.name, lower, self.disk.path)
        command = (*enter, *keeper, "env", *NSPAWN_ENV, *self._nspawn())
        spawn(command, cgroup=self.cgroup, log=self.console, record=self._record)

    def _nspawn(self) -> tuple[str, ...]:
        devices = (f"--bind={device}" for device in DEVICES if Path(device).exists())
        return (
            "systemd-nspawn",
            "--quiet",
            "--boot",
            f"--directory={self.disk.path}/root",
            f"--machine={self.node.name}",
            "--settings=no",
            "--register=no",
            "--keep-unit",
            "--link-journal=no",
            "--console=pipe",
            "--resolv-conf=off",
            "--timezone=off",
            f"--network-bridge={BRIDGE}",
            "--capability=CAP_IPC_LOCK",
            "--rlimit=NOFILE=1024:20000",
            *devices,
        )

    def stop(self) -> None:
        """End all its processes; its mounts and interfaces go with them."""
        self.cgroup.kill()
        self._record.unlink(missing_ok=True)

    def remove(self) -> None:
        self.stop()
        self.disk.delete()
        self.console.unlink(missing_ok=True)

    def status(self) -> NodeStatus:
        """Look at the node from outside and from its own systemd; takes some hundredths of a second."""
        if not self.disk.exists():
            return self._status("absent", "not made yet")
        if not self.is_alive():
            return self._status("stopped", "has a disk, but its processes are gone")
        state = self._systemd("is-system-running") or "no answer"
        if state not in ("running", "degraded"):
            return self._status("degraded", f"systemd: {state}")
        complaint = self._sshd_complaint() or (self._failed_units() if state == "degraded" else "")
        return self._status("degraded" if complaint else "running", complaint)

    def _sshd_complaint(self) -> str:
        try:
            banner = connect_inside(self.places.netns, self.node.address, 22)
        except OSError as error:
            return f"sshd does not answer: {error}"
        return "" if banner.startswith(b"SSH-") else "sshd sent no banner"

    def _failed_units(self) -> str:
        units = self._systemd("list-units", "--failed", "--plain", "--no-legend").splitlines()
        return f"{FAILED_UNITS}{', '.join(line.split()[0] for line in units)}"

    def _status(self, state: str, detail: str) -> NodeStatus:
        return NodeStatus(name=self.node.name, address=self.node.address, state=state, detail=detail)

    def init(self) -> int | None:
        """The pid, as this machine sees it, of the container's own pid 1."""
        for pid in Cgroup(name=f"{self.cgroup.name}/box/payload").pids():
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            numbers = next(line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:"))
            if len(numbers) > 1 and numbers[-1] == "1":
                return pid
        return None

    def _systemd(self, *words: str) -> str:
        pid = self.init()
        if pid is None:
            return ""
        enter = ("nsenter", f"--target={pid}", "--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup")
        try:
            return run(*enter, "systemctl", *words, check=False, timeout_s=10).stdout.strip()
        except subprocess.TimeoutExpired:
            return ""


def seed_files(lab: Lab, node: LabNode, *, sources: str, conf: str, public_key: str) -> Mapping[str, str]:
    """Path below / → text: all that makes one node different from another."""
    prefix = ipaddress.IPv4Network(lab.cidr).prefixlen
    return {
        "etc/hostname": f"{node.name}\n",
        "etc/hosts": f"127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n{node.address} {node.name}\n",
        "etc/resolv.conf": "# The lab has no name service: look-ups fail at once instead of waiting.\n",
        "etc/systemd/network/10-lab.network": (
            f"[Match]\nName=host0\n\n[Network]\nAddress={node.address}/{prefix}\nGateway={lab.gateway}\n"
            "LinkLocalAddressing=no\nIPv6AcceptRA=no\n"
        ),
        "etc/apt/sources.list.d/debian.sources": sources,
        "etc/apt/apt.conf.d/90halligan-lab": conf,
        f"home/{USER}/.ssh/authorized_keys": public_key,
    }


def seed_digest(files: Mapping[str, str]) -> str:
    return hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()


def _write(root: Path, name: str, text: str, *, keep: bool = False) -> None:
    """Write below the container's /, never through a link that something inside may have put there."""
    path = root / name
    for parent in reversed(path.relative_to(root).parents[:-1]):
        folder = root / parent
        if folder.is_symlink():
            raise LabError(f"{folder} is a link", hint="Run `down` and `up` to make this lab anew.")
        folder.mkdir(mode=0o755, exist_ok=True)
    if keep and path.exists():
        return
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(0o644)
