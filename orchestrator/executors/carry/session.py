"""One SSH connection to a host with a server of ours on its other end: `on_host/serve.py` says what is spoken.

asyncssh rather than OpenSSH: 7 ms of CPU and 50 kB per session here against 80 ms and 1.4 MB (docs/adr/0009-carry.md).
Host keys are always checked, against the site's own list if there is one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import subprocess
import time
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from socket import socketpair
from typing import Any, cast

import asyncssh

from orchestrator.executors.carry.cargo import Cargo
from orchestrator.executors.events import untrusted
from orchestrator.model import Connection, Json, PlanNode

__all__ = ["Ask", "BrokenError", "Ending", "Hello", "Link", "RefusedError", "Session", "UnfitError", "UnreachableError"]

LOGIN_S = 20.0
KEEPALIVE_S = 15.0
PYTHON = "/usr/bin/python3"
_CHUNK = 1 << 16
_PARTING_S = 5.0
_NOISE = 100  # lines that a login may print before the host's Python speaks

# Runs on any Python 3: says which one it is if that is too old, else becomes serve.py, which follows on its input.
_BOOT = """
import os, sys, zlib
if sys.version_info < (3, 11):
    print('{"python": [%d, %d]}' % sys.version_info[:2])
    sys.exit()
def take(size):
    got = b""
    while len(got) < size:
        more = os.read(0, size - len(got))
        if not more: sys.exit(1)
        got += more
    return got
exec(compile(zlib.decompress(take(int(take(8)))), "halligan", "exec"))
main(sys.argv[1])
"""


class UnreachableError(Exception):
    """The host could not be reached or logged in to; says why."""


class UnfitError(Exception):
    """The host cannot run a carried play, whatever is tried; says why."""


class RefusedError(Exception):
    """The host will not run this play now; says why."""


class BrokenError(Exception):
    """The session is gone; the play, if it was started, goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What a host says of itself. `boot` changes when it restarts, `skew_s` is its clock minus ours, in seconds."""

    python: tuple[int, ...]
    boot: str
    skew_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A play to start, or to read on from a byte of its events if it was started before."""

    id: str
    offset: int
    owner: str
    run: str
    about: str
    cargo: Cargo
    inventory: Callable[[], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a play ended: its exit code (None: none), why if it was ended, and what Ansible said beside its events."""

    rc: int | None
    why: str
    said: str


class Link:
    """What sessions to many hosts share: keys and known hosts are read once."""

    def __init__(
        self, *, place: str = "", python: str = PYTHON, login_s: float = LOGIN_S, keepalive_s: float = KEEPALIVE_S
    ) -> None:
        """`place` is where hosts keep parcels and plays, "{node}" in it replaced; empty: where serve.py says."""
        self._place = place
        self._python = python
        self._login_s = login_s
        self._keepalive_s = keepalive_s
        self._keys = cache(asyncssh.read_private_key)
        self._known = lru_cache(8)(lambda path, *_changed: asyncssh.read_known_hosts(path))
        self.opened = 0

    @contextlib.asynccontextmanager
    async def _reaching(self, node: PlanNode) -> AsyncIterator[None]:
        """Turn everything that can go wrong on the way into one sentence."""
        where = f"{node.name} ({node.address})"
        try:
            async with asyncio.timeout(self._login_s):
                yield
        except TimeoutError:
            raise UnreachableError(f"{where} did not answer within {self._login_s:g} s") from None
        except asyncssh.HostKeyNotVerifiable:
            raise UnreachableError(untrusted(node, listed=self._is_listed(node))) from None
        except asyncssh.PermissionDenied as error:
            user = node.connection.user or "the user who runs this"
            raise UnreachableError(f"{where} refused to log {user} in: {error.reason}") from None
        except (OSError, asyncssh.Error, EOFError, ValueError, BrokenError) as error:  # ValueError: a key's file
            raise UnreachableError(f"{where} could not be reached: {_told(error)}") from None

    async def open(self, node: PlanNode) -> Session:
        """Log in and start the server. Raises UnreachableError or UnfitError."""
        connection = node.connection
        link, proxy = await self._connect(node)
        try:
            place = self._place.format(node=node.name)
            command = f"{self._python} -I -c {shlex.quote(_BOOT)} {shlex.quote(place)}"
            if connection.user not in ("", "root"):
                command = f"sudo -n -- {command}"
            async with self._reaching(node):
                process = await link.create_process(command, encoding=None)
                session = Session(node, link, process, proxy)
                await session.greet(self._python)
        except BaseException:
            link.abort()
            if proxy:
                proxy.end()
            raise
        self.opened += 1
        return session

    async def ask(self, node: PlanNode, command: str) -> str:
        """Log in, run one command of the login's shell, and return what it prints. Raises UnreachableError."""
        link, proxy = await self._connect(node)
        try:
            done = await link.run(command, check=False)
        except (OSError, asyncssh.Error) as error:
            raise UnreachableError(f"{node.name} ({node.address}) hung up: {_told(error)}") from None
        finally:
            link.abort()
            if proxy:
                proxy.end()
        return str(done.stdout)

    async def _connect(self, node: PlanNode) -> tuple[asyncssh.SSHClientConnection, _Proxy | None]:
        proxy = _proxy(node) if node.connection.proxy_command else None
        try:
            async with self._reaching(node):
                socket = {"sock": proxy.socket} if proxy else {}
                return await asyncssh.connect(node.address, **socket, **self._options(node)), proxy
        except BaseException:
            if proxy:
                proxy.end()
            raise

    def _options(self, node: PlanNode) -> dict[str, Any]:
        connection = node.connection
        options: dict[str, Any] = {
            "keepalive_interval": self._keepalive_s,
            "keepalive_count_max": 4,
            "connect_timeout": self._login_s,
        }
        if connection.port:
            options["port"] = connection.port
        if connection.user:
            options["username"] = connection.user
        if connection.known_hosts:
            options["known_hosts"] = self._listed(connection.known_hosts)
        if connection.private_key:
            options |= {"client_keys": [self._keys(connection.private_key)], "agent_path": None}
        return options

    def _is_listed(self, node: PlanNode) -> bool:
        path = Path(node.connection.known_hosts or Path.home() / ".ssh" / "known_hosts")
        if not path.exists():
            return False
        return any(self._listed(str(path)).match(node.address, "", node.connection.port or 22))

    def _listed(self, path: str) -> asyncssh.SSHKnownHosts:
        """Return the host keys in a file, read anew only when it changed: hosts installed meanwhile are in it."""
        found = Path(path).stat()
        return self._known(path, found.st_mtime_ns, found.st_size)


@cache
def _server() -> bytes:
    """Return serve.py as it is sent: its length in eight digits, then the compressed source."""
    packed = zlib.compress((Path(__file__).parent / "on_host" / "serve.py").read_bytes(), 9)
    return b"%08d%s" % (len(packed), packed)


def _told(error: Exception) -> str:
    number = getattr(error, "errno", None)  # asyncio's own words for it leave the reason out
    return os.strerror(number) if number else getattr(error, "reason", "") or str(error) or type(error).__name__


class _Proxy:
    """A ProxyCommand (ssh_config(5)): a process that stands between us and the host, on a pair of sockets."""

    def __init__(self, words: list[str]) -> None:
        self.socket, theirs = socketpair()
        with theirs:
            self._process = subprocess.Popen(
                words, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=subprocess.DEVNULL
            )

    def end(self) -> None:
        """End it; its side of the pair is closed by then or soon."""
        self.socket.close()
        self._process.terminate()
        self._process.wait()


def _proxy(node: PlanNode) -> _Proxy:
    """Start a node's ProxyCommand with its tokens filled in."""
    connection: Connection = node.connection
    tokens = {"%h": node.address, "%p": str(connection.port or 22), "%r": connection.user, "%%": "%"}
    words = shlex.split(connection.proxy_command)
    for token, value in tokens.items():
        words = [word.replace(token, value) for word in words]
    return _Proxy(words)


class Session:
    """A connection that is logged in, with our server on its other end; used for one play after another."""

    def __init__(
        self,
        node: PlanNode,
        link: asyncssh.SSHClientConnection,
        process: asyncssh.SSHClientProcess[bytes],
        proxy: _Proxy | None = None,
    ) -> None:
        self.node = node
        self.hello = Hello(python=(), boot="", skew_s=0.0)
        self._link = link
        self._process = process
        self._proxy = proxy
        self._buffer = b""
        self._cancelled = False
        self._hears = False  # whether the host would understand a cancel

    @property
    def is_open(self) -> bool:
        return not self._link.is_closed() and not self._process.stdout.at_eof()

    async def greet(self, path: str) -> None:
        """Send the server to the Python at `path`, and hear what the host is."""
        self._process.stdin.write(_server())
        sent = time.time()
        try:
            said = await self._first_message()
        except BrokenError:
            raise UnfitError(await self._why_not(path)) from None
        if "python" not in said:
            raise UnfitError(f"something else than Python answers at {path}")
        python = tuple(said["python"])
        if python < (3, 11):
            raise UnfitError(f"its Python is {'.'.join(map(str, python))}, and ansible-core 2.19 needs 3.11")
        self.hello = Hello(python=python, boot=said["boot"], skew_s=said["clock"] - sent)

    async def play(
        self, ask: Ask, take: Callable[[bytes, Mapping[str, Any]], None], on_start: Callable[[], None]
    ) -> Ending:
        """Start a play or read on in one; give each event to `take`, as its line and its content.

        Raises:
            RefusedError: the host does not start it.
            BrokenError: the session is gone.
        """
        head = {"do": "play", "id": ask.id, "from": ask.offset, "owner": ask.owner, "run": ask.run, "about": ask.about}
        await self._write({**head, "needs": list(ask.cargo.parcels)})
        answer = await self._message()
        if "lacks" in answer:
            for name in answer["lacks"]:
                content = ask.cargo.parcels[name].content
                await self._write({"parcel": name, "size": len(content)}, content)
            inventory = ask.inventory()
            await self._write({"start": dict(ask.cargo.start), "size": len(inventory)}, inventory)
        self._hears = True
        try:
            if self._cancelled:
                await self._write({"do": "cancel"})
            while "lacks" in answer or "waits" in answer:  # for a play that an earlier run left there
                answer = await self._message()
            if "refused" in answer:
                raise RefusedError(_held(answer["refused"]))
            if "failed" in answer:
                raise RefusedError(answer["failed"])
            on_start()
            while True:
                line = await self._line()
                event = json.loads(line)
                if "end" in event:
                    end = event["end"]
                    return Ending(rc=end["rc"], why=end["why"], said=end.get("said", ""))
                take(line, event)
        finally:
            self._hears = self._cancelled = False

    async def cancel(self) -> None:
        """Have the play that runs, waits or is asked for next ended; its events go on until its end."""
        self._cancelled = True
        if self._hears:
            with contextlib.suppress(BrokenError):
                await self._write({"do": "cancel"})

    async def forget(self, play: str) -> None:
        """Say that a play's end is recorded here: the host may drop it."""
        await self._write({"do": "forget", "id": play})

    async def close(self) -> None:
        """End the session; the host's server ends with it, a play does not."""
        with contextlib.suppress(TimeoutError, OSError, asyncssh.Error):
            self._process.stdin.write_eof()
            async with asyncio.timeout(_PARTING_S):  # what it was told last may still be on its way
                await self._process.wait_closed()
        self._link.close()
        await self._link.wait_closed()
        self._end_proxy()

    def abort(self) -> None:
        """Drop a session that is broken."""
        self._link.abort()
        self._end_proxy()

    def _end_proxy(self) -> None:
        if self._proxy:
            self._proxy.end()

    async def _write(self, message: Mapping[str, Json], content: bytes = b"") -> None:
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n" + content)
            await self._process.stdin.drain()
        except (OSError, asyncssh.Error) as error:
            raise BrokenError(str(error)) from None

    async def _message(self) -> dict[str, Any]:
        return cast(dict[str, Any], json.loads(await self._line()))

    async def _first_message(self) -> dict[str, Any]:
        """Return the host's first message, without what its shell may print at each login."""
        for _ in range(_NOISE):
            with contextlib.suppress(ValueError):
                said = await self._message()
                if isinstance(said, dict):
                    return said
        raise UnfitError("whoever logs in there sees more than a few lines printed, and no answer")

    async def _line(self) -> bytes:
        while b"\n" not in self._buffer:
            try:
                chunk = await self._process.stdout.read(_CHUNK)
            except (OSError, asyncssh.Error) as error:
                raise BrokenError(str(error)) from None
            if not chunk:
                raise BrokenError("the connection was closed")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    async def _why_not(self, path: str) -> str:
        """Return why the server did not start, from what the host's shell said.

        Raises:
            BrokenError: it did not end, the session did.
        """
        said = ""
        with contextlib.suppress(asyncssh.Error, OSError):
            said = (await self._process.stderr.read(4096)).decode(errors="replace").strip()
            await self._process.wait_closed()
        if self._process.exit_status is None and not self._process.exit_signal:
            raise BrokenError("the connection was closed")
        if self._process.exit_status == 127 or "No such file" in said:
            return f"there is no Python at {path}"
        return said.splitlines()[-1] if said else "its Python ended at once"


def _held(holder: Mapping[str, Any]) -> str:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder.get("since", 0)))
    return f"the host is held by {holder.get('owner', 'somebody')}, which runs {holder.get('about', '?')} since {since}"
