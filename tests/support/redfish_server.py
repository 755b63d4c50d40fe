"""A Redfish service over real HTTP or HTTPS: many systems in one process, with the faults that BMCs have.

`RedfishService` lives in an asyncio loop that is there already; `serving()` gives it a thread and a loop of its own.

    with serving([Machine(id="kvm-1", user="root", password="right")], tls=certificate) as service:
        address = service.address("kvm-1")      # https://127.0.0.1:PORT/redfish/v1/Systems/kvm-1
        service["kvm-1"].lies = True             # knobs may be turned at any time

Several machines on one port share one ServiceRoot and one SessionService, as blades behind one controller do.
A change of power is told to the machine's `on_power(machine, before, after)`, in the service's loop.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import secrets
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

__all__ = ["ALL_RESETS", "Machine", "RedfishService", "serving"]

ROOT = "/redfish/v1"
ALL_RESETS = ("On", "ForceOff", "GracefulShutdown", "ForceRestart", "GracefulRestart", "PushPowerButton", "PowerCycle")
_AFTER = {
    "On": "On",
    "ForceOn": "On",
    "ForceOff": "Off",
    "GracefulShutdown": "Off",
    "ForceRestart": "On",
    "GracefulRestart": "On",
    "PowerCycle": "On",
}


@dataclass(slots=True, kw_only=True)
class Machine:
    """One system and the manners of its BMC.

    `changes_in` is after how many reads of the system a change of power shows; meanwhile it says `PoweringOn` or
    `PoweringOff` if `says_changing`. `lies` confirms resets that it does not make, `lies_about_boot` overrides;
    `silent` never answers for this system until `let_go`; `deaf` ignores graceful shutdowns; `drops` is how many
    answers get lost (after the work was done), `busy` how many requests are answered 503 with `retry_after`,
    `refusals` is a queue of (HTTP status, message id) for changes; `etag` refuses PATCH without If-Match and shows
    the ETag in the body only (AMI's way); `settings` takes boot settings at <system>/SD only; `forgets_boot` loses the
    override when power goes off.
    """

    id: str
    user: str = ""  # empty: takes everybody
    password: str = ""
    uuid: str = ""
    serial: str = ""
    sku: str = ""
    manufacturer: str = "Contoso"
    model: str = "3500"
    power: str = "Off"
    target: str = "None"
    enabled: str = "Disabled"
    mode: str | None = "UEFI"
    resets: tuple[str, ...] = ALL_RESETS
    targets: tuple[str, ...] = ("None", "Pxe", "Hdd", "Cd", "UefiHttp")
    changes_in: int = 0
    says_changing: bool = False
    delay_s: float = 0.0
    lies: bool = False
    lies_about_boot: bool = False
    silent: bool = False
    deaf: bool = False
    drops: int = 0
    busy: int = 0
    retry_after: int | None = None
    refusals: list[tuple[int, str]] = field(default_factory=list)
    etag: bool = False
    settings: bool = False
    forgets_boot: bool = False
    mode_writable: bool = True
    on_power: Callable[[Machine, str, str], None] | None = None
    done: list[str] = field(default_factory=list)  # resets and patches that were carried out
    patches: list[dict[str, Any]] = field(default_factory=list)  # each Boot that was accepted, as sent
    _coming: list[str] = field(default_factory=list)
    _reads_left: int = 0
    _version: int = 0

    def read(self) -> str:
        """Return PowerState as the BMC says it now."""
        if self._coming and self._reads_left <= 0:
            for state in self._coming:
                self._turn(state)
            self._coming = []
        if not self._coming:
            return self.power
        self._reads_left -= 1
        if self.says_changing:
            return "PoweringOn" if self._coming[-1] == "On" else "PoweringOff"
        return self.power

    def reset(self, kind: str) -> None:
        """Carry a reset out, now or some reads later."""
        self.done.append(kind)
        if self.lies or (self.deaf and kind in ("GracefulShutdown", "PushPowerButton")):
            return
        after = _AFTER.get(kind) or ("Off" if self.power == "On" else "On")
        through_off = self.power == "On" and after == "On" and kind in ("ForceRestart", "GracefulRestart", "PowerCycle")
        self._coming = ["Off", "On"] if through_off else [after]
        self._reads_left = self.changes_in
        if not self._reads_left:
            self.read()

    def _turn(self, after: str) -> None:
        before, self.power = self.power, after
        if after == "Off" and self.forgets_boot:
            self.target, self.enabled = "None", "Disabled"
        if before != after and self.on_power is not None:
            self.on_power(self, before, after)

    def booted(self) -> str:
        """What firmware calls when it starts: return the target, and use a one-time override up."""
        target = self.target if self.enabled != "Disabled" else "None"
        if self.enabled == "Once":
            self.target, self.enabled = "None", "Disabled"
        return target


class RedfishService(dict[str, Machine]):
    """Machines by id behind one HTTP service."""

    def __init__(self, machines: Iterable[Machine], *, sessions: bool = True) -> None:
        super().__init__((machine.id, machine) for machine in machines)
        self.sessions = sessions  # without: basic authentication only
        self.logins = 0  # passwords that came in, right or wrong
        self.open: dict[str, str] = {}  # token -> session id
        self.requests: list[str] = []
        self.url = ""
        self._numbers = itertools.count(1)
        self._paths: dict[str, str] = {}
        self._runner: web.AppRunner | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._held: set[asyncio.Future[None]] = set()

    def address(self, machine: str = "") -> str:
        """Return the address of a machine, or of the service."""
        return f"{self.url}{ROOT}/Systems/{machine}" if machine else self.url

    def expire(self) -> None:
        """Forget all sessions, as a BMC does that restarted."""
        self.open.clear()

    async def start(self, host: str = "127.0.0.1", port: int = 0, *, tls: ssl.SSLContext | None = None) -> None:
        """Listen; port 0 takes a free one."""
        self._loop = asyncio.get_running_loop()
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/redfish", self._versions)
        app.router.add_get(ROOT, self._root)
        app.router.add_get(f"{ROOT}/", self._root)
        app.router.add_get(f"{ROOT}/SessionService", self._session_service)
        app.router.add_post(f"{ROOT}/SessionService/Sessions", self._log_in)
        app.router.add_delete(f"{ROOT}/SessionService/Sessions/{{number}}", self._log_out)
        app.router.add_get(f"{ROOT}/Systems", self._systems)
        app.router.add_get(f"{ROOT}/Systems/{{id}}", self._system)
        app.router.add_patch(f"{ROOT}/Systems/{{id}}", self._patch)
        app.router.add_get(f"{ROOT}/Systems/{{id}}/SD", self._system)
        app.router.add_patch(f"{ROOT}/Systems/{{id}}/SD", self._patch)
        app.router.add_post(f"{ROOT}/Systems/{{id}}/Actions/ComputerSystem.Reset", self._reset)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port, ssl_context=tls, backlog=1024)
        await site.start()
        bound = site._server.sockets[0].getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://{host}:{bound}"

    async def stop(self) -> None:
        """Break all connections and listen no more."""
        self._let_go()
        if self._runner is not None:
            await self._runner.cleanup()

    def let_go(self) -> None:
        """Drop the requests that silent machines hold. From any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._let_go)

    def _let_go(self) -> None:
        for held in self._held:
            if not held.done():
                held.set_result(None)

    # --- who may come in, and how they are treated ---

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path}")
        machine = self.get(request.match_info.get("id", ""))
        if machine is None and len(self) == 1:
            machine = next(iter(self.values()))  # a BMC of one machine is slow and silent as a whole
        denied = self._denied(request)
        if denied is not None:
            return denied
        if machine is not None:
            if machine.delay_s:
                await asyncio.sleep(machine.delay_s)
            if machine.silent:
                held = asyncio.get_running_loop().create_future()
                self._held.add(held)
                try:
                    await held
                finally:
                    self._held.discard(held)
                return self._dropped(request)
            if machine.busy > 0:
                machine.busy -= 1
                after = {} if machine.retry_after is None else {"Retry-After": str(machine.retry_after)}
                return _error(503, "Base.1.8.ServiceTemporarilyUnavailable", headers=after)
        answer: web.StreamResponse = await handler(request)
        if machine is not None and machine.drops > 0 and request.method != "DELETE":
            machine.drops -= 1
            return self._dropped(request)
        return answer

    def _dropped(self, request: web.Request) -> web.StreamResponse:
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=500)

    def _denied(self, request: web.Request) -> web.Response | None:
        path = request.path.rstrip("/")
        if path in ("/redfish", ROOT) or (path.endswith("/Sessions") and request.method == "POST"):
            return None
        users = {(one.user, one.password) for one in self.values() if one.user}
        if not users:
            return None
        token = request.headers.get("X-Auth-Token")
        if token is not None:
            return None if token in self.open else _error(401, "Base.1.8.NoValidSession")
        scheme, _, value = request.headers.get("Authorization", "").partition(" ")
        if scheme == "Basic":
            self.logins += 1
            user, _, password = base64.b64decode(value).decode().partition(":")
            if (user, password) in users:
                return None
        return _error(401, "Base.1.8.InsufficientPrivilege")

    async def _log_in(self, request: web.Request) -> web.Response:
        if not self.sessions:
            return _error(404, "Base.1.8.ResourceMissingAtURI")
        body = await request.json()
        self.logins += 1
        users = {(one.user, one.password) for one in self.values() if one.user}
        if users and (body.get("UserName"), body.get("Password")) not in users:
            return _error(401, "Base.1.8.ResourceAtUriUnauthorized")
        number, token = str(next(self._numbers)), secrets.token_hex(16)
        self.open[token] = number
        path = f"{ROOT}/SessionService/Sessions/{number}"
        return web.json_response(
            {"@odata.id": path, "Id": number, "Name": "Session", "UserName": body.get("UserName")},
            status=201,
            headers={"X-Auth-Token": token, "Location": path},
        )

    async def _log_out(self, request: web.Request) -> web.Response:
        self.open = {token: number for token, number in self.open.items() if number != request.match_info["number"]}
        return web.Response(status=204)

    # --- resources ---

    async def _versions(self, _request: web.Request) -> web.Response:
        return web.json_response({"v1": f"{ROOT}/"})

    async def _root(self, _request: web.Request) -> web.Response:
        document: dict[str, Any] = {
            "@odata.type": "#ServiceRoot.v1_5_0.ServiceRoot",
            "@odata.id": f"{ROOT}/",
            "Id": "RootService",
            "Name": "Root Service",
            "RedfishVersion": "1.6.0",
            "Systems": {"@odata.id": f"{ROOT}/Systems"},
        }
        if self.sessions:
            document["SessionService"] = {"@odata.id": f"{ROOT}/SessionService"}
            document["Links"] = {"Sessions": {"@odata.id": f"{ROOT}/SessionService/Sessions"}}
        return web.json_response(document)

    async def _session_service(self, _request: web.Request) -> web.Response:
        return web.json_response(
            {
                "@odata.id": f"{ROOT}/SessionService",
                "Id": "SessionService",
                "Name": "Session Service",
                "ServiceEnabled": True,
                "Sessions": {"@odata.id": f"{ROOT}/SessionService/Sessions"},
            }
        )

    async def _systems(self, _request: web.Request) -> web.Response:
        members = [{"@odata.id": f"{ROOT}/Systems/{name}"} for name in self]
        return web.json_response(
            {
                "@odata.type": "#ComputerSystemCollection.ComputerSystemCollection",
                "@odata.id": f"{ROOT}/Systems",
                "Name": "Computer System Collection",
                "Members": members,
                "Members@odata.count": len(members),
            }
        )

    async def _system(self, request: web.Request) -> web.Response:
        machine = self.get(request.match_info["id"])
        if machine is None:
            return _error(404, "Base.1.8.ResourceMissingAtURI")
        headers = {} if machine.etag else {"ETag": f'"{machine._version}"'}
        return web.json_response(self._document(machine), headers=headers)

    def _document(self, machine: Machine) -> dict[str, Any]:
        path = f"{ROOT}/Systems/{machine.id}"
        boot: dict[str, Any] = {
            "BootSourceOverrideTarget": machine.target,
            "BootSourceOverrideTarget@Redfish.AllowableValues": list(machine.targets),
            "BootSourceOverrideEnabled": machine.enabled,
        }
        if machine.mode is not None:
            boot["BootSourceOverrideMode"] = machine.mode
        return {
            "@odata.type": "#ComputerSystem.v1_10_0.ComputerSystem",
            "@odata.id": path,
            "@odata.etag": f'"{machine._version}"',
            "Id": machine.id,
            "Name": machine.id,
            "UUID": machine.uuid or None,
            "SerialNumber": machine.serial or None,
            "SKU": machine.sku or None,
            "Manufacturer": machine.manufacturer,
            "Model": machine.model,
            "PowerState": machine.read(),
            "Boot": boot,
            "Actions": {
                "#ComputerSystem.Reset": {
                    "target": f"{path}/Actions/ComputerSystem.Reset",
                    "ResetType@Redfish.AllowableValues": list(machine.resets),
                }
            },
        }

    async def _patch(self, request: web.Request) -> web.Response:
        machine = self[request.match_info["id"]]
        if machine.refusals:
            return _error(*machine.refusals.pop(0))
        if machine.settings and not request.path.endswith("/SD"):
            return _error(400, "Ami.1.0.OperationSupportedInFutureStateURI")
        match = request.headers.get("If-Match")
        if match is None and machine.etag:
            return _error(428, "Ami.1.0.PreconditionHeaderMissing")
        if match not in (None, "*", f'"{machine._version}"'):
            return _error(412, "Base.1.8.PreconditionFailed")
        boot = (await request.json()).get("Boot", {})
        mode = boot.get("BootSourceOverrideMode")
        if mode is not None and not machine.mode_writable:
            return _error(400, "Base.1.8.PropertyNotWritable")
        machine.patches.append(boot)
        if not machine.lies_about_boot:
            machine.target = boot.get("BootSourceOverrideTarget", machine.target)
            machine.enabled = boot.get("BootSourceOverrideEnabled", machine.enabled)
            machine.mode = mode or machine.mode
        machine._version += 1
        machine.done.append(f"boot {boot.get('BootSourceOverrideTarget')}")
        return web.Response(status=204)

    async def _reset(self, request: web.Request) -> web.Response:
        machine = self[request.match_info["id"]]
        kind = (await request.json()).get("ResetType")
        if machine.refusals:
            return _error(*machine.refusals.pop(0))
        if kind not in machine.resets:
            return _error(400, "Base.1.8.ActionParameterNotSupported")
        machine.reset(kind)
        return web.Response(status=204)


def _error(status: int, message: str, *, headers: dict[str, str] | None = None) -> web.Response:
    info = {"MessageId": message, "Message": f"The service says {message.rpartition('.')[2]}.", "Severity": "Warning"}
    body = {"error": {"code": "Base.1.8.GeneralError", "message": "A general error.", "@Message.ExtendedInfo": [info]}}
    return web.json_response(body, status=status, headers=headers)


@contextlib.contextmanager
def serving(
    machines: Iterable[Machine], *, tls: ssl.SSLContext | None = None, sessions: bool = True
) -> Iterator[RedfishService]:
    """Run a service in a thread, on a free port of 127.0.0.1."""
    service = RedfishService(machines, sessions=sessions)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="redfish", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(service.start(tls=tls), loop).result(30)
        yield service
    finally:
        asyncio.run_coroutine_threadsafe(service.stop(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()
