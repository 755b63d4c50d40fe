"""The sectors that GRUB's boot images get, and the names by which a disk's parts find each other."""

from __future__ import annotations

import struct

import pytest

from orchestrator.errors import HalliganError
from orchestrator.images.disk import bootable, identifiers

BOOT = b"\xeb\x63\x90" + b"\x11" * 509


def core(sectors: int, *, segment: int = 0x820, count: int | None = None) -> bytes:
    """Return a core image as grub-mkimage leaves it: the list at the end of its first sector counts the others."""
    first = b"\x22" * 500 + struct.pack("<QHH", 1, sectors - 1 if count is None else count, segment)
    return first + b"\x33" * 512 * (sectors - 1)


def test_each_stage_is_told_where_the_next_one_is() -> None:
    boot, image = bootable(BOOT, core(60), 2048)
    assert struct.unpack_from("<Q", boot, 0x5C) == (2048,)
    assert struct.unpack_from("<QHH", image, 500) == (2049, 59, 0x820)


def test_nothing_else_changes() -> None:
    boot, image = bootable(BOOT, core(3), 2048)
    assert boot[:0x5C] + boot[0x64:0x66] + boot[0x68:] == BOOT[:0x5C] + BOOT[0x64:0x66] + BOOT[0x68:]
    assert boot[0x66:0x68] == b"\x90\x90"
    assert image[:500] + image[512:] == core(3)[:500] + core(3)[512:]


def test_a_core_image_is_filled_up_to_whole_sectors() -> None:
    cut = core(3)[:-100]
    _, image = bootable(BOOT, cut, 2048)
    assert image == bootable(BOOT, cut + bytes(100), 2048)[1]


@pytest.mark.parametrize("image", [core(3, segment=0x800), core(3, count=1), core(3) + b"\x33" * 512])
def test_an_image_that_is_laid_out_otherwise_is_refused(image: bytes) -> None:
    with pytest.raises(HalliganError, match=r"GRUB 2\.06"):
        bootable(BOOT, image, 2048)
    with pytest.raises(HalliganError, match=r"GRUB 2\.06"):
        bootable(BOOT[:-1], core(3), 2048)


def test_one_recipe_has_one_set_of_names_and_another_has_others() -> None:
    assert identifiers("a") == identifiers("a")
    one, other = identifiers("a"), identifiers("b")
    assert len({one.root, one.disk, one.esp, other.root, other.disk, other.esp}) == 6
    assert len(one.esp) == 9
    assert one.esp[4] == "-"
