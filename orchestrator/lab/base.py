"""The base image: one Debian 12 tree, made once by mmdebstrap, the read-only lower layer of every node."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from orchestrator import parcels
from orchestrator.lab import apt
from orchestrator.lab.errors import LabError
from orchestrator.lab.host import Cgroup, flock, spawn, tail
from orchestrator.lab.values import USER, Lab, Places

__all__ = ["USER_ID", "digest", "ensure", "folder", "forget_partial", "load_ansible"]

USER_ID = 1000

PACKAGES = (
    "ca-certificates",
    "dbus",
    "debian-archive-keyring",
    "iproute2",
    "iputils-ping",
    "kmod",
    "netbase",
    "openssh-server",
    "procps",
    "python3",
    "python3-apt",
    "sudo",
    "systemd",
    "systemd-sysv",
)

# Units that have nothing to do in a container, or would change the machine below it, or wait for what never comes.
MASKED = (
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "console-getty.service",
    "container-getty@.service",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "getty.target",
    "run-rpc_pipefs.mount",
    "systemd-timesyncd.service",
    "systemd-udevd.service",
)

LEFT_OUT = ("/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/man/*")

# Runs in the finished tree. Host keys are each node's own; a machine-id shared by two nodes would be a bug of theirs.
CUSTOMIZE = f"""
set -eu
root="$1"
rm -f "$root"/etc/ssh/ssh_host_* "$root"/etc/resolv.conf "$root"/etc/apt/sources.list
rm -f "$root"/etc/apt/sources.list.d/* "$root"/etc/apt/apt.conf.d/99mmdebstrap
: > "$root/etc/machine-id"
chroot "$root" useradd --uid {USER_ID} --create-home --shell /bin/bash {USER}
printf '{USER} ALL=(ALL) NOPASSWD:ALL\\n' > "$root/etc/sudoers.d/{USER}"
chmod 0440 "$root/etc/sudoers.d/{USER}"
printf 'PermitRootLogin no\\nPasswordAuthentication no\\nUseDNS no\\n' > "$root/etc/ssh/sshd_config.d/{USER}.conf"
mkdir -p "$root/etc/systemd/system.conf.d" "$root/etc/systemd/journald.conf.d"
printf '[Manager]\\nDefaultLimitNOFILE=1024:20000\\n' > "$root/etc/systemd/system.conf.d/{USER}.conf"
printf '[Journal]\\nSystemMaxUse=64M\\n' > "$root/etc/systemd/journald.conf.d/{USER}.conf"
printf 'LANG=C.UTF-8\\n' > "$root/etc/default/locale"
chroot "$root" systemctl --quiet mask {" ".join(MASKED)}
chroot "$root" systemctl --quiet enable systemd-networkd.service ssh.service
"""


def _options() -> tuple[str, ...]:
    dropped = (f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT)
    return (
        "--mode=root",
        "--format=directory",
        "--variant=minbase",
        f"--include={','.join(PACKAGES)}",
        *dropped,
        "--dpkgopt=force-unsafe-io",  # no fsync for each file: the disks of a lab may be lost
        f"--customize-hook={CUSTOMIZE}",
    )


def digest() -> str:
    """Names the image by its recipe: another recipe makes another image, and running nodes keep theirs."""
    recipe = (apt.CODENAME, *_options(), parcels.ansible_version())
    return hashlib.sha256("\0".join(recipe).encode()).hexdigest()[:16]


def folder(places: Places, name: str) -> Path:
    return places.cache / f"base-{name}"


def ensure(lab: Lab, places: Places, conf: str, report: Callable[[str], None]) -> str:
    """Build the image if it is not there; two labs that want it at once build it once. Returns its digest."""
    name = digest()
    target = folder(places, name)
    if target.is_dir():
        return name
    places.cache.mkdir(parents=True, exist_ok=True)
    with _lock(places, name, report):
        if not target.is_dir():
            report(f"lab: building the base image {target.name} (once; a minute or two)")
            _build(lab, places, conf, target)
    return name


@contextmanager
def _lock(places: Places, name: str, report: Callable[[str], None]) -> Iterator[None]:
    with places.cache.joinpath(f"base-{name}.lock").open("w") as lock:
        flock(lock.fileno(), lambda: report("lab: waiting for another lab that is building the base image"))
        yield


def _build(lab: Lab, places: Places, conf: str, target: Path) -> None:
    """Make the tree under another name and rename it: a folder with the final name is always whole."""
    partial, log = target.with_suffix(".part"), places.run / "base.log"
    _delete(partial)
    sources, settings = places.run / "lab.sources", places.run / "base.apt.conf"
    sources.write_text(apt.deb822(apt.read_machine()))
    settings.write_text(conf)
    cgroup = Cgroup.of(lab.site, "build")
    log.unlink(missing_ok=True)
    command: Sequence[str | Path] = ("mmdebstrap", *_options(), f"--aptopt={settings}", apt.CODENAME, partial, sources)
    try:
        enter = ("nsenter", f"--net={places.netns}", "unshare", "--mount", "--propagation", "private")
        process = spawn((*enter, *command), cgroup=cgroup, log=log)
        _, status = os.waitpid(process.pid, 0)
    finally:
        cgroup.kill()
    if status != 0:
        _delete(partial)
        raise LabError(
            f"mmdebstrap could not build the lab's base image (exit code {os.waitstatus_to_exitcode(status)})",
            detail=tail(log, 25),
            hint="If an archive cannot be reached, check `apt-get update` on this machine; then run `up` again.",
        )
    load_ansible(partial, places.cache)
    partial.rename(target)


def load_ansible(tree: Path, cache: Path) -> None:
    """Put ansible-core into an image's tree, compiled by its own Python: the first contact need not send it."""
    kept = tree / parcels.ON_HOST.relative_to("/")
    parcel = parcels.ansible_parcel(cache / "parcels")
    parcels.unpack(parcel, kept)
    inside = parcels.ON_HOST / parcel.name
    compiled = f"-Xpycache_prefix={parcels.ON_HOST / 'pyc' / parcel.name}"
    command: list[str | Path] = ["chroot", tree, "/usr/bin/python3", "-I", compiled, "-m", "compileall", "-qq", inside]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def forget_partial(places: Places) -> None:
    """Remove what a killed build left behind, unless somebody is building right now."""
    for partial in places.cache.glob("base-*.part"):
        with partial.with_suffix(".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            _delete(partial)


def _delete(tree: Path) -> None:
    if tree.exists():
        shutil.rmtree(tree)
