"""The beginning of a WebSocket conversation (RFC 6455): the handshake, and the first bytes that the other side says."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import ssl
from urllib.parse import parse_qs, urlsplit

from ansible.module_utils.probe_graph import ProbeError

__all__ = ["first_bytes"]

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3


def first_bytes(page: str, count: int, timeout_s: float = 30) -> bytes:
    """Return the first bytes of the screen behind noVNC's page. The page's `path` says where the WebSocket is."""
    parts = urlsplit(page)
    path = "/" + parse_qs(parts.query)["path"][0].lstrip("/")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((parts.hostname or "", port), timeout_s) as plain:
            if parts.scheme == "https":
                with ssl.create_default_context().wrap_socket(plain, server_hostname=parts.hostname) as wire:
                    return _hello(wire, parts.scheme, parts.netloc, path, count)
            return _hello(plain, parts.scheme, parts.netloc, path, count)
    except OSError as error:
        raise ProbeError(f"the WebSocket at {parts.netloc}: {error}") from error


def _hello(wire: socket.socket, scheme: str, host: str, path: str, count: int) -> bytes:
    key = base64.b64encode(os.urandom(16)).decode()
    wire.sendall(
        (
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Origin: {scheme}://{host}\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Protocol: binary\r\n\r\n"
        ).encode()
    )
    stream = wire.makefile("rb")
    status = stream.readline().decode(errors="replace").strip()
    headers = {}
    while line := stream.readline().decode(errors="replace").strip():
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    if " 101" not in status:
        raise ProbeError(f"the WebSocket at {host} answers {status or 'nothing'}")
    digest = hashlib.sha1(f"{key}{_GUID}".encode(), usedforsecurity=False).digest()
    if headers.get("sec-websocket-accept") != base64.b64encode(digest).decode():
        raise ProbeError(f"the WebSocket at {host} accepts another handshake than ours")
    got = b""
    while len(got) < count:
        head = stream.read(2)
        if len(head) < 2:
            break
        size = head[1] & 0x7F
        if size >= 126:
            size = int.from_bytes(stream.read(2 if size == 126 else 8), "big")
        got += stream.read(size)
    return got[:count]
