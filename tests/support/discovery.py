"""A machine that boots the discovery image in QEMU, and the servers that it talks to on its way.

QEMU's user network shows the guest this machine's loopback as 10.0.2.2, so nothing leaves it, and it needs no root.
"""

from __future__ import annotations

import json
import queue
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from orchestrator.boot import Artefact, site_cpio, site_files
from orchestrator.images.discovery import Discovery

GATEWAY = "10.0.2.2"
ROOT_PATH = "/files/discovery/root.squashfs"
LIMIT_S = 600.0  # for anything at all: emulated machines share two cores with whatever else runs
TOKEN = "one-time-token"


@dataclass(frozen=True)
class Said:
    """One request of the agent."""

    method: str
    path: str
    key: str
    body: Any


Answer = tuple[int, bytes]  # status and body of a download
Serve = Callable[[int, str], Answer]  # count of requests before, Range header -> answer


@dataclass
class Servers:
    """The boot service as a machine sees it: a file over HTTP, and protocol v1 over HTTPS. Records what was asked."""

    tls: ssl.SSLContext
    serve: Serve
    mode: str = "discover"
    said: queue.Queue[Said] = field(default_factory=queue.Queue)
    ranges: list[str] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[tuple[int, int]]:
        """Serve on loopback; gives the ports of HTTP and HTTPS."""
        plain, secure = _Server(("127.0.0.1", 0), _Files), _Server(("127.0.0.1", 0), _Api)
        # The handshake is the handler's, in its own thread: a client that is killed in the middle must not stop others.
        secure.socket = self.tls.wrap_socket(secure.socket, server_side=True, do_handshake_on_connect=False)
        threads = []
        for server in (plain, secure):
            server.owner = self
            threads.append(threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}))
            threads[-1].start()
        try:
            yield plain.server_address[1], secure.server_address[1]
        finally:
            for server, thread in zip((plain, secure), threads, strict=True):
                server.shutdown()
                thread.join()
                server.server_close()

    def next(self, method: str, path: str) -> Said:
        """Wait for a request; what comes before it is passed over."""
        deadline = time.monotonic() + LIMIT_S
        while True:
            said = self.said.get(timeout=max(0.1, deadline - time.monotonic()))
            if said.method == method and said.path == path:
                return said


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    owner: Servers

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A guest that is switched off drops its connections; that is no trouble of ours."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None: ...

    def answer(self, status: int, body: bytes = b"", length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.answer(200)


class _Files(_Handler):
    def do_GET(self) -> None:
        owner, asked = self.server.owner, self.headers.get("Range", "")
        if self.path != ROOT_PATH:
            self.answer(404)
            return
        count = len(owner.ranges)
        owner.ranges.append(asked)
        status, body = owner.serve(count, asked)
        if status == CUT_OFF:
            self.answer(200, body, length=2 * len(body))
            self.close_connection = True
            return
        if status == 206:
            self.send_response(206)
            begin = int(asked.removeprefix("bytes=").rstrip("-"))
            self.send_header("Content-Range", f"bytes {begin}-{begin + len(body) - 1}/{begin + len(body)}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        self.answer(status, body)


CUT_OFF = 1  # not a status of HTTP: the answer promises twice as much as comes


class _Api(_Handler):
    def do_POST(self) -> None:
        self._record()
        told = {"machine": "m-0123456789ab", "credential": "secret", "poll_s": 5, "now": time.time()}
        self.answer(200, json.dumps({**told, "mode": self.server.owner.mode}).encode())

    def do_PUT(self) -> None:
        self._record()
        self.answer(204)

    def do_GET(self) -> None:
        time.sleep(2)  # a long poll that brings nothing
        self.answer(204)

    def _record(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = self.headers["Authorization"].removeprefix("Bearer ")
        self.server.owner.said.put(Said(method=self.command, path=self.path, key=key, body=body))


@dataclass(frozen=True)
class Guest:
    """A machine that runs; its consoles are written to a file."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def console(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def wait_for(self, text: str) -> str:
        """Wait until the console shows a text; return the line."""
        deadline = time.monotonic() + LIMIT_S
        while True:
            console, ended = self.console, self.process.poll() is not None
            for line in console.splitlines():
                if text in line:
                    return line
            assert not ended, f"the machine went off before {text!r} came:\n{console[-3000:]}"
            assert time.monotonic() < deadline, f"{text!r} never came:\n{console[-3000:]}"
            time.sleep(0.2)

    def seconds(self, text: str) -> float:
        """The guest's own time (since its kernel started) at which the console showed a text."""
        return float(self.wait_for(text).partition("]")[0].lstrip("[ "))


@contextmanager
def booted(
    image: Discovery,
    folder: Path,
    site: Mapping[str, bytes],
    devices: Sequence[str],
    *,
    boot_mac: str,
    memory_mib: int = 1024,
) -> Iterator[Guest]:
    """Boot an image as a boot loader would: kernel, stage 1, and behind it the archive of the site."""
    initrd, log = folder / "initrd", folder / "console"
    initrd.write_bytes(image.initrd.path.read_bytes() + (site_cpio(site) if site else b""))
    words = f"console=ttyS0,115200n8 console=tty0 ip=dhcp halligan=1 BOOTIF=01-{boot_mac.replace(':', '-')}"
    command = [
        *("setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64"),
        *("-machine", "q35,accel=tcg", "-cpu", "max", "-smp", "1", "-m", str(memory_mib)),
        *("-nodefaults", "-display", "none", "-no-reboot", "-serial", f"file:{log}"),
        *("-kernel", str(image.kernel.path), "-initrd", str(initrd), "-append", words),
        *devices,
    ]
    with (folder / "qemu.log").open("wb") as said:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
    try:
        yield Guest(process=process, log=log)
    finally:
        process.kill()
        process.wait()


def site_of(image: Discovery, ports: tuple[int, int], ca: str, **changes: Any) -> dict[str, bytes]:
    """What the boot service tells this boot; `changes` go to site.json besides."""
    found = site_files(
        server=f"https://{GATEWAY}:{ports[1]}",
        files=f"http://{GATEWAY}:{ports[0]}",
        root=Artefact(path=ROOT_PATH, sha256=image.root.sha256, size=image.root.size),
        token=TOKEN,
        ca=ca,
        mode=changes.pop("mode", "discover"),
        authorized_keys=changes.pop("authorized_keys", ()),
    )
    path = "/etc/halligan/site.json"
    return {**found, path: json.dumps({**json.loads(found[path]), **changes}).encode()}


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def switch(guest_port: int, our_port: int, mac: str) -> Iterator[None]:
    """A switch at the other end of a NIC (`-netdev socket,udp=`): it says by LLDP who it is, each second."""
    frame = _lldp(mac, system="leaf-3a", port="Eth1/7", description="rack 3")
    stop = threading.Event()

    def speak() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
            wire.bind(("127.0.0.1", our_port))
            while not stop.wait(1.0):
                wire.sendto(frame, ("127.0.0.1", guest_port))

    thread = threading.Thread(target=speak)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _lldp(mac: str, *, system: str, port: str, description: str) -> bytes:
    """An LLDP frame (IEEE 802.1AB): chassis id 4 = MAC address, port id 5 = interface name, two minutes to live."""
    address = bytes.fromhex(mac.replace(":", ""))
    values = (
        (1, b"\x04" + address),
        (2, b"\x05" + port.encode()),
        (3, (120).to_bytes(2, "big")),
        (4, description.encode()),
        (5, system.encode()),
        (0, b""),
    )
    body = b"".join((kind << 9 | len(value)).to_bytes(2, "big") + value for kind, value in values)
    return bytes.fromhex("0180c200000e") + address + bytes.fromhex("88cc") + body.ljust(46, b"\0")
