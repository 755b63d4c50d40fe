"""The archive of an initramfs, cpio "newc" (Linux: Documentation/driver-api/early-userspace/buffer-format.rst).

Archives are a function of their entries: sorted by path, owned by root, inode numbers counted from 1, one time for all.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Entry", "archive", "device", "file", "folder", "symlink"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file of an archive; `mode` has the type in it (stat(2)), `data` is the content or where a symlink points."""

    path: str  # without a leading slash
    mode: int
    data: bytes = b""
    major: int = 0
    minor: int = 0


def file(path: str, data: bytes, mode: int = 0o644) -> Entry:
    return Entry(path=path, mode=stat.S_IFREG | mode, data=data)


def folder(path: str, mode: int = 0o755) -> Entry:
    return Entry(path=path, mode=stat.S_IFDIR | mode)


def symlink(path: str, target: str) -> Entry:
    return Entry(path=path, mode=stat.S_IFLNK | 0o777, data=target.encode())


def device(path: str, major: int, minor: int, mode: int = 0o600) -> Entry:
    """A character device."""
    return Entry(path=path, mode=stat.S_IFCHR | mode, major=major, minor=minor)


def archive(entries: Iterable[Entry], *, mtime: int) -> bytes:
    """Write an archive; the folders that its entries are in are added where they are missing."""
    found = {entry.path: entry for entry in entries}
    for path in list(found):
        for parent in _parents(path):
            found.setdefault(parent, folder(parent))
    records = [_record(found[path], number, mtime) for number, path in enumerate(sorted(found), start=1)]
    return b"".join([*records, _record(Entry(path="TRAILER!!!", mode=0), 0, 0)])


def _parents(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]


def _record(entry: Entry, number: int, mtime: int) -> bytes:
    name = entry.path.encode() + b"\0"
    # ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
    fields = (number, entry.mode, 0, 0, 1, mtime, len(entry.data), 0, 0, entry.major, entry.minor, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % value for value in fields)
    return _padded(header + name) + _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
