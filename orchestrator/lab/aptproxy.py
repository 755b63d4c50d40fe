"""A caching forward proxy for apt, small enough to read: the only way out of a lab.

It answers GET and HEAD for archives on its allow-list and refuses everything else. Packages and by-hash files never
change, so they are served from disk once fetched; index files are asked for again with If-Modified-Since, and served
from disk when the archive says "not modified" or cannot be reached. It runs outside the lab's network namespace and is
handed a socket that listens inside it, so it needs no privilege of its own. Standard library only: it is started as a
plain file, not as part of the package.
"""

from __future__ import annotations

import email.utils
import functools
import json
import os
import posixpath
import shutil
import socket
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO

TIMEOUT_S = 60
REUSE_ADDRESS = (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


class RefusedError(Exception):
    """A request outside the allow-list."""


class UpstreamError(Exception):
    """An archive that cannot be reached, or does not send what it announced."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where one requested URL is fetched, where it is kept, and whether it can ever change."""

    url: str
    path: Path
    is_immutable: bool


def target(requested: str, upstreams: Mapping[str, str], cache: Path) -> Target:
    """Map a requested URL to its archive and cache file, or refuse it.

    The path is normalised before the comparison, so that `..` (plain or escaped) leaves neither archive nor cache.
    """
    parts = urllib.parse.urlsplit(requested)
    path = urllib.parse.unquote(parts.path)
    if parts.scheme != "http" or parts.query or "\0" in path or posixpath.normpath(path) != path:
        raise RefusedError(requested)
    for inside, outside in upstreams.items():
        host, _, root = inside.removeprefix("http://").partition("/")
        prefix = f"/{root}".rstrip("/") + "/"
        if parts.netloc == host and path.startswith(prefix):
            rest = path.removeprefix(prefix)
            immutable = rest.endswith((".deb", ".udeb")) or "/by-hash/" in rest
            url = f"{outside}/{urllib.parse.quote(rest, safe='/~+:@')}"
            return Target(url, cache / host.replace(":", "_") / path.lstrip("/"), immutable)
    raise RefusedError(requested)


@dataclass
class Locks:
    """One lock per file, so that two containers that ask for the same package fetch it once."""

    _guard: threading.Lock = field(default_factory=threading.Lock)
    _waiting: dict[Path, tuple[threading.Lock, int]] = field(default_factory=dict)

    @contextmanager
    def hold(self, path: Path) -> Iterator[None]:
        with self._guard:
            lock, users = self._waiting.get(path, (threading.Lock(), 0))
            self._waiting[path] = (lock, users + 1)
        try:
            with lock:
                yield
        finally:
            with self._guard:
                lock, users = self._waiting.pop(path)
                if users > 1:
                    self._waiting[path] = (lock, users - 1)


Opener = Callable[[urllib.request.Request], BinaryIO]


class Archive:
    """The cache on disk in front of the archives."""

    def __init__(self, upstreams: Mapping[str, str], cache: Path, open_url: Opener) -> None:
        self._upstreams, self._cache, self._open, self._locks = upstreams, cache, open_url, Locks()

    def fetch(self, requested: str) -> Path:
        """The file for a URL, from disk when it is certain to be right."""
        wanted = target(requested, self._upstreams, self._cache)
        with self._locks.hold(wanted.path):
            if not (wanted.is_immutable and wanted.path.exists()):
                self._refresh(wanted)
        return wanted.path

    def _refresh(self, wanted: Target) -> None:
        headers = {"User-Agent": "halligan-lab"}
        request = urllib.request.Request(wanted.url, headers=headers)  # noqa: S310  # from the allow-list
        if wanted.path.exists():
            stamp = email.utils.formatdate(wanted.path.stat().st_mtime, usegmt=True)
            request.add_header("If-Modified-Since", stamp)
        try:
            with self._open(request) as response:
                _store(response, wanted.path)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != 304:
                raise
        except (OSError, HTTPException) as error:
            if not wanted.path.exists():  # an archive out of reach must not stop a lab that has all it needs
                reason = " ".join(str(error).split())[:200]
                raise UpstreamError(f"{type(error).__name__}: {reason}") from error


def _store(response: BinaryIO, path: Path) -> None:
    """Write beside, then rename: a reader sees a whole file or none, also after a crash."""
    headers = getattr(response, "headers", {})
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".part-", delete=False) as out:
        partial = Path(out.name)
        try:
            shutil.copyfileobj(response, out, 1 << 18)
            _check_whole(path.name, out.tell(), headers.get("Content-Length"))
        except BaseException:
            partial.unlink()
            raise
    if "Last-Modified" in headers:
        modified = email.utils.parsedate_to_datetime(headers["Last-Modified"]).timestamp()
        os.utime(partial, (modified, modified))
    partial.chmod(0o644)
    partial.replace(path)


def _check_whole(name: str, size: int, announced: str | None) -> None:
    """http.client takes a connection that ends early for the end of the file, if one reads it in pieces."""
    if announced is not None and int(announced) != size:
        raise OSError(f"{name}: {size} bytes came, {announced} were announced")


class Handler(BaseHTTPRequestHandler):
    """GET and HEAD of whole files; apt copes with a 200 where it asked for a range."""

    protocol_version = "HTTP/1.1"
    timeout = 600
    archive: Archive

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        try:
            with self.archive.fetch(self.path).open("rb") as file:
                self._send(file, with_body=with_body)
        except RefusedError:
            self.send_error(403, "Not one of this lab's archives")
        except urllib.error.HTTPError as error:
            self.send_error(error.code)
        except UpstreamError as error:
            self.send_error(502, str(error))

    def _send(self, file: BinaryIO, *, with_body: bool) -> None:
        about = os.fstat(file.fileno())
        modified = email.utils.formatdate(about.st_mtime, usegmt=True)
        is_same = self.headers.get("If-Modified-Since") == modified
        self.send_response(304 if is_same else 200)
        self.send_header("Last-Modified", modified)
        self.send_header("Content-Length", "0" if is_same else str(about.st_size))
        self.end_headers()
        if with_body and not is_same:
            shutil.copyfileobj(file, self.wfile, 1 << 18)


class Server(ThreadingHTTPServer):
    """Serves on a socket that somebody else opened."""

    daemon_threads = True

    def __init__(self, listener: socket.socket, archive: Archive) -> None:
        handler = type("LabHandler", (Handler,), {"archive": archive})
        super().__init__(listener.getsockname(), handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener


def opener(proxy: str) -> Opener:
    """Opens URLs the way the machine's apt does: through its proxy, or directly whatever the environment says."""
    proxies = {"http": proxy, "https": proxy} if proxy else {}
    director = urllib.request.build_opener(urllib.request.ProxyHandler(proxies))
    return lambda request: director.open(request, timeout=TIMEOUT_S)


def remember_addresses() -> None:
    """Ask each name at most once a minute: name services of virtual machines drop questions that come in bursts.

    (One dropped question costs five seconds, and a base image is 150 packages from one host.)
    """
    ask = socket.getaddrinfo

    @functools.lru_cache(maxsize=64)
    def asked(_minute: int, *words: Any, **named: Any) -> list[Any]:
        return ask(*words, **named)

    def answer(*words: Any, **named: Any) -> list[Any]:
        return asked(int(time.monotonic() // 60), *words, **named)

    socket.getaddrinfo = answer


def main() -> None:
    """Serve on standard input, a listening socket, with the settings of the file named on the command line."""
    remember_addresses()
    settings = json.loads(Path(sys.argv[1]).read_text())
    listener = socket.socket(fileno=os.dup(0))
    archive = Archive(settings["upstreams"], Path(settings["cache"]), opener(settings["proxy"]))
    Server(listener, archive).serve_forever()


if __name__ == "__main__":
    main()
