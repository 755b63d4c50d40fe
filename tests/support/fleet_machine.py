"""One machine of a fleet, from its power button on: firmware, iPXE, stage 1, the agent, and the system on its disk.

What it asks and tells goes over real HTTP, as `pxe/templates`, `pxe/discovery/stage1/init` and the agent do it: a
connection per request where iPXE has one, connections of their own for enrolment, facts, orders and progress.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import urlencode

import aiohttp
import yaml

from tests.support.bootservice import unpack_cpio
from tests.support.fleet_cast import Character, Fault
from tests.support.redfish_server import Machine as Bmc

__all__ = ["Pace", "Player", "Stage"]

_SLOW_S = 0.4
_PIECE = 64 * 1024
_IN_1999 = 930_000_000.0
_ARCH = {"uefi": ("x86_64", "efi"), "bios": ("i386", "pcbios")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long things take, in seconds: lowest, most likely and highest."""

    firmware: tuple[float, float, float] = (1.0, 2.0, 5.0)
    kernel: tuple[float, float, float] = (0.5, 1.0, 3.0)
    look: tuple[float, float, float] = (0.5, 1.0, 3.0)  # from the basic facts to the full ones
    install: tuple[float, float, float] = (2.0, 4.0, 8.0)
    report_s: float = 1.0  # between two reports of progress
    retry_s: tuple[float, float] = (0.2, 2.0)  # the first pause before another try, and the longest
    wait_s: float = 30.0  # of a long poll


class _RebootError(Exception):
    """The machine starts anew."""


class _RefusedError(Exception):
    """The boot service said no; a machine does not ask again."""


class Stage:
    """What all machines of a fleet share. In one event loop."""

    def __init__(self, boot_url: str, pace: Pace, seed: int, gates: Mapping[str, float], *, fetch: bool = True) -> None:
        """`gates` are phases that machines wait before, until `open`; then each waits up to so many seconds more."""
        self.boot_url, self.pace, self.seed, self.fetch = boot_url, pace, seed, fetch
        self.counts: Counter[str] = Counter()
        self.secrets: list[str] = []
        self.enrolled: dict[int, asyncio.Event] = {}
        self._gates = {name: (asyncio.Event(), spread_s) for name, spread_s in gates.items()}

    def open(self, gate: str) -> None:
        self._gates[gate][0].set()

    async def gate(self, name: str, dice: random.Random) -> None:
        if name in self._gates:
            event, spread_s = self._gates[name]
            self.counts[f"at {name}"] += 1
            await event.wait()
            await asyncio.sleep(dice.uniform(0, spread_s))
        self.counts[f"past {name}"] += 1


@dataclass
class Player:
    """A machine that does what its character says, while its BMC says that it is on."""

    who: Character
    stage: Stage
    bmc: Bmc
    original: Character | None = None
    phase: str = "off"
    id: str = ""
    disk: str = ""  # the image on it
    hostname: str = ""  # of the system on it
    boots: int = 0
    broken: bool = False
    orders: list[tuple[str, str]] = field(default_factory=list)
    unwanted: int = 0
    refused: list[tuple[str, int, str]] = field(default_factory=list)
    _life: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self._dice = random.Random(f"{self.stage.seed} {self.who.number}")
        self.bmc.on_power = lambda _bmc, _before, after: self.power(after)

    def state(self) -> dict[str, Any]:
        names = ("phase", "id", "disk", "boots", "orders", "unwanted", "refused")
        return {"name": self.who.name, "fault": str(self.who.fault), **{name: getattr(self, name) for name in names}}

    def power(self, state: str) -> None:
        """React to the power; the BMC has it noted already."""
        if self._life is not None:
            self._life.cancel()
        self._life = asyncio.get_running_loop().create_task(self._live()) if state == "On" else None
        self.phase = "firmware" if state == "On" else "off"

    async def end(self) -> None:
        if self._life is not None:
            self._life.cancel()
            await asyncio.gather(self._life, return_exceptions=True)

    # --- from power on --------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        if self.broken or self.who.fault is Fault.NEVER:
            self.phase = "silent"
            return
        if self.original is not None:
            await self.stage.enrolled.setdefault(self.original.number, asyncio.Event()).wait()
        while True:
            try:
                await self._start()
            except _RebootError:
                continue
            except _RefusedError:
                self.phase = "refused"
            return

    async def _start(self) -> None:
        self.boots += 1
        self.phase = "firmware"
        await self._pause(self.stage.pace.firmware)
        if self.bmc.booted() == "Hdd" and self.disk:
            self.phase = "system"
            return
        await self.stage.gate("script", self._dice)
        script = await self._plain(f"/boot/script?{urlencode(self._said())}", "script")
        if b"\nkernel " in script:
            self.phase = "discovery"
            await self._discovery(script.decode())
        elif b"nothing is started" in script:
            self.phase = "nothing"
        else:
            self.phase = "system" if self.disk else "no system"

    def _said(self) -> dict[str, str]:
        """Return what iPXE says of its machine."""
        own = self.who.identity(self.original)
        arch, platform = _ARCH[self.who.firmware]
        return {
            "mac": own["macs"][0],
            "uuid": own["uuid"],
            "serial": own["serials"][0],
            "arch": arch,
            "platform": platform,
            "manufacturer": "Fleet Inc.",
            "product": self.who.template,
        }

    async def _discovery(self, script: str) -> None:
        words = script.split()
        [archive] = [word for word in words if "/boot/site.cpio?" in word]
        await self.stage.gate("archive", self._dice)
        files = unpack_cpio(await self._plain(archive.removeprefix(self.stage.boot_url), "archive"))
        site = json.loads(files["etc/halligan/site.json"])
        self.stage.secrets.append(site["token"])
        await self.stage.gate("files", self._dice)
        if self.stage.fetch:
            for file in [word for word in words if "/files/discovery/" in word]:
                await self._plain(file.removeprefix(self.stage.boot_url), "file", piece=True)
            await self._plain(site["root"]["path"], "file", piece=True)
        await self._pause(self.stage.pace.kernel)
        await self._agent(site, files["etc/halligan/ca.pem"].decode())

    # --- the agent ------------------------------------------------------------------------------------------------

    async def _agent(self, site: Mapping[str, Any], ca: str) -> None:
        await self.stage.gate("enrol", self._dice)
        key = await self._enrol(site, ca)
        self.stage.enrolled.setdefault(self.who.number, asyncio.Event()).set()
        teller = asyncio.create_task(self._tell(site["server"], ca, key))
        try:
            await self._serve(site["server"], ca, key, teller)
        finally:
            teller.cancel()
            await asyncio.gather(teller, return_exceptions=True)

    async def _enrol(self, site: Mapping[str, Any], ca: str) -> str:
        own = self.who.identity(self.original)
        body = json.dumps(
            {
                "protocol": 1,
                "agent": "fleet",
                "identity": own,
                "boot": {"mac": own["macs"][0], "mode": self.who.firmware},
                "clock": self._clock(),
            }
        ).encode()
        async with _line(self, site["server"], site["token"], ca) as line:
            answer = await line.ask("POST", "/v1/enrol", body, "enrol")
            self.id = answer["machine"]
            self.stage.secrets.append(answer["credential"])
            if self.who.fault is Fault.REPLAY:
                with contextlib.suppress(_RefusedError):
                    await line.ask("POST", "/v1/enrol", body, "replay")
        return str(answer["credential"])

    async def _tell(self, server: str, ca: str, key: str) -> None:
        """Tell the basic facts, then the full ones. Who is refused goes on without."""
        await self.stage.gate("facts", self._dice)
        async with _line(self, server, key, ca) as line:
            try:
                for level in ("basic", "full"):
                    document = self.who.facts(level, self._clock(), self.original)
                    await line.ask("PUT", f"/v1/machines/{self.id}/facts?level={level}", document, level)
                    if level == "basic":
                        await self._pause(self.stage.pace.look)
            except _RefusedError:
                return

    async def _serve(self, server: str, ca: str, key: str, teller: asyncio.Task[None]) -> None:
        known: dict[str, bytes] = {}
        wait_s = self.stage.pace.wait_s
        async with _line(self, server, key, ca) as line:
            while True:
                order = await line.ask("GET", f"/v1/machines/{self.id}/task?wait={wait_s:g}", None, "poll")
                if not order:
                    continue
                task = str(order["id"])
                if task not in known:
                    self.orders.append((task, order["task"]))
                    await asyncio.wait([teller])  # the agent does nothing before it has looked at its disks
                    async with _line(self, server, key, ca) as reports:
                        result = await self._do(order, reports)
                    if result is None:
                        continue
                    known[task] = result
                else:
                    await asyncio.sleep(self.stage.pace.retry_s[0])
                await line.ask("POST", f"/v1/machines/{self.id}/tasks/{task}/result", known[task], "result")
                self._after(order["task"])

    def _after(self, task: str) -> None:
        if task == "reboot":
            raise _RebootError
        if task == "poweroff":
            self._lose_power()

    def _lose_power(self) -> None:
        self.bmc.power = "Off"
        self.power("Off")

    # --- orders ---------------------------------------------------------------------------------------------------

    async def _do(self, order: Mapping[str, Any], line: _Line) -> bytes | None:
        """Do a task; return its result, None if it is no longer wanted."""
        outputs: dict[str, Any] = {}
        problem = ""
        if order["task"] == "install":
            self.phase = "installing"
            if not await self._install(order, line):
                self.unwanted += 1
                self.phase = "discovery"
                return None
            image = order["args"]["image"]
            if self.who.fault is Fault.BAD_IMAGE:
                problem = f"the image {image['name']} is damaged: its SHA-256 is not {image['sha256']}"
            else:
                self.hostname = yaml.safe_load(order["args"]["seed"]["files"]["meta-data"])["local-hostname"]
                self.disk = f"{image['name']}@{image['sha256'][:12]}"
                outputs = {"host_keys": [self.who.host_key], "image": self.disk, "disk": order["args"]["disk"]["name"]}
            self.phase = "discovery"
        elif order["task"] == "erase":
            self.disk = ""
        failure = "image" if problem else ""
        told = {"ok": not problem, "outputs": outputs, "problem": problem, "failure": failure, "log": "fleet\n" * 20}
        return json.dumps(told).encode()

    async def _install(self, order: Mapping[str, Any], line: _Line) -> bool:
        """Pretend to write, and tell how far it is; False if nobody wants it any more."""
        pace = self.stage.pace
        low, mode, high = pace.install
        reports = max(2, round(self._dice.triangular(low, high, mode) / pace.report_s))
        if self.stage.fetch:
            await self._plain(order["args"]["image"]["path"], "image", piece=True)
        for number in range(reports + 1):
            percent = 100 * number // reports
            told = json.dumps({"step": "write", "percent": percent, "message": ""}).encode()
            path = f"/v1/machines/{self.id}/tasks/{order['id']}/progress"
            if await line.ask("POST", path, told, "progress") == {"unwanted": True}:
                return False
            if percent >= 50:
                await self._stumble()
            await asyncio.sleep(pace.report_s)
        return True

    async def _stumble(self) -> None:
        """Do in the middle of an install what a bad machine does."""
        installs = sum(task == "install" for _, task in self.orders)
        match self.who.fault:
            case Fault.HANGS if installs == 1:
                self.phase = "silent"
                await asyncio.Event().wait()
            case Fault.DEAD:
                self.broken = True
                self._lose_power()
                await asyncio.Event().wait()
            case Fault.REBOOTS if installs == 1:
                raise _RebootError
            case Fault.LOOPS:
                raise _RebootError

    # --- parts ----------------------------------------------------------------------------------------------------

    def _clock(self) -> float:
        return _IN_1999 if self.who.fault is Fault.SKEWED else time.time()

    async def _pause(self, times: tuple[float, float, float]) -> None:
        low, mode, high = times
        await asyncio.sleep(self._dice.triangular(low, high, mode))

    async def stutter(self) -> None:
        if self.who.fault is Fault.SLOW:
            await asyncio.sleep(self._dice.uniform(0, 2 * _SLOW_S))

    async def _plain(self, path: str, what: str, *, piece: bool = False) -> bytes:
        headers = {"Range": f"bytes=0-{_PIECE - 1}"} if piece else {}
        async with _line(self, self.stage.boot_url, "", "", once=True) as line:
            return await line.fetch(path, what, headers)

    async def again(self, attempt: Callable[[], Any], what: str) -> Any:
        """Try until it was answered, with longer and longer pauses; count what had to be tried again."""
        pause, most = self.stage.pace.retry_s
        while True:
            await self.stutter()
            try:
                return await attempt()
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                self.stage.counts["tried again"] += 1
                self.stage.counts[f"lost {what}: {type(error).__name__}"] += 1
                await asyncio.sleep(pause * self._dice.uniform(0.5, 1.0))
                pause = min(most, pause * 2)


@dataclass
class _Line:
    """A connection of a machine to the boot service."""

    player: Player
    session: aiohttp.ClientSession
    base: str
    key: str

    async def ask(self, method: str, path: str, body: bytes | None, what: str) -> dict[str, Any]:
        """Return the answer's JSON, empty for none; raises _RefusedError."""
        headers = {"Authorization": f"Bearer {self.key}"}

        async def attempt() -> tuple[int, bytes]:
            data = _drops(body) if body and self.player.who.fault is Fault.SLOW else body
            async with self.session.request(method, self.base + path, data=data, headers=headers) as answer:
                return _checked(answer.status), await answer.read()

        self.player.stage.counts[what] += 1
        status, answer = await self.player.again(attempt, what)
        if status == 410:
            return {"unwanted": True}
        if status >= 400:
            self.player.refused.append((what, status, str(json.loads(answer).get("error", ""))))
            self.player.stage.counts[f"refused {what}"] += 1
            raise _RefusedError
        found: dict[str, Any] = json.loads(answer) if answer else {}
        return found

    async def fetch(self, path: str, what: str, headers: Mapping[str, str]) -> bytes:
        async def attempt() -> tuple[int, bytes]:
            async with self.session.get(self.base + path, headers=headers) as answer:
                return _checked(answer.status), await answer.read()

        self.player.stage.counts[what] += 1
        status, answer = await self.player.again(attempt, what)
        if status >= 400:
            self.player.refused.append((what, status, str(json.loads(answer).get("error", ""))))
            raise _RefusedError
        return bytes(answer)


def _checked(status: int) -> int:
    if status >= 500:
        raise aiohttp.ClientError(f"HTTP {status}")
    return status


async def _drops(body: bytes) -> AsyncIterator[bytes]:
    """Yield a body as a bad cable lets it through."""
    size = len(body) // 4 + 1
    for at in range(0, len(body), size):
        await asyncio.sleep(_SLOW_S / 4)
        yield body[at : at + size]


@contextlib.asynccontextmanager
async def _line(player: Player, base: str, key: str, ca: str, *, once: bool = False) -> AsyncIterator[_Line]:
    connector = aiohttp.TCPConnector(limit=1, force_close=once, ssl=_trusting(ca) if ca else True)
    limit = aiohttp.ClientTimeout(total=player.stage.pace.wait_s + 60)
    async with aiohttp.ClientSession(connector=connector, timeout=limit) as session:
        yield _Line(player=player, session=session, base=base, key=key)


@cache
def _trusting(ca: str) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=ca)
