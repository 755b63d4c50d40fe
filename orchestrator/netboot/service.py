"""The boot service over HTTP: plain for what firmware can do, TLS for the agent; both in one loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import json
import logging
import os
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler

from orchestrator.boot import (
    LOADERS,
    Artefact,
    BootSettings,
    DiscoveryImage,
    Request,
    Templates,
    script,
    site_cpio,
    site_files,
    start,
)
from orchestrator.errors import HalliganError, StoreError
from orchestrator.facts import MOST_BYTES
from orchestrator.images import discovery
from orchestrator.model import Json
from orchestrator.netboot import tls
from orchestrator.netboot.commits import Commits
from orchestrator.netboot.limits import Once
from orchestrator.netboot.machines import POLL_S, DeniedError, Machines
from orchestrator.netboot.polls import Polls
from orchestrator.netboot.settings import Settings
from orchestrator.netboot.tokens import Tokens
from orchestrator.store import kinds
from orchestrator.store.store import Store

__all__ = ["BootService", "read_templates", "serving"]

_LOG = logging.getLogger("halligan.boot")
_HTTP_LOG = logging.getLogger("halligan.boot.http")
_BACKLOG = 4096
_IDLE_S = 75.0  # of a connection without a whole request: slow headers, or keep-alive
_BODY_S = 60.0
_MOST_BODY = 64 * 1024
_MOST_RESULT = 512 * 1024  # its log has 64 KiB, which JSON may write as six bytes per character
_MOST_ADDRESSES = 20_000
_RENEW_S = 12 * 3600.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+@-]{0,200}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What every answer is made of: it changes only with a restart."""

    settings: Settings
    templates: Templates
    boot: BootSettings
    image: discovery.Discovery | None
    server: str
    http: str
    ca: str


class BootService:
    """The handlers. `apps` are two: what plain HTTP has, and what TLS has."""

    def __init__(self, site: Site, machines: Machines, polls: Polls, store: Store) -> None:
        self._site = site
        self._machines = machines
        self._polls = polls
        self._store = store
        self._macs: dict[str, str] = {}  # address -> MAC of who asked for its script from there last
        self._fetched = Once(60, time.monotonic)

    def plain(self) -> web.Application:
        app = self._app()
        app.router.add_get("/boot/script", self._script, allow_head=False)
        app.router.add_get("/boot/site.cpio", self._archive, allow_head=False)
        return app

    def secure(self) -> web.Application:
        app = self._app()
        app.router.add_post("/v1/enrol", self._enrol)
        app.router.add_put("/v1/machines/{machine}/facts", self._facts)
        app.router.add_get("/v1/machines/{machine}/task", self._task, allow_head=False)
        app.router.add_post("/v1/machines/{machine}/tasks/{task}/progress", self._progress)
        app.router.add_post("/v1/machines/{machine}/tasks/{task}/result", self._result)
        return app

    def _app(self) -> web.Application:
        """What both have. An ironic-python-agent does not know our authority, so it may come without TLS."""
        app = web.Application(middlewares=[_errors])
        app.on_response_prepare.append(_nameless)
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/files/{folder}/{name}", self._file)
        app.router.add_post("/v1/inspect", self._inspect)
        return app

    # --- plain HTTP -----------------------------------------------------------------------------------------------

    async def _script(self, request: web.Request) -> web.Response:
        if not request.query:
            return web.Response(text=start(self._site.boot, self._site.templates))
        asked = Request.parse(request.query)
        decision = await self._machines.boot(asked, _by(request))
        self._remember(_by(request), asked.mac)
        _LOG.info("script for %s at %s: %s, %s", asked.mac, _by(request), decision.answer, decision.reason)
        return web.Response(text=script(decision, self._site.boot, self._site.templates))

    async def _archive(self, request: web.Request) -> web.Response:
        asked = Request.parse(request.query)
        image = self._site.image
        if image is None:
            raise DeniedError(404, "this site has no discovery image", hint="`halligan image build discovery` makes it")
        token, mode = await self._machines.token(asked)
        self._remember(_by(request), asked.mac)
        await self._fetches(_by(request), "site.cpio")
        files = site_files(
            server=self._site.server,
            files=self._site.http,
            root=Artefact(path="/files/discovery/root.squashfs", sha256=image.root.sha256, size=image.root.size),
            token=token,
            ca=self._site.ca,
            mode=mode,
            authorized_keys=self._site.settings.rescue_keys,
        )
        return web.Response(
            body=site_cpio(files), content_type="application/octet-stream", headers={"Cache-Control": "no-store"}
        )

    async def _file(self, request: web.Request) -> web.StreamResponse:
        path = self._path(request.match_info["folder"], request.match_info["name"])
        if path is None or not path.is_file():
            raise DeniedError(404, f"there is no {request.path[:200]} here")
        if request.method == "GET":
            await self._fetches(_by(request), path.name)
        return web.FileResponse(path, chunk_size=1 << 20)

    def _remember(self, address: str, mac: str) -> None:
        self._macs.pop(address, None)
        self._macs[address] = mac
        if len(self._macs) > _MOST_ADDRESSES:
            del self._macs[next(iter(self._macs))]

    async def _fetches(self, address: str, name: str) -> None:
        """Note that a machine fetches a file, whole or in parts: one line of its trace. It gets the file anyway."""
        mac = self._macs.get(address, "")
        if mac and self._fetched.allow(f"{mac} {name}"):
            try:
                await self._machines.seen([(mac, "file", f"{name} to {address}")])
            except HalliganError as error:
                _LOG.error("cannot note that %s fetches %s: %s", mac, name, error.summary)

    def _path(self, folder: str, name: str) -> Path | None:
        """Return where a file is: a few names we know, or a plain file of the folder of images."""
        image, settings = self._site.image, self._site.settings
        if folder == "discovery" and image is not None:
            return {file.path.name: file.path for file in (image.kernel, image.initrd, image.root)}.get(name)
        if folder == "loaders" and name in LOADERS.values():
            return settings.loaders / name
        if folder == "images" and settings.images is not None and _NAME.fullmatch(name):
            path = (settings.images / name).resolve()
            return path if path.parent == settings.images.resolve() else None
        return None

    async def _health(self, _request: web.Request) -> web.Response:
        last = await asyncio.to_thread(self._store.last_seq)
        return _json({"ok": True, "site": self._site.settings.site, "waiting": len(self._polls), "events": last})

    async def _inspect(self, request: web.Request) -> web.Response:
        machine = await self._machines.inspect(await _body(request, MOST_BYTES), _by(request))
        _LOG.info("facts of %s from an ironic-python-agent at %s", machine, _by(request))
        return _json({"uuid": machine})

    # --- the agent's API ------------------------------------------------------------------------------------------

    async def _enrol(self, request: web.Request) -> web.Response:
        body = _object(await _body(request, _MOST_BODY))
        enrolled = await self._machines.enrol(_bearer(request), body, _by(request))
        _LOG.info("%s enrolled from %s", enrolled.machine, _by(request))
        return _json(
            {
                "machine": enrolled.machine,
                "credential": enrolled.credential,
                "poll_s": POLL_S,
                "now": time.time(),
                "mode": enrolled.mode,
            }
        )

    async def _facts(self, request: web.Request) -> web.Response:
        machine, credential = await self._who(request)
        level = request.query.get("level", "")
        try:
            document = await _body(request, MOST_BYTES)
            await self._machines.facts(machine, credential, document, level, _by(request))
        except DeniedError as error:
            await self._machines.refused_facts(machine, error.summary, _by(request))
            raise
        _LOG.info("%s facts of %s from %s", level or "full", machine, _by(request))
        return web.Response(status=204)

    async def _task(self, request: web.Request) -> web.Response:
        machine, credential = request.match_info["machine"], _bearer(request)
        order = await self._machines.task(machine, credential, _seconds(request.query.get("wait", "0")))
        if order is None:
            return web.Response(status=204)
        return _json({"id": order.id, "task": order.task, "args": dict(order.args)})

    async def _progress(self, request: web.Request) -> web.Response:
        machine, credential = await self._who(request)
        body = _object(await _body(request, _MOST_BODY))
        wanted = await self._machines.progress(machine, credential, request.match_info["task"], body, _by(request))
        if not wanted:
            raise DeniedError(410, "this task is no longer wanted")
        return web.Response(status=204)

    async def _result(self, request: web.Request) -> web.Response:
        machine, credential = await self._who(request)
        body = _object(await _body(request, _MOST_RESULT))
        await self._machines.result(machine, credential, request.match_info["task"], body, _by(request))
        return web.Response(status=204)

    async def _who(self, request: web.Request) -> tuple[str, str]:
        """Return machine and credential. Who may not send a body is told so before it is read."""
        machine, credential = request.match_info["machine"], _bearer(request)
        await self._machines.authenticate(machine, credential)
        return machine, credential


class _Strangers(logging.Filter):
    """What is wrong with a stranger's request, or that he hung up, is one line and no trace: it is no bug of ours."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError | ConnectionError | web.RequestPayloadError):
            said = " ".join(str(error).split())[:200]
            record.msg, record.args = f"{record.getMessage()}: {type(error).__name__}: {said}", ()
            record.exc_info, record.levelno, record.levelname = None, logging.INFO, "INFO"
        return True


_HTTP_LOG.addFilter(_Strangers())


async def _nameless(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "halligan"  # versions are nobody's business


# --- requests and answers -----------------------------------------------------------------------------------------


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn what went wrong into an answer; a bug of ours shows its trace in the log and nowhere else."""
    try:
        return await handler(request)
    except HalliganError as error:
        return _refusal(request, error)
    except web.HTTPException as error:
        return error if error.status < 400 else _problem(error.status, f"{request.path[:200]}: {error.reason}")
    except (web.RequestPayloadError, HttpProcessingError):
        return _problem(400, "the body is cut off, or not encoded as its header says")
    except TimeoutError:
        return _problem(408, "the request did not come in time")
    except (ConnectionError, asyncio.CancelledError):
        raise
    except Exception:
        _LOG.exception("%s %s failed", request.method, request.path[:200])
        return _problem(500, "the boot service failed; its log says where", retry=5)


def _refusal(request: web.Request, error: HalliganError) -> web.Response:
    if isinstance(error, StoreError):
        _LOG.error("%s", error)
        return _problem(503, error.summary, error.hint, 5)
    status, retry_s = (error.status, error.retry_s) if isinstance(error, DeniedError) else (400, 0)
    if status != 410:
        said = error.summary
        _LOG.warning("%s %s from %s: %d, %s", request.method, request.path[:200], _by(request), status, said)
    return _problem(status, error.summary, error.hint, retry_s)


def _problem(status: int, error: str, hint: str = "", retry: int = 0) -> web.Response:
    response = _json({"error": error, "hint": hint}, status)
    if retry:
        response.headers["Retry-After"] = str(retry)
    if status in (400, 408, 413):
        response.force_close()  # the rest of the body is not read
    return response


def _json(document: Mapping[str, Json], status: int = 200) -> web.Response:
    return web.Response(
        status=status,
        text=json.dumps(document),
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


async def _body(request: web.Request, most: int) -> bytes:
    """Read a body, and stop when it is too large (413) or too slow (408)."""
    too_large = DeniedError(413, f"the body of this request may have {most} bytes", hint="send less")
    if (request.content_length or 0) > most:
        raise too_large
    parts: list[bytes] = []
    size = 0
    async with asyncio.timeout(_BODY_S):
        async for part in request.content.iter_any():
            size += len(part)
            if size > most:
                raise too_large
            parts.append(part)
    return b"".join(parts)


def _object(body: bytes) -> Mapping[str, Json]:
    try:
        found = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise DeniedError(400, "the body is no JSON") from None
    if not isinstance(found, dict):
        raise DeniedError(400, "the body must be a JSON object")
    return found


def _bearer(request: web.Request) -> str:
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret.isascii():
        raise DeniedError(401, "this needs the header `Authorization: Bearer ...`")
    return secret.strip()


def _seconds(text: str) -> float:
    return float(text) if re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,3})?", text) else 0.0


def _by(request: web.Request) -> str:
    return request.remote or "?"


# --- running ------------------------------------------------------------------------------------------------------


def read_templates(folder: Path) -> Templates:
    """Read the boot templates of a folder."""
    try:
        texts = {path.name: path.read_text() for path in sorted(folder.glob("*.j2"))}
    except OSError as error:
        raise HalliganError(f"cannot read the boot templates in {folder}: {error.strerror}") from error
    if not texts:
        raise HalliganError(f"there are no boot templates in {folder}", hint="they are in pxe/templates")
    return Templates(texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """A boot service that answers: where, with what templates, and what notes observations."""

    http: str
    http_port: int
    https_port: int
    templates: Templates
    machines: Machines


@asynccontextmanager
async def serving(settings: Settings, clock: Callable[[], float] = time.time) -> AsyncIterator[Serving]:
    """Serve while the context is open. Ends politely: what was accepted is committed first.

    Raises:
        HalliganError: a port is taken, the address is not ours, a file is missing or damaged, the store cannot be read.
    """
    async with contextlib.AsyncExitStack() as stack:
        http = stack.enter_context(_listen(settings, settings.boot.http_port))
        https = stack.enter_context(_listen(settings, settings.boot.https_port))
        ports = http.getsockname()[1], https.getsockname()[1]
        certificates = tls.ensure(settings.state_dir, [settings.boot.address], now=clock())
        site = _site(settings, *ports, certificates.ca.read_text())
        store = stack.enter_context(Store.open(settings.store))
        tokens = Tokens(settings.state_dir, now=clock())
        commits = Commits(store, tokens.keep)
        stack.push_async_callback(commits.close)
        polls = Polls()
        machines = Machines(settings, store, commits, tokens, polls, clock)
        stack.callback(machines.close)
        service = BootService(site, machines, polls, store)
        context = _context(certificates)
        tasks = [
            _watch(polls, store),
            _renew(settings, context, clock),
        ]
        for task in tasks:
            stack.push_async_callback(_stopped, asyncio.create_task(task))
        for app, listener, secure in ((service.plain(), http, None), (service.secure(), https, context)):
            runner = web.AppRunner(
                app, access_log=None, logger=_HTTP_LOG, keepalive_timeout=_IDLE_S, shutdown_timeout=5
            )
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.SockSite(runner, listener, ssl_context=secure, backlog=_BACKLOG).start()
        stack.callback(polls.end_all)
        yield Serving(
            http=site.http, http_port=ports[0], https_port=ports[1], templates=site.templates, machines=machines
        )


def _site(settings: Settings, http_port: int, https_port: int, ca: str) -> Site:
    host = settings.boot.address
    host = f"[{host}]" if ":" in host else host
    http = f"http://{host}:{http_port}"
    image = discovery.load(settings.discovery) if settings.discovery else None
    images = {}
    if image is not None:
        kernel, initrd = (f"/files/discovery/{file.path.name}" for file in (image.kernel, image.initrd))
        images["amd64"] = DiscoveryImage(kernel=kernel, initrd=initrd)
    return Site(
        settings=replace(settings, boot=replace(settings.boot, http_port=http_port, https_port=https_port)),
        templates=read_templates(settings.templates),
        boot=BootSettings(http=http, images=images),
        image=image,
        server=f"https://{host}:{https_port}",
        http=http,
        ca=ca,
    )


@contextlib.contextmanager
def _listen(settings: Settings, port: int) -> Iterator[socket.socket]:
    address = settings.boot.address
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
    except ValueError:
        raise HalliganError(f"boot.address {address!r} is not an IP address") from None
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, port))
            listener.listen(_BACKLOG)
        except OSError as error:
            raise _bind_error(address, port, error) from None
        listener.setblocking(False)
        yield listener


def _bind_error(address: str, port: int, error: OSError) -> HalliganError:
    what = f"cannot serve on {address} port {port}"
    if error.errno == errno.EADDRINUSE:
        return HalliganError(
            f"{what}: another program has it",
            hint=f"`ss -ltnp 'sport = {port}'` shows which; or choose other ports in the spec's `boot:`",
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return HalliganError(
            f"{what}: no interface of this machine has that address",
            hint="give the interface in the boot network this address, or correct boot.address",
        )
    if error.errno == errno.EACCES:
        return HalliganError(
            f"{what}: ports below 1024 are for root", hint="start it with sudo, or choose a higher port"
        )
    return HalliganError(f"{what}: {os.strerror(error.errno or 0)}")


def _context(certificates: tls.Certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificates.cert, certificates.key)
    return context


async def _renew(settings: Settings, context: ssl.SSLContext, clock: Callable[[], float]) -> None:
    """A service that runs for a year needs another certificate: new connections get it, nobody is cut off."""
    while True:
        await asyncio.sleep(_RENEW_S)
        try:
            found = await asyncio.to_thread(tls.ensure, settings.state_dir, [settings.boot.address], now=clock())
            context.load_cert_chain(found.cert, found.key)
        except (HalliganError, OSError) as error:
            _LOG.error("cannot renew the certificate: %s", error)


async def _watch(polls: Polls, store: Store) -> None:
    await polls.watch(store.last_seq, lambda after: list(store.events(after=after, kinds=(kinds.MACHINE_MOVED,))))


async def _stopped(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
