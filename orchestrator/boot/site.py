"""The archive that tells the discovery image where it is: one per boot, made when it is asked for.

It is the only boot answer that holds a secret (the enrolment token, good once), so its files are for root only, and
nothing of it goes into a script or onto a kernel command line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from orchestrator.errors import HalliganError

FOLDER = "/etc/halligan"
MODES = ("discover", "rescue")

_BLOCK = 512
_REGULAR, _DIRECTORY = 0o100600, 0o040755
_NAME = re.compile(r"/?[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """A file of the boot service: its path in the service's URLs, SHA-256 in hex, size in bytes."""

    path: str
    sha256: str
    size: int


def site_files(
    *,
    server: str,
    files: str,
    root: Artefact,
    token: str,
    ca: str,
    mode: str = "discover",
    authorized_keys: Sequence[str] = (),
) -> dict[str, bytes]:
    """Return what stage 1 and the agent read, by path.

    `server` is the agent's API ("https://10.77.0.1:8443"), `files` where images come from ("http://10.77.0.1:8090"),
    `token` the one-time enrolment token, `ca` the site's authority in PEM. `authorized_keys` open the shell of a
    rescue and are left out otherwise. site.env says to the shell of stage 1 what site.json says to the agent, without
    the token: FILES, ROOT_PATH, ROOT_SHA256, ROOT_SIZE, MODE.
    """
    _check(server, files, root, token, ca, mode)
    document = {
        "server": server,
        "files": files,
        "root": {"path": root.path, "sha256": root.sha256, "size": root.size},
        "token": token,
        "mode": mode,
    }
    if mode == "rescue":
        document["authorized_keys"] = list(authorized_keys)
    environment = {
        "FILES": files,
        "ROOT_PATH": root.path,
        "ROOT_SHA256": root.sha256,
        "ROOT_SIZE": str(root.size),
        "MODE": mode,
    }
    return {
        f"{FOLDER}/site.json": (json.dumps(document, indent=1, sort_keys=True) + "\n").encode(),
        f"{FOLDER}/site.env": "".join(f"{key}={_quoted(value)}\n" for key, value in environment.items()).encode(),
        f"{FOLDER}/ca.pem": ca.encode(),
    }


def _check(server: str, files: str, root: Artefact, token: str, ca: str, mode: str) -> None:
    wrong = ""
    if urlsplit(server).scheme != "https":
        wrong = f"the agent's server is {server!r}: it must be an https URL"
    elif urlsplit(files).scheme not in ("http", "https"):
        wrong = f"the address of the files is {files!r}: it must be an http URL"
    elif not _SHA256.fullmatch(root.sha256) or root.size <= 0 or not root.path.startswith("/"):
        wrong = f"the discovery image's root is {root}: path, SHA-256 or size is missing"
    elif not token or not token.isascii() or not token.isprintable():
        wrong = "the enrolment token is empty or not plain text"
    elif "-----BEGIN CERTIFICATE-----" not in ca:
        wrong = "the site's authority is not a certificate in PEM"
    elif mode not in MODES:
        wrong = f"the mode is {mode!r}: it must be {' or '.join(MODES)}"
    if wrong:
        raise HalliganError(f"no boot archive can be made: {wrong}")


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "'\\''") + "'"


# --- the archive --------------------------------------------------------------------------------------------------


def site_cpio(files: Mapping[str, bytes]) -> bytes:
    """Return a newc archive of `files` (by path) with their folders, which a kernel unpacks before its other archives.

    Format: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst. Same files, same bytes: no clock,
    no owner but root, files 0600, folders 0755 (/etc is the image's own folder as well). The length is a multiple of
    512, so whatever archive follows is aligned.

    Raises:
        HalliganError: a path leads elsewhere, or names a folder that another path needs.
    """
    names = {_inside(path): content for path, content in files.items()}
    if len(names) != len(files):
        raise HalliganError("two files of a boot archive have the same path")
    folders = sorted(
        {"/".join(parts[:n]) for name in names if (parts := name.split("/")) for n in range(1, len(parts))}
    )
    both = sorted(set(folders) & set(names))
    if both:
        raise HalliganError(f"/{both[0]} is a file and a folder of the same boot archive")
    return b"".join(_archive(folders, names))


def _inside(path: str) -> str:
    parts = path.split("/")
    if not _NAME.fullmatch(path) or "." in parts or ".." in parts:
        raise HalliganError(
            f"a boot archive cannot hold {path!r}", hint="letters, digits and ._- between single slashes, no . or .."
        )
    return path.removeprefix("/")


def _archive(folders: Sequence[str], names: Mapping[str, bytes]) -> Iterator[bytes]:
    size = 0
    entries = [(name, _DIRECTORY, b"") for name in folders]
    entries += [(name, _REGULAR, names[name]) for name in sorted(names)]
    for inode, (name, mode, content) in enumerate(entries, start=1):
        entry = _entry(name, inode=inode, mode=mode, content=content)
        size += len(entry)
        yield entry
    trailer = _entry("TRAILER!!!", inode=0, mode=0, content=b"")
    yield trailer
    yield bytes(-(size + len(trailer)) % _BLOCK)


def _entry(name: str, *, inode: int, mode: int, content: bytes) -> bytes:
    path = name.encode("ascii") + b"\0"
    links = 2 if mode & _DIRECTORY == _DIRECTORY else 1
    # inode, mode, uid, gid, links, mtime, size, device and special device (major, minor each), name's length, checksum
    numbers = (inode, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(path), 0)
    header = b"070701" + b"".join(b"%08X" % number for number in numbers)
    return _padded(header + path) + _padded(content)


def _padded(part: bytes) -> bytes:
    return part + bytes(-len(part) % 4)
