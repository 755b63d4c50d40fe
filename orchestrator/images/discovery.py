"""The discovery image: kernel, stage 1 (a small initramfs) and the root (a squashfs), made from `pxe/discovery`.

One recipe makes one image: its folder is named by the digest of everything that goes in but Debian's packages, whose
versions `manifest.json` lists. Two builds from the same packages give the same bytes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import lzma
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import HalliganError
from orchestrator.images import newc
from orchestrator.images.bootstrap import bootstrap, require
from orchestrator.images.kmodules import Modules, name_of, parse_wanted
from orchestrator.lab import apt
from orchestrator.lab.host import flock, run

__all__ = ["KERNELS", "Discovery", "File", "build", "digest", "forget_partial", "load"]

KERNELS: Mapping[str, str] = {"cloud": "linux-image-cloud-amd64", "generic": "linux-image-amd64"}
"""Kernel flavour -> Debian's package. "cloud" drives virtual machines only, "generic" real hardware too."""

# Raise it when this module makes something else of the same recipe: images of before are then not taken for new ones.
FORMAT = 1

SOURCE_DATE_EPOCH = 1_767_225_600  # 2026-01-01; the time of every file, and nothing else

TOOLS: Mapping[str, str] = {
    "mmdebstrap": "mmdebstrap",
    "mksquashfs": "squashfs-tools",
    "unshare": "util-linux",
    "dpkg-deb": "dpkg",
}

# Blocks of 256 KiB: the size of 1 MiB blocks to a few per cent, a quarter of the memory to read one file of them.
SQUASHFS = ("-comp", "zstd", "-Xcompression-level", "19", "-b", "256K", "-no-xattrs", "-no-exports", "-noappend")

# The kernel reads xz with CRC32 only, and keeps a whole dictionary in memory while it does.
XZ = ({"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 4 << 20},)

_NAMES = ("vmlinuz", "initrd.img", "root.squashfs")


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file of an image: its SHA-256 in hex and its size in bytes."""

    path: Path
    sha256: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """A whole discovery image; `digest` names its recipe."""

    folder: Path
    digest: str
    kernel_version: str
    kernel: File
    initrd: File
    root: File


def digest(*, kernel: str = "cloud", agent: Path, recipe: Path) -> str:
    """Name an image by what it is made of: the recipe's files, the agent, the kernel's flavour and our own choices."""
    if kernel not in KERNELS:
        raise HalliganError(f"there is no kernel flavour {kernel!r}", hint=f"Use one of: {', '.join(KERNELS)}.")
    if not agent.is_file():
        raise HalliganError(f"the discovery agent {agent} does not exist", hint="It is pxe/agent/halligan_agent.py.")
    said = hashlib.sha256(f"{FORMAT}\0{apt.CODENAME}\0{kernel}\0{_epoch()}\0{SQUASHFS}\0{XZ}\0".encode())
    files = [(path.relative_to(recipe).as_posix(), path) for path in _files(recipe)]
    for name, path in [*sorted(files), ("agent", agent)]:
        said.update(
            f"{name}\0{path.stat().st_mode & 0o111 != 0}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\0".encode()
        )
    return said.hexdigest()[:16]


def _files(recipe: Path) -> Iterator[Path]:
    found = [path for path in recipe.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    if not (recipe / "packages").is_file():
        raise HalliganError(
            f"{recipe} holds no recipe of a discovery image",
            detail=["it has no file named `packages`"],
            hint="The recipe is pxe/discovery of Halligan's source tree.",
        )
    return iter(found)


def build(cache: Path, report: Callable[[str], None], *, kernel: str = "cloud", agent: Path, recipe: Path) -> Discovery:
    """Return the image, made first if the cache has it not; of several that want it at once, one makes it.

    `cache` is the folder of all images (this one is `cache/discovery/<digest>`). It takes about two minutes, root, and
    this machine's own apt sources. Raises HalliganError with the end of the log if it cannot be made.
    """
    folder = cache.absolute() / "discovery" / digest(kernel=kernel, agent=agent, recipe=recipe)
    if not (folder / "manifest.json").is_file():
        require(TOOLS)
        folder.parent.mkdir(parents=True, exist_ok=True)
        forget_partial(cache)
        with _lock(folder, report):
            if not folder.is_dir():
                report(f"discovery image: building {folder.name} with the {kernel} kernel (once; about two minutes)")
                _build(folder, kernel, agent.absolute(), recipe.absolute())
    return load(folder)


def load(folder: Path) -> Discovery:
    """Read an image's manifest. Raises HalliganError if the folder is not a whole image."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        files = [File(path=folder / name, **manifest["files"][name]) for name in _NAMES]
        damaged = [file.path.name for file in files if file.path.stat().st_size != file.size]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HalliganError(
            f"{folder} is not a whole discovery image",
            detail=[f"{type(error).__name__}: {error}"],
            hint="Delete the folder; it is made again when it is wanted.",
        ) from error
    if damaged:
        raise HalliganError(
            f"the discovery image {folder} is damaged",
            detail=[f"{name} has another size than manifest.json says" for name in damaged],
            hint="Delete the folder; it is made again when it is wanted.",
        )
    return Discovery(
        folder=folder,
        digest=manifest["digest"],
        kernel_version=manifest["kernel_version"],
        kernel=files[0],
        initrd=files[1],
        root=files[2],
    )


@contextmanager
def _lock(folder: Path, report: Callable[[str], None]) -> Iterator[None]:
    with folder.with_suffix(".lock").open("w") as lock:
        flock(lock.fileno(), lambda: report("discovery image: waiting for somebody else who is building it"))
        yield


def forget_partial(cache: Path) -> None:
    """Remove what killed builds left behind, unless somebody is building right now."""
    for partial in (cache / "discovery").glob("*.part"):
        with partial.with_suffix(".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(partial)


def _epoch() -> int:
    """The time of every file; the environment may set it (reproducible-builds.org/specs/source-date-epoch)."""
    return int(os.environ.get("SOURCE_DATE_EPOCH") or SOURCE_DATE_EPOCH)


def _build(folder: Path, kernel: str, agent: Path, recipe: Path) -> None:
    """Make the image under another name and rename it: a folder with the final name is always whole."""
    partial = folder.with_suffix(".part")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir()
    work = Work(folder=partial, recipe=recipe, log=folder.with_suffix(".log"))
    try:
        work.bootstrap(KERNELS[kernel], agent)
        version = work.kernel()
        work.stage1(version)
        work.squash()
        work.finish(folder.name, kernel, version)
        if digest(kernel=kernel, agent=agent, recipe=recipe) != folder.name:
            raise HalliganError(
                "the recipe of the discovery image or the agent changed while the image was being built",
                hint="Run the same command again.",
            )
        partial.rename(folder)
    finally:
        if partial.exists():
            shutil.rmtree(partial)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A build under way: its folder holds the tree, unpacked packages, and what becomes the image."""

    folder: Path
    recipe: Path
    log: Path

    @property
    def tree(self) -> Path:
        return self.folder / "tree"

    @property
    def parts(self) -> Path:
        return self.folder / "parts"

    def lines(self, name: str) -> list[str]:
        """One list of the recipe, without comments and blank lines."""
        text = (self.recipe / name).read_text()
        return [line for line in (line.split("#", 1)[0].strip() for line in text.splitlines()) if line]

    def bootstrap(self, kernel_package: str, agent: Path) -> None:
        """Make the root's tree, and fetch the packages that are only unpacked."""
        self.parts.mkdir()
        bootstrap(
            self.tree,
            (
                f"--include={','.join(self.lines('packages'))}",
                *(f"--dpkgopt=path-exclude={pattern}" for pattern in self.lines("exclude")),
                f"--customize-hook={self.recipe / 'customize.sh'}",
            ),
            apt.read_machine(),
            environment={
                "HALLIGAN_KERNEL": kernel_package,
                "HALLIGAN_AGENT": str(agent),
                "HALLIGAN_PARTS": str(self.parts),
            },
            log=self.log,
            what="the discovery image",
        )
        for pattern in self.lines("remove"):
            for path in sorted(self.tree.glob(pattern)):
                _remove(path)
        for package in sorted(self.parts.glob("*.deb")):
            run("dpkg-deb", "--extract", package, self.parts / package.name.partition("_")[0], timeout_s=300)

    def kernel(self) -> str:
        """Take the kernel, and of its modules those of the list, into the tree. Returns its version."""
        (image,) = self.parts.glob("linux-image-*/boot/vmlinuz-*")
        version = image.name.removeprefix("vmlinuz-")
        image.rename(self.folder / "vmlinuz")
        modules = self.tree / "usr/lib/modules" / version
        modules.parent.mkdir(parents=True, exist_ok=True)
        (found,) = self.parts.glob("linux-image-*/lib/modules/*")
        found.rename(modules)
        run("chroot", self.tree, "depmod", version)
        keep = set(_modules(modules).below(self.lines("modules.keep")))
        for path in modules.rglob("*.ko"):
            if path.relative_to(modules).as_posix() not in keep:
                path.unlink()
        run("chroot", self.tree, "depmod", version)
        return version

    def stage1(self, version: str) -> None:
        """Write the initramfs: busybox, the scripts of `stage1/`, and the drivers that reach the network."""
        below = self.tree / "usr/lib/modules" / version
        modules = _modules(below)
        wanted, required = parse_wanted((self.recipe / "stage1/modules").read_text())
        if absent := modules.missing(required):
            raise HalliganError(
                f"the kernel {version} lacks what stage 1 needs: {', '.join(absent)}",
                hint="stage1/modules of the recipe marks them `required`; modules.keep must not leave them out.",
            )
        paths = modules.named(wanted)
        ours = {name_of(path).encode() for path in paths}
        aliases = [line for line in (below / "modules.alias").read_bytes().splitlines() if line.split()[-1] in ours]
        place = f"lib/modules/{version}"
        dep = "".join(f"{path}: {' '.join(modules.needs[path])}\n" for path in paths)
        entries = [
            newc.device("dev/console", 5, 1),
            newc.file("init", (self.recipe / "stage1/init").read_bytes(), 0o755),
            newc.file("etc/udhcpc.sh", (self.recipe / "stage1/udhcpc.sh").read_bytes(), 0o755),
            newc.file("bin/busybox", (self.parts / "busybox-static/bin/busybox").read_bytes(), 0o755),
            newc.file(f"{place}/modules.dep", dep.encode()),
            newc.file(f"{place}/modules.alias", b"\n".join([*aliases, b""])),
            *(newc.file(f"{place}/{path}", (below / path).read_bytes()) for path in paths),
        ]
        data = newc.archive(entries, mtime=_epoch())
        packed = lzma.compress(data, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC32, filters=list(XZ))
        # The site's archive is put behind this one, and the kernel looks for it at a multiple of four.
        (self.folder / "initrd.img").write_bytes(packed + b"\0" * (-len(packed) % 4))

    def squash(self) -> None:
        times = ("-mkfs-time", str(_epoch()), "-all-time", str(_epoch()))
        squash = ("mksquashfs", self.tree, self.folder / "root.squashfs", *SQUASHFS, *times, "-no-progress")
        run("setpriv", "--pdeathsig", "KILL", *squash, timeout_s=3600)

    def finish(self, name: str, kernel: str, version: str) -> None:
        """Write the manifest and remove what is not part of the image."""
        query = ("chroot", self.tree, "dpkg-query", "--show", "--showformat=${Package} ${Version}\n")
        installed = dict(line.split(" ", 1) for line in run(*query).stdout.splitlines())
        names = (package.name.split("_") for package in self.parts.glob("*.deb"))
        unpacked = {package: number.replace("%3a", ":") for package, number, _ in names}
        manifest = {
            "digest": name,
            "files": {each: _measured(self.folder / each) for each in _NAMES},
            "format": FORMAT,
            "kernel": kernel,
            "kernel_version": version,
            "packages": dict(sorted({**installed, **unpacked}.items())),
            "source_date_epoch": _epoch(),
        }
        for path in (self.tree, self.parts):
            shutil.rmtree(path)
        self.tree.with_suffix(".sources").unlink()
        (self.folder / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _modules(folder: Path) -> Modules:
    return Modules.parse((folder / "modules.dep").read_text(), (folder / "modules.builtin").read_text())


def _measured(path: Path) -> Mapping[str, str | int]:
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "size": path.stat().st_size}
