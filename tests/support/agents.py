"""A boot service for tests of the discovery agent: protocol v1 over HTTPS with a CA of its own, and files over HTTP.

It checks what it is sent as the real one does, and can be taken away and brought back on the same ports.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.util
import ipaddress
import json
import re
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AGENT = Path(__file__).parents[2] / "pxe/agent/halligan_agent.py"


def load_agent() -> ModuleType:
    """Import the agent from where it lives; it belongs to no package."""
    name = "halligan_agent"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, AGENT)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


def wait_for(condition: Callable[[], Any], what: str, limit: float = 120.0) -> Any:
    """Return the first true value of `condition`."""
    end = time.monotonic() + limit
    while not (value := condition()):
        assert time.monotonic() < end, f"{what} did not come within {limit} s"
        time.sleep(0.02)
    return value


class Authority:
    """A certificate authority, and a server certificate of it for `address`."""

    def __init__(self, folder: Path, address: str = "127.0.0.1") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a site of tests")])
        authority = self._build(name, name, key.public_key(), key.public_key(), True, None, key)
        server_key = ec.generate_private_key(ec.SECP256R1())
        server_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "boot service")])
        server = self._build(server_name, name, server_key.public_key(), key.public_key(), False, address, key)
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
        self.server = folder / "server.pem"
        private = server_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self.server.write_bytes(private + server.public_bytes(serialization.Encoding.PEM))

    @staticmethod
    def _build(
        subject: x509.Name, issuer: x509.Name, key: Any, issuer_key: Any, ca: bool, address: str | None, signer: Any
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
        ) | {"encipher_only": False, "decipher_only": False}
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=2))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
            .add_extension(
                x509.KeyUsage(digital_signature=not ca, key_cert_sign=ca, crl_sign=ca, **usage), critical=True
            )
        )
        if address is not None:
            names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
            builder = builder.add_extension(names, critical=False).add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
            )
        return builder.sign(signer, hashes.SHA256())


class BootService:
    """The boot service's state, and its two servers.

    `tokens` are good once; `orders` are given, the first one again and again, until their results came; `files` maps
    paths to bytes. `cut` says after how many bytes of a file the next answers break off. `deaf` are ids of tasks whose
    progress is answered 410.
    """

    def __init__(self, folder: Path, token: str = "token-1") -> None:
        self.authority = Authority(folder)
        self.tokens = {token}
        self.credential = "credential-1"
        self.orders: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.cut: list[int] = []
        self.deaf: set[str] = set()
        self.enrolments: list[dict[str, Any]] = []
        self.facts: dict[str, dict[str, Any]] = {}
        self.progress: list[tuple[str, dict[str, Any]]] = []
        self.results: list[tuple[str, dict[str, Any]]] = []
        self.handed: list[str] = []
        self.ranges: list[str] = []
        self.mode = "discover"
        self.refuse_enrolment = (0, "", "")
        self.changed = threading.Condition()
        self._ports = [0, 0]
        self._servers: list[ThreadingHTTPServer] = []
        self.start()

    @property
    def server(self) -> str:
        return f"https://127.0.0.1:{self._ports[0]}"

    @property
    def files_url(self) -> str:
        return f"http://127.0.0.1:{self._ports[1]}"

    def start(self) -> None:
        handlers = (_handler(self, _Api), _handler(self, _Files))
        self._servers = [_Server(("127.0.0.1", port), each) for port, each in zip(self._ports, handlers, strict=True)]
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.authority.server)
        self._servers[0].socket = context.wrap_socket(
            self._servers[0].socket, server_side=True, do_handshake_on_connect=False
        )
        self._ports = [server.server_address[1] for server in self._servers]
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Go away, with every connection that is open."""
        with self.changed:
            self.changed.notify_all()
        for server in self._servers:
            server.shutdown()
            server.server_close()
        self._servers = []

    def order(self, task: str, args: dict[str, Any], key: str = "") -> str:
        key = key or f"t-{len(self.handed)}-{task}"
        with self.changed:
            self.orders.append({"id": key, "task": task, "args": args})
            self.changed.notify_all()
        return key

    def result(self, key: str, limit: float = 180.0) -> dict[str, Any]:
        """Wait for the result of a task."""
        found: dict[str, Any] = wait_for(lambda: dict(self.results).get(key), f"the result of {key}", limit)
        return found

    @contextlib.contextmanager
    def serving(self) -> Iterator[BootService]:
        try:
            yield self
        finally:
            self.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, *args: Any) -> None:
        self.open: set[Any] = set()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        super().server_close()
        for request in list(self.open):
            with contextlib.suppress(OSError):
                request.shutdown(2)
            with contextlib.suppress(OSError):
                request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client or a test that breaks off is no news."""


def _handler(service: BootService, kind: type[_Handler]) -> type[_Handler]:
    return type(kind.__name__, (kind,), {"service": service})


class _Handler(BaseHTTPRequestHandler):
    service: BootService
    protocol_version = "HTTP/1.1"
    timeout = 60

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Api(_Handler):
    def do_GET(self) -> None:
        self._dispatch()

    do_POST = do_PUT = do_GET  # noqa: N815

    def _dispatch(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, answer = self._answer(json.loads(body) if body else {})
        text = json.dumps(answer).encode() if answer is not None else b""
        self.send_response(status)
        if text:
            self.send_header("Content-Type", "application/json")
        if status != 204:
            self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _answer(self, body: dict[str, Any]) -> tuple[int, Any]:
        service, key = self.service, (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        path, _, query = self.path.partition("?")
        if path == "/v1/enrol":
            return self._enrol(body, key)
        if key != service.credential:
            return 401, {"error": "this credential is not known", "hint": "boot again"}
        if not path.startswith("/v1/machines/m-0123456789ab/"):
            return 403, {"error": "another machine's path"}
        rest = path.removeprefix("/v1/machines/m-0123456789ab/")
        if rest == "facts":
            service.facts[query.removeprefix("level=")] = body
            return 204, None
        if rest == "task":
            return self._task(float(query.removeprefix("wait=")))
        found = re.fullmatch(r"tasks/([^/]+)/(progress|result)", rest)
        assert found is not None, rest
        return self._report(found[1], found[2], body)

    def _enrol(self, body: dict[str, Any], key: str) -> tuple[int, Any]:
        service = self.service
        status, error, hint = service.refuse_enrolment
        if status:
            return status, {"error": error, "hint": hint}
        if key not in service.tokens:
            return 401, {"error": "the token is used or unknown", "hint": "boot the machine again"}
        service.tokens.remove(key)
        assert set(body) == {"protocol", "agent", "identity", "boot", "clock"}
        service.enrolments.append(body)
        return 200, {
            "machine": "m-0123456789ab",
            "credential": service.credential,
            "poll_s": 30,
            "now": time.time(),
            "mode": service.mode,
        }

    def _task(self, wait: float) -> tuple[int, Any]:
        service = self.service
        with service.changed:
            service.changed.wait_for(lambda: service.orders or not service._servers, wait)
            if not service.orders:
                return 204, None
            service.handed.append(service.orders[0]["id"])
            return 200, service.orders[0]

    def _report(self, task: str, what: str, body: dict[str, Any]) -> tuple[int, Any]:
        service = self.service
        if what == "progress":
            assert set(body) == {"step", "percent", "message"}
            service.progress.append((task, body))
            return (410, {"error": "no longer wanted"}) if task in service.deaf else (204, None)
        assert set(body) == {"ok", "outputs", "problem", "failure", "log"}
        service.results.append((task, body))
        with service.changed:
            service.orders = [order for order in service.orders if order["id"] != task]
        return 204, None


class _Files(_Handler):
    def do_HEAD(self) -> None:
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        service = self.service
        data = service.files.get(self.path)
        if data is None:
            return self.do_HEAD()
        asked = self.headers.get("Range")
        service.ranges.append(asked or "")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", f'"{len(data)}"')
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        part = memoryview(data)[start:]
        if service.cut:
            part = part[: service.cut.pop(0)]
            self.close_connection = True
        self.wfile.write(part)
        return None
