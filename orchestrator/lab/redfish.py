"""The lab's BMCs: a Redfish service (DMTF DSP0266) over HTTPS with one system for each vm.

It has what clients use to run servers: power, resets, the boot override, identity and NICs; sessions and Basic
authentication. It runs as a process of its own, is handed a listening socket and a file of settings by `bmc.py`, and
holds nothing that matters: machines stay on when it ends, and it finds them again by their records. A thread of it is
the voice of the lab's switch (`lldp.py`), for it knows the machines and lives exactly as long as there are any.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import os
import secrets
import socket
import ssl
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from orchestrator.lab import lldp
from orchestrator.lab.errors import LabError
from orchestrator.lab.machine import MANUFACTURER, PRODUCT, Machine
from orchestrator.lab.network import BRIDGE_MAC
from orchestrator.lab.power import ENABLED, TARGETS, Override, Power, Switch
from orchestrator.lab.values import LabNode, Places

__all__ = ["Problem", "Reply", "Server", "Service", "main"]

ROOT = "/redfish/v1"
SYSTEMS = f"{ROOT}/Systems"
SESSIONS = f"{ROOT}/SessionService/Sessions"
MANAGERS = f"{ROOT}/Managers"
MANAGER = "bmc"

SESSION_S = 1800.0
MOST_SESSIONS = 64
BODY_LIMIT = 64 * 1024
CONNECTION_TIMEOUT_S = 60.0

# ResetType → what is done, if the machine is on and if it is off; None: refused, as most BMCs do.
RESETS: Mapping[str, tuple[str | None, str | None]] = {
    "On": ("on", "on"),
    "ForceOff": ("off", "off"),
    "GracefulShutdown": ("shutdown", None),
    "ForceRestart": ("reset", None),
    "PowerCycle": ("cycle", None),
}

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer: a status, a JSON body (none for 204) and headers."""

    status: int
    body: Json | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Problem(Exception):  # noqa: N818 - Redfish's answer to a request, not a fault of ours
    """A request that is refused: a status, a message of Redfish's Base registry, and what it means here."""

    def __init__(self, status: int, message: str, text: str) -> None:
        super().__init__(text)
        self.status, self.message, self.text = status, message, text

    def reply(self) -> Reply:
        info = {"MessageId": f"Base.1.8.{self.message}", "Message": self.text, "Severity": "Critical"}
        error = {"code": f"Base.1.8.{self.message}", "message": self.text, "@Message.ExtendedInfo": [info]}
        return Reply(status=self.status, body={"error": error})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Session:
    token: str
    user: str
    used: float


class Service:
    """Answers requests, without knowing how they arrive. Has inner state: the sessions."""

    def __init__(
        self,
        machines: Mapping[str, Power],
        *,
        user: str,
        password: str,
        uuid: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._machines, self._user, self._password = machines, user, password
        self._uuid, self._clock = uuid, clock
        self._sessions: dict[str, _Session] = {}
        self._lock = threading.Lock()

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Answer one request; header names in lower case."""
        try:
            return self._answer(method, _normal(path), headers, body)
        except Problem as problem:
            return problem.reply()
        except LabError as error:
            told = " ".join((str(error), error.hint)).strip()
            return Problem(500, "InternalError", told).reply()

    def _answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        if path in ("/redfish", ROOT):  # open to all, so that a client can see what it talks to
            _only(method, "GET")
            return Reply(status=200, body={"v1": f"{ROOT}/"} if path == "/redfish" else self._root())
        if (method, path) == ("POST", SESSIONS):
            return self._log_in(_document(body))
        self._check(headers)
        for prefix, handle in ((SYSTEMS, self._system), (SESSIONS, self._session), (MANAGERS, self._manager)):
            if path == prefix or path.startswith(f"{prefix}/"):
                return handle(method, tuple(path.removeprefix(prefix).split("/")[1:]), body)
        if path == f"{ROOT}/SessionService":
            _only(method, "GET")
            return Reply(status=200, body=self._session_service())
        raise _missing(path)

    # --- who asks ---

    def _check(self, headers: Mapping[str, str]) -> None:
        token = headers.get("x-auth-token")
        if not (self._is_session(token) if token else self._is_basic(headers.get("authorization", ""))):
            raise Problem(401, "NoValidSession", "A valid session or the right user and password are needed.")

    def _is_basic(self, header: str) -> bool:
        scheme, _, encoded = header.partition(" ")
        try:
            user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return False
        return scheme.lower() == "basic" and self._is_right(user, password)

    def _is_right(self, user: str, password: str) -> bool:
        given, right = f"{user}:{password}", f"{self._user}:{self._password}"
        return hmac.compare_digest(given.encode(), right.encode())

    def _is_session(self, token: str) -> bool:
        now = self._clock()
        with self._lock:
            self._sessions = {key: one for key, one in self._sessions.items() if now - one.used < SESSION_S}
            for key, one in self._sessions.items():
                if hmac.compare_digest(one.token.encode(), token.encode()):
                    self._sessions[key] = _Session(token=one.token, user=one.user, used=now)
                    return True
        return False

    def _log_in(self, wanted: Json) -> Reply:
        user, password = wanted.get("UserName"), wanted.get("Password")
        if not (isinstance(user, str) and isinstance(password, str) and self._is_right(user, password)):
            raise Problem(401, "ResourceAtUriUnauthorized", "The user or the password is wrong.")
        key, made = secrets.token_hex(8), _Session(token=secrets.token_urlsafe(24), user=user, used=self._clock())
        with self._lock:
            if len(self._sessions) >= MOST_SESSIONS:
                del self._sessions[min(self._sessions, key=lambda one: self._sessions[one].used)]
            self._sessions[key] = made
        headers = {"X-Auth-Token": made.token, "Location": f"{SESSIONS}/{key}"}
        return Reply(status=201, body=_session_body(key, made.user), headers=headers)

    def _session(self, method: str, rest: tuple[str, ...], _body: bytes) -> Reply:
        with self._lock:
            if not rest:
                _only(method, "GET")
                paths = [f"{SESSIONS}/{key}" for key in self._sessions]
                return Reply(status=200, body=_collection("Session", SESSIONS, paths))
            if len(rest) != 1 or rest[0] not in self._sessions:
                raise _missing("/".join((SESSIONS, *rest)))
            if method == "DELETE":
                del self._sessions[rest[0]]
                return Reply(status=204)
            _only(method, "GET")
            return Reply(status=200, body=_session_body(rest[0], self._sessions[rest[0]].user))

    # --- what there is ---

    def _root(self) -> Json:
        return {
            **_head("ServiceRoot.v1_5_0.ServiceRoot", f"{ROOT}/", "RootService", "Root Service"),
            "RedfishVersion": "1.6.0",
            "UUID": self._uuid,
            "Vendor": MANUFACTURER,
            "Product": "lab",
            "Systems": {"@odata.id": SYSTEMS},
            "Managers": {"@odata.id": MANAGERS},
            "SessionService": {"@odata.id": f"{ROOT}/SessionService"},
            "Links": {"Sessions": {"@odata.id": SESSIONS}},
        }

    def _session_service(self) -> Json:
        return {
            **_head("SessionService.v1_1_6.SessionService", f"{ROOT}/SessionService", "SessionService", "Sessions"),
            "ServiceEnabled": True,
            "SessionTimeout": int(SESSION_S),
            "Sessions": {"@odata.id": SESSIONS},
        }

    def _manager(self, method: str, rest: tuple[str, ...], _body: bytes) -> Reply:
        _only(method, "GET")
        if not rest:
            return Reply(status=200, body=_collection("Manager", MANAGERS, [f"{MANAGERS}/{MANAGER}"]))
        if rest != (MANAGER,):
            raise _missing("/".join((MANAGERS, *rest)))
        return Reply(
            status=200,
            body={
                **_head("Manager.v1_5_0.Manager", f"{MANAGERS}/{MANAGER}", MANAGER, "The lab's BMC"),
                "ManagerType": "BMC",
                "UUID": self._uuid,
                "PowerState": "On",
                "Status": {"State": "Enabled", "Health": "OK"},
                "Links": {"ManagerForServers": [{"@odata.id": f"{SYSTEMS}/{name}"} for name in self._machines]},
            },
        )

    def _system(self, method: str, rest: tuple[str, ...], body: bytes) -> Reply:
        if not rest:
            _only(method, "GET")
            paths = [f"{SYSTEMS}/{name}" for name in self._machines]
            return Reply(status=200, body=_collection("ComputerSystem", SYSTEMS, paths))
        power = self._machines.get(rest[0])
        if power is None:
            raise _missing("/".join((SYSTEMS, *rest)))
        if rest[1:] == ("Actions", "ComputerSystem.Reset"):
            _only(method, "POST")
            return _reset(power, _document(body))
        if rest[1:2] == ("EthernetInterfaces",):
            _only(method, "GET")
            return Reply(status=200, body=_nics(power.node, rest[2:]))
        if rest[1:]:
            raise _missing("/".join((SYSTEMS, *rest)))
        if method == "PATCH":
            _change(power, _document(body))
        else:
            _only(method, "GET", "PATCH")
        return Reply(status=200, body=_system_body(power))


def _system_body(power: Power) -> Json:
    node, override, path = power.node, power.override(), f"{SYSTEMS}/{power.node.name}"
    return {
        **_head("ComputerSystem.v1_10_0.ComputerSystem", path, node.name, node.name),
        "SystemType": "Physical",
        "UUID": node.uuid,
        "SerialNumber": node.serial,
        "Manufacturer": MANUFACTURER,
        "Model": PRODUCT,
        "PowerState": "On" if power.is_on() else "Off",
        "Status": {"State": "Enabled", "Health": "OK", "HealthRollup": "OK"},
        "Boot": {
            "BootSourceOverrideEnabled": override.enabled,
            "BootSourceOverrideEnabled@Redfish.AllowableValues": list(ENABLED),
            "BootSourceOverrideTarget": override.target,
            "BootSourceOverrideTarget@Redfish.AllowableValues": _targets(node),
            "BootSourceOverrideMode": _mode(node),
            "BootSourceOverrideMode@Redfish.AllowableValues": [_mode(node)],
        },
        "ProcessorSummary": {"Count": node.cpus, "Model": "emulated x86-64", "Status": {"HealthRollup": "OK"}},
        "MemorySummary": {"TotalSystemMemoryGiB": node.memory_mib / 1024, "Status": {"HealthRollup": "OK"}},
        "EthernetInterfaces": {"@odata.id": f"{path}/EthernetInterfaces"},
        "Links": {"ManagedBy": [{"@odata.id": f"{MANAGERS}/{MANAGER}"}], "Chassis": []},
        "Actions": {
            "#ComputerSystem.Reset": {
                "target": f"{path}/Actions/ComputerSystem.Reset",
                "ResetType@Redfish.AllowableValues": list(RESETS),
            }
        },
    }


def _targets(node: LabNode) -> list[str]:
    return [target for target in TARGETS if node.firmware == "uefi" or not target.startswith("Uefi")]


def _mode(node: LabNode) -> str:
    return "UEFI" if node.firmware == "uefi" else "Legacy"


def _nics(node: LabNode, rest: tuple[str, ...]) -> Json:
    path = f"{SYSTEMS}/{node.name}/EthernetInterfaces"
    if not rest:
        return _collection("EthernetInterface", path, [f"{path}/nic1"])
    if rest != ("nic1",):
        raise _missing("/".join((path, *rest)))
    return {
        **_head("EthernetInterface.v1_4_0.EthernetInterface", f"{path}/nic1", "nic1", "NIC 1"),
        "MACAddress": node.mac,
        "PermanentMACAddress": node.mac,
        "Status": {"State": "Enabled", "Health": "OK"},
    }


def _reset(power: Power, wanted: Json) -> Reply:
    kind = wanted.get("ResetType")
    if set(wanted) - {"ResetType"} or not isinstance(kind, str) or kind not in RESETS:
        raise Problem(400, "ActionParameterNotSupported", f"Give ResetType, one of {', '.join(RESETS)}; not {wanted}.")
    action = RESETS[kind][0 if power.is_on() else 1]
    if action is None:
        raise Problem(409, "ResourceInUse", f"{kind} is for a machine that is on, and {power.node.name} is off.")
    power.act(action)
    return Reply(status=204)


def _change(power: Power, wanted: Json) -> None:
    """PATCH of a system: all of it is looked at before anything is taken."""
    boot = wanted.get("Boot")
    if set(wanted) != {"Boot"} or not isinstance(boot, dict):
        raise Problem(400, "PropertyNotWritable", f"Only Boot can be changed, not {', '.join(wanted) or 'nothing'}.")
    before = power.override()
    allowed = {
        "BootSourceOverrideTarget": _targets(power.node),
        "BootSourceOverrideEnabled": list(ENABLED),
        "BootSourceOverrideMode": [_mode(power.node)],
    }
    for name, value in boot.items():
        if name not in allowed:
            raise Problem(400, "PropertyNotWritable", f"{name} of Boot cannot be changed.")
        if value not in allowed[name]:
            choice = ", ".join(allowed[name])
            raise Problem(400, "PropertyValueNotInList", f"{name} of Boot is one of {choice}, not {value}.")
    enabled = boot.get("BootSourceOverrideEnabled", before.enabled)
    target = boot.get("BootSourceOverrideTarget", before.target)
    power.set_override(Override(target=target, enabled=enabled) if enabled != "Disabled" else Override())


def _head(kind: str, path: str, identity: str, name: str) -> Json:
    return {"@odata.type": f"#{kind}", "@odata.id": path, "Id": identity, "Name": name}


def _collection(kind: str, path: str, members: list[str]) -> Json:
    return {
        "@odata.type": f"#{kind}Collection.{kind}Collection",
        "@odata.id": path,
        "Name": f"{kind} Collection",
        "Members@odata.count": len(members),
        "Members": [{"@odata.id": member} for member in members],
    }


def _session_body(key: str, user: str) -> Json:
    return {**_head("Session.v1_1_0.Session", f"{SESSIONS}/{key}", key, "Session"), "UserName": user}


def _normal(path: str) -> str:
    """The resource's path: without query, escapes and the slash at the end."""
    return urllib.parse.unquote(urllib.parse.urlsplit(path).path).rstrip("/")


def _only(method: str, *allowed: str) -> None:
    if method not in allowed:
        raise Problem(405, "OperationNotAllowed", f"{method} is not for this resource; it takes {', '.join(allowed)}.")


def _missing(path: str) -> Problem:
    return Problem(404, "ResourceMissingAtURI", f"There is nothing at {path}.")


def _document(body: bytes) -> Json:
    try:
        found = json.loads(body)
    except ValueError:  # (UnicodeDecodeError is one)
        found = None
    if not isinstance(found, dict):
        raise Problem(400, "MalformedJSON", "The body must be a JSON object.")
    return found


class Handler(BaseHTTPRequestHandler):
    """Carries requests to the service. One thread for each connection."""

    protocol_version = "HTTP/1.1"
    server_version = "halligan-lab"
    sys_version = ""
    timeout = CONNECTION_TIMEOUT_S
    service: Service

    def _serve(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdecimal() or int(length) > BODY_LIMIT:
            self.close_connection = True  # what follows is not read
            self._send(
                Problem(413, "RequestTooLarge", f"Send a body of known length, {BODY_LIMIT} bytes at most.").reply()
            )
            return
        body = self.rfile.read(int(length))
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.service.answer(self.command, self.path, headers, body)
        self._send(reply)
        if self.command != "GET" or reply.status >= 400:
            self._tell(body, reply)

    do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = _serve  # noqa: N815 - the standard library's names

    def _send(self, reply: Reply) -> None:
        body = b"" if reply.body is None else json.dumps(reply.body, indent=1).encode()
        self.send_response(reply.status)
        for name, value in (("OData-Version", "4.0"), ("Cache-Control", "no-store"), *reply.headers.items()):
            self.send_header(name, value)
        if self.close_connection:  # as sushy asks for; it must be told, or it uses the connection again (RFC 9112, 9.6)
            self.send_header("Connection", "close")
        if reply.status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="lab"')
        if reply.status != 204:
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _tell(self, body: bytes, reply: Reply) -> None:
        """One line in the log for each order. What logs in holds a password, and is not shown."""
        shown = "" if _normal(self.path) == SESSIONS else body.decode(errors="replace")
        why = (reply.body or {}).get("error", {}).get("message", "")
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        sys.stderr.write(f"{now} {self.command} {self.path} {shown} -> {reply.status} {why}".rstrip() + "\n")

    def log_message(self, format: str, *args: Any) -> None:
        """Polls would fill the log; orders are told by `_tell`."""


class Server(ThreadingHTTPServer):
    """Serves on a socket that listens already; TLS is set up in the connection's own thread."""

    daemon_threads = True

    def __init__(self, listener: socket.socket, service: Service, context: ssl.SSLContext) -> None:
        handler = type("LabHandler", (Handler,), {"service": service})
        super().__init__(listener.getsockname(), handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self._context = context

    def finish_request(self, request: Any, client_address: Any) -> None:
        request.settimeout(CONNECTION_TIMEOUT_S)
        with self._context.wrap_socket(request, server_side=True) as secured:
            super().finish_request(secured, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away or does not trust us is no fault of ours."""
        error = sys.exc_info()[1]
        if isinstance(error, ssl.SSLEOFError | ConnectionError):  # hung up, without TLS's good-bye
            return
        sys.stderr.write(f"connection from {client_address[0]}: {type(error).__name__}: {error}\n")
        if not isinstance(error, OSError):
            super().handle_error(request, client_address)


def main(settings: str) -> None:
    """Serve on standard input, a listening socket, with the settings that `bmc.py` wrote."""
    found = json.loads(Path(settings).read_text())
    places = Places(**{name: Path(path) for name, path in found["places"].items()})
    nodes = [LabNode(**fields) for fields in found["machines"]]
    machines = [Machine(site=found["site"], places=places, node=node) for node in nodes]
    switches = {machine.name: Switch(machine) for machine in machines}
    service = Service(switches, user=found["user"], password=places.bmc_password.read_text(), uuid=found["uuid"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(places.bmc_key)
    frames = {machine.tap: lldp_port(machine, found["gateway"]).frame() for machine in machines}
    threading.Thread(target=lldp.speak, args=(lldp.sender_inside(places.netns), frames), daemon=True).start()
    Server(socket.socket(fileno=os.dup(0)), service, context).serve_forever()


def lldp_port(machine: Machine, gateway: str) -> lldp.Port:
    """Where a machine is plugged in, as the lab's switch tells it."""
    return lldp.Port(
        switch=f"lab-{machine.site}",
        mac=BRIDGE_MAC,
        address=gateway,
        name=f"port-{machine.name}",
        description=machine.tap,
    )
