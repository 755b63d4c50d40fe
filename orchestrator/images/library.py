"""The image library: a folder of operating systems, compressed, each with a manifest, and which one a name means now.

    <name>-<sha12>.raw.zst   the disk, compressed; served as /files/images/<file>
    <name>-<sha12>.json      its manifest
    <name>.json              {"current": "<name>-<sha12>"}

sha12 are the first digits of the SHA-256 of the raw disk. A file with a final name is whole: everything is written
under another name, synced and renamed, the disk first, the pointer last. Installing machines may still read an image
that is not current any more, so that adding one removes none.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import BinaryIO

from orchestrator.errors import HalliganError, closest

__all__ = ["LEVEL", "Image", "Library", "default_folder"]

LEVEL = 9
"""zstd's level. Measured on a Debian of 690 MB (docs/images.md): beyond it minutes buy a few per cent."""

FORMAT = 1

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_LIKE_AN_IMAGE = re.compile(r".*-[0-9a-f]{12}")
_PIECE = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One operating system as a disk.

    `sha256` and `size` (bytes) are those of the raw disk, `file_sha256` and `file_size` those of the compressed `file`.
    `firmware` lists the modes in which it starts ("bios", "uefi"), `os` is "linux" or "windows", `seed` is how its
    first start is told who it is ("nocloud" or "configdrive"), `root` the kind of its root file system. `source` says
    where it comes from, `recipe` is the digest of what built it (empty: imported), `created` is UTC, ISO 8601,
    `packages` are the versions of what a build put in.
    """

    name: str
    sha256: str
    size: int
    file: str
    file_sha256: str
    file_size: int
    firmware: tuple[str, ...]
    os: str
    seed: str
    root: str
    source: str
    created: str
    recipe: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"{self.name}-{self.sha256[:12]}"


def default_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the library that everything uses unless it is told another one."""
    return Path(environ.get("HALLIGAN_IMAGES_DIR") or "/var/lib/halligan/images").absolute()


@dataclass(frozen=True, slots=True)
class Library:
    """The images of one folder, which need not exist yet."""

    folder: Path = field(default_factory=default_folder)

    # --- looking --------------------------------------------------------------------------------------------------

    def images(self) -> tuple[Image, ...]:
        """Return all images, by name and then the oldest first."""
        found = (_read(path) for path in self.folder.glob("*.json") if _LIKE_AN_IMAGE.fullmatch(path.stem))
        return tuple(sorted(found, key=lambda image: (image.name, image.created, image.sha256)))

    def names(self) -> tuple[str, ...]:
        """Return the names that have a current image."""
        return tuple(
            sorted(path.stem for path in self.folder.glob("*.json") if not _LIKE_AN_IMAGE.fullmatch(path.stem))
        )

    def current(self, name: str) -> Image:
        """Return the image that a name means now. Raises HalliganError when there is none or it is damaged."""
        if name not in self.names():
            raise self._no_image(name)
        image = _read(self.folder / f"{self.current_id(name)}.json")
        self._check_file(image)
        return image

    def current_id(self, name: str) -> str:
        """Return the id of the image that a name means now; its manifest may be missing."""
        pointer = self.folder / f"{name}.json"
        try:
            return str(json.loads(pointer.read_text())["current"])
        except (OSError, ValueError, KeyError, TypeError):
            raise HalliganError(
                f"{pointer} is damaged: it does not say which image {name} means",
                hint="Build or import the image again; that writes it anew.",
            ) from None

    def find(self, name: str) -> Image:
        """Return an image by a name, or by the full id of one version, whether its disk is there or not."""
        for image in self.images():
            if name in (image.id, f"{image.name}@{image.sha256[:12]}"):
                return image
        if name not in self.names():
            raise self._no_image(name)
        return _read(self.folder / f"{self.current_id(name)}.json")

    def path(self, image: Image) -> Path:
        """Return where an image's compressed disk is."""
        return self.folder / image.file

    def verify(self, image: Image) -> None:
        """Read the whole disk and compare. Raises HalliganError when it is not the one that was added."""
        self._check_file(image)
        digest, size = hashlib.sha256(), 0
        with _zstd("-dcq", str(self.path(image)), stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            while piece := process.stdout.read(_PIECE):
                digest.update(piece)
                size += len(piece)
            complaint = process.stderr.read().decode(errors="replace").strip() if process.stderr else ""
        if process.returncode != 0 or (size, digest.hexdigest()) != (image.size, image.sha256):
            raise HalliganError(
                f"the image {image.id} is damaged",
                detail=[
                    f"expected {image.size} bytes, SHA-256 {image.sha256}",
                    f"found    {size} bytes, SHA-256 {digest.hexdigest()}",
                    *complaint.splitlines()[-2:],
                ],
                hint=f"Remove it (`halligan image remove {image.name}`), then build or import it again.",
            )

    def _check_file(self, image: Image) -> None:
        path = self.path(image)
        size = path.stat().st_size if path.is_file() else -1
        if size != image.file_size:
            what = "is missing" if size < 0 else f"has {size} bytes, not {image.file_size}"
            raise HalliganError(
                f"the image {image.id} is not whole: {path} {what}",
                hint=f"Remove it (`halligan image remove {image.name}`), then build or import it again.",
            )

    def _no_image(self, name: str) -> HalliganError:
        names = self.names()
        return HalliganError(
            f'there is no image "{name}" in {self.folder}.{closest(name, names)}',
            detail=[f"images here: {', '.join(names)}"] if names else [],
            hint=f"`halligan image import FILE --name {name}` takes a disk image in;"
            " `halligan image build debian-12` makes Debian 12",
        )

    # --- changing -------------------------------------------------------------------------------------------------

    def add(
        self,
        raw: Path,
        *,
        name: str,
        firmware: tuple[str, ...],
        os: str,
        seed: str,
        root: str,
        source: str,
        recipe: str = "",
        packages: Mapping[str, str] | None = None,
        progress: Callable[[int], None] = lambda _percent: None,
    ) -> Image:
        """Compress a raw disk into the library and let its name mean it from now on.

        The same disk added twice is one image. Raises HalliganError: a bad name, no space, no zstd.
        """
        check_name(name)
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".adding-", dir=self.folder) as folder:
            packed = Path(folder) / "disk"
            sha256, size = _pack(raw, packed, progress)
            with packed.open("rb") as file:
                file_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            image = Image(
                name=name,
                sha256=sha256,
                size=size,
                file=f"{name}-{sha256[:12]}.raw.zst",
                file_sha256=file_sha256,
                file_size=packed.stat().st_size,
                firmware=firmware,
                os=os,
                seed=seed,
                root=root,
                source=source,
                created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                recipe=recipe,
                packages=dict(packages or {}),
            )
            packed.chmod(0o644)
            packed.rename(self.path(image))
        self._write(f"{image.id}.json", {"format": FORMAT, **asdict(image)})
        self._write(f"{name}.json", {"current": image.id})
        return image

    def remove(self, name: str) -> tuple[Image, ...]:
        """Remove a name with all its images, or by its full id one that is not current. Returns what was removed."""
        images = self.images()
        if one := [image for image in images if image.id == name]:
            if one[0].name in self.names() and self.current_id(one[0].name) == name:
                raise HalliganError(
                    f"{name} is what {one[0].name} means now, and cannot be removed alone",
                    hint=f"`halligan image remove {one[0].name}` removes all of them",
                )
            return self._delete(one)
        pointer = self.folder / f"{name}.json"
        if name not in self.names():
            raise self._no_image(name)
        pointer.unlink()  # first, so that nobody chooses what is about to go
        return self._delete([image for image in images if image.name == name])

    def _delete(self, images: list[Image]) -> tuple[Image, ...]:
        for image in images:
            (self.folder / f"{image.id}.json").unlink(missing_ok=True)
            self.path(image).unlink(missing_ok=True)
        return tuple(images)

    def _write(self, name: str, value: Mapping[str, object]) -> None:
        """Write a file whole, so that neither a reader nor a power cut sees half of it."""
        partial = self.folder / f".{name}.{os.getpid()}.part"
        with partial.open("w") as file:
            file.write(json.dumps(value, indent=2, sort_keys=True) + "\n")
            file.flush()
            os.fsync(file.fileno())
        partial.rename(self.folder / name)


def check_name(name: str) -> None:
    """Raise HalliganError unless an image may be called so."""
    if not _NAME.fullmatch(name):
        raise HalliganError(
            f"an image cannot be called {name!r}",
            hint="Lower-case letters, digits, dots and dashes, such as ubuntu-24.04.",
        )
    if _LIKE_AN_IMAGE.fullmatch(name):
        raise HalliganError(
            f"an image cannot be called {name!r}: names with such an end mean one version of an image",
            hint="Leave the end out.",
        )


def _read(path: Path) -> Image:
    try:
        said = json.loads(path.read_text())
        known = {item.name: said[item.name] for item in fields(Image) if item.name in said}
        return Image(**{**known, "firmware": tuple(said["firmware"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HalliganError(
            f"the manifest {path} cannot be read",
            detail=[f"{type(error).__name__}: {error}"],
            hint="Build or import the image again, or delete the file.",
        ) from None


def _pack(raw: Path, packed: Path, progress: Callable[[int], None]) -> tuple[str, int]:
    """Compress a disk, reading it once. Returns SHA-256 and size of what was read."""
    digest, size, total, told = hashlib.sha256(), 0, max(raw.stat().st_size, 1), -1
    with raw.open("rb") as source, packed.open("wb") as target:
        options = ("-q", "-T0", f"-{LEVEL}", "--check", f"--stream-size={total}", "-c")
        with _zstd(*options, stdin=subprocess.PIPE, stdout=target) as process:
            assert process.stdin is not None
            try:
                while piece := source.read(_PIECE):
                    digest.update(piece)
                    process.stdin.write(piece)
                    size += len(piece)
                    if (percent := size * 100 // total // 10 * 10) > told:
                        told = percent
                        progress(percent)
                process.stdin.close()
            except BrokenPipeError:
                pass  # it has said why
            complaint = process.stderr.read().decode(errors="replace").strip() if process.stderr else ""
        if process.returncode != 0:
            raise HalliganError(
                f"zstd could not compress {raw.name}", detail=complaint.splitlines()[-3:], hint="Is the disk full?"
            )
        os.fsync(target.fileno())
    return digest.hexdigest(), size


@contextmanager
def _zstd(
    *options: str, stdin: int = subprocess.DEVNULL, stdout: int | BinaryIO = subprocess.PIPE
) -> Iterator[subprocess.Popen[bytes]]:
    try:
        # Unbuffered: closing a buffer whose reader is gone would fail a second time.
        process = subprocess.Popen(["zstd", *options], stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, bufsize=0)
    except FileNotFoundError:
        raise HalliganError("the program zstd is not installed", hint="apt install zstd") from None
    try:
        with process:
            yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
