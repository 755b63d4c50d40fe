"""Operating system images: the list, and one in full."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from orchestrator.cli.views.words import Look, count, plain, table

if TYPE_CHECKING:
    from orchestrator.images.library import Image

__all__ = ["image_text", "images_text", "size_text"]


def size_text(size: int) -> str:
    """Return bytes as "127 MB", "1.4 GB": decimal, as vendors of disks count."""
    if size < 10**9:
        return f"{size / 10**6:.0f} MB"
    return f"{size / 10**9:.1f} GB"


def images_text(images: Iterable[Image], current: Iterable[str], look: Look) -> str:
    """Return a table; `current` are the ids that names mean now, and others are marked as older."""
    now = set(current)
    rows = [
        (
            image.name,
            image.sha256[:12],
            image.os,
            "+".join(image.firmware),
            image.seed,
            size_text(image.size),
            size_text(image.file_size),
            image.created[:16].replace("T", " "),
            "" if image.id in now else "older",
        )
        for image in images
    ]
    if not rows:
        return (
            "There are no images. `halligan image build debian-12` makes one, `halligan image import` takes one in.\n"
        )
    head = ("name", "sha256", "os", "firmware", "seed", "disk", "file", "created (UTC)", "")
    return "\n".join([*table(head, rows, look, numbers=(5, 6)), ""])


def image_text(image: Image, path: str, look: Look, *, packages: bool) -> str:
    facts = {
        "system": f"{image.os}, root file system {image.root}",
        "starts with": " and ".join(image.firmware),
        "seed": image.seed,
        "disk": f"{image.size:,} bytes, SHA-256 {image.sha256}",
        "file": f"{path}, {image.file_size:,} bytes, SHA-256 {image.file_sha256}",
        "source": plain(image.source),
        "recipe": image.recipe,
        "created": image.created,
        "packages": count(len(image.packages), "package") if image.packages else "",
    }
    lines = [look.head(image.id), *(f"  {key:<12} {value}" for key, value in facts.items() if value)]
    if packages:
        lines += ["", *(f"  {name} {version}" for name, version in sorted(image.packages.items()))]
    return "\n".join([*lines, ""])
