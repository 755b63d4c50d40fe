"""Debian 12 as an image: the recipe `pxe/debian-12`, for virtual machines and, with the generic kernel, for hardware.

The image holds no identity (no host keys, an empty machine-id) and no password: cloud-init gives it both from a seed
(NoCloud or ConfigDrive v2) that is in the root file system before the first boot. It is kept lean because its first
boot is what an installation waits for last.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator import parcels
from orchestrator.errors import HalliganError
from orchestrator.images import disk
from orchestrator.images.bootstrap import bootstrap, require
from orchestrator.images.library import Image, Library, check_name
from orchestrator.lab import apt
from orchestrator.lab.base import load_ansible
from orchestrator.lab.host import flock, run

__all__ = ["KERNELS", "NAME", "build", "digest"]

NAME = "debian-12"

KERNELS: Mapping[str, str] = {"cloud": "linux-image-cloud-amd64", "generic": "linux-image-amd64"}
"""Kernel flavour -> Debian's package. "cloud" drives virtual machines only, "generic" real hardware too."""

COMMAND_LINE = "console=tty0 console=ttyS0,115200n8 loglevel=4"  # as in root/etc/default/grub.d/halligan.cfg

# Raise it when this package makes something else of the same recipe: images of before are then not taken for new ones.
FORMAT = 1


def digest(*, kernel: str, recipe: Path) -> str:
    """Name an image by what it is made of: the recipe's files, the kernel's flavour, Ansible and our own choices."""
    said = hashlib.sha256(f"{FORMAT}\0{apt.CODENAME}\0{kernel}\0{parcels.ansible_version()}\0".encode())
    for path in sorted(path for path in recipe.rglob("*") if path.is_file()):
        inside = path.relative_to(recipe).as_posix()
        said.update(f"{inside}\0{os.access(path, os.X_OK)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\0".encode())
    return said.hexdigest()[:16]


def build(
    library: Library,
    cache: Path,
    report: Callable[[str], None],
    *,
    recipe: Path,
    name: str = NAME,
    kernel: str = "cloud",
    again: bool = False,
) -> Image:
    """Return the image that the library has of this recipe under this name, made first if there is none.

    `recipe` is pxe/debian-12 of Halligan's tree, `cache` a folder for what can be made again (Ansible's parcel, the
    build itself); `again` builds in any case, for newer packages. It takes a minute or two, root, and this machine's
    own apt sources, which the image gets as well. Raises HalliganError, with the end of the log if Debian is the cause.
    """
    if kernel not in KERNELS:
        raise HalliganError(f"there is no kernel flavour {kernel!r}", hint=f"Use one of: {', '.join(KERNELS)}.")
    if not (recipe / "packages").is_file():
        raise HalliganError(f"{recipe} holds no recipe of an image", hint="It is pxe/debian-12 of Halligan's tree.")
    check_name(name)
    made_by = digest(kernel=kernel, recipe=recipe)
    found = None if again else _found(library, name, made_by)
    if found is None:
        require({"mmdebstrap": "mmdebstrap", "unshare": "util-linux", "zstd": "zstd", **disk.TOOLS})
        with _lock(cache, report):
            found = None if again else _found(library, name, made_by)  # somebody else's, while we waited
            if found is None:
                report(f"{name}: building with the {kernel} kernel (a minute or two)")
                found = _build(
                    Work(recipe=recipe.absolute(), kernel=kernel, digest=made_by), library, cache, report, name
                )
    return found


def _found(library: Library, name: str, made_by: str) -> Image | None:
    """Return the current image if this recipe made it, and its disk is there."""
    if name not in library.names():
        return None
    try:
        current = library.current(name)
    except HalliganError:
        return None  # damaged: it is replaced
    return current if current.recipe == made_by else None


@contextmanager
def _lock(cache: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Let one build run at a time, and remove what killed ones left behind."""
    folder = cache.absolute() / "building"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        flock(lock.fileno(), lambda: report("waiting for somebody else who is building an image"))
        for left in folder.glob("image-*"):
            shutil.rmtree(left)
        yield
        fcntl.flock(lock, fcntl.LOCK_UN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A build under way: what it is made by."""

    recipe: Path
    kernel: str
    digest: str

    def lines(self, name: str) -> list[str]:
        """One list of the recipe, without comments and blank lines."""
        text = (self.recipe / name).read_text()
        return [line for line in (line.split("#", 1)[0].strip() for line in text.splitlines()) if line]


def _build(work: Work, library: Library, cache: Path, report: Callable[[str], None], name: str) -> Image:
    folder = Path(tempfile.mkdtemp(prefix="image-", dir=cache.absolute() / "building"))
    try:
        tree, raw = folder / "tree", folder / "disk.raw"
        sources = apt.read_machine()
        bootstrap(
            tree,
            (
                f"--include={','.join([*work.lines('packages'), KERNELS[work.kernel]])}",
                *(f"--dpkgopt=path-exclude={pattern}" for pattern in work.lines("exclude")),
                f"--customize-hook={work.recipe / 'customize.sh'}",
            ),
            sources,
            environment={"HALLIGAN_FLAVOUR": work.kernel},
            log=cache.absolute() / "building" / f"{name}.log",
            what=f"the image {name}",
        )
        load_ansible(tree, cache.absolute())
        names = disk.identifiers(work.digest)
        disk.prepare(tree, names, COMMAND_LINE)
        packages = _packages(tree)
        report(f"{name}: writing and compressing the disk")
        disk.assemble(tree, raw, names)
        return library.add(
            raw,
            name=name,
            firmware=("bios", "uefi"),
            os="linux",
            seed="nocloud",
            root="ext4",
            source=f"built from Debian {apt.CODENAME} with the {work.kernel} kernel",
            recipe=work.digest,
            packages=packages,
        )
    finally:
        shutil.rmtree(folder)


def _packages(tree: Path) -> dict[str, str]:
    told = run("chroot", tree, "dpkg-query", "--show", "--showformat=${Package} ${Version}\n").stdout
    return dict(line.split(" ", 1) for line in told.splitlines())
