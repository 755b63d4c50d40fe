"""A fleet: thousands of machines and their BMCs in one process, over real HTTP. DHCP is not part of it.

    with launched(folder, Fleet(200, boot_url, seed=1, faults={"slow": 0.1}, fates={7: "never"})) as fleet:
        fleet.bmc("kvm-00007") # http://127.0.0.1:PORT/redfish/v1/Systems/kvm-00007
        fleet.state()          # what every machine is at, what it was ordered and refused

A machine does something when its BMC, or the fleet itself (`within_s`), switches it on. What it does is in
`fleet_machine.py`, who it is in `fleet_cast.py`. `python -m tests.support.fleet` reads a `Fleet` as JSON from standard
input and prints where it listens; it ends with its standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import resource
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.support.fleet_cast import CLONES, TEMPLATES, Character, Fault, cast
from tests.support.fleet_machine import Pace, Player, Stage
from tests.support.redfish_server import Machine as Bmc
from tests.support.redfish_server import RedfishService

__all__ = ["BMC_PASSWORD", "BMC_USER", "Fleet", "Pace", "Running", "launched"]

ROOT = Path(__file__).resolve().parents[2]
BMC_USER, BMC_PASSWORD = "operator", "of-the-bmc"
_START_S = 60.0


@dataclass(frozen=True)
class Fleet:
    """What is played. `faults` are probabilities by fault, `fates` faults by machine; all dice come from `seed`.

    `within_s`: the fleet itself switches every machine on, within so many seconds; otherwise only BMCs do. `gates`:
    phases (script, archive, files, enrol, facts) that machines wait before until they are opened, and over how many
    seconds they then go on. `fetch`: whether the first pieces of kernel, initrd, root and image are loaded, too.
    """

    count: int
    boot_url: str
    seed: int = 0
    faults: Mapping[str, float] = field(default_factory=dict)
    fates: Mapping[int, str] = field(default_factory=dict)
    templates: tuple[str, ...] = TEMPLATES
    pace: Pace = field(default_factory=Pace)
    within_s: float | None = None
    gates: Mapping[str, float] = field(default_factory=dict)
    fetch: bool = True
    passwords: bool = False  # BMCs want BMC_USER and BMC_PASSWORD

    @cached_property
    def cast(self) -> tuple[Character, ...]:
        return cast(self.count, seed=self.seed, faults=self.faults, fates=self.fates, templates=self.templates)

    def dumps(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> Fleet:
        told = json.loads(text)
        pace: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in told["pace"].items()
        }
        fates = {int(number): fault for number, fault in told["fates"].items()}
        return cls(**{**told, "pace": Pace(**pace), "fates": fates, "templates": tuple(told["templates"])})


# --- the process --------------------------------------------------------------------------------------------------


class _Playing:
    """The machines, their BMCs and what asks about them."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.stage = Stage(fleet.boot_url, fleet.pace, fleet.seed, fleet.gates, fetch=fleet.fetch)
        everybody = fleet.cast
        self.players = {
            who.name: Player(
                who=who,
                stage=self.stage,
                bmc=_bmc(who, passwords=fleet.passwords),
                original=everybody[who.original - 1] if who.fault in CLONES else None,
            )
            for who in everybody
        }
        strange = [player.bmc for player in self.players.values() if player.who.fault is Fault.DENIED]
        self.bmcs = RedfishService(player.bmc for player in self.players.values() if player.bmc not in strange)
        self.strangers = RedfishService(strange)  # a service takes the passwords of all of its machines
        self.switching: asyncio.Task[None] | None = None

    def control(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/state", self._state)
        app.router.add_get("/counts", self._counts)
        app.router.add_get("/secrets", self._secrets)
        app.router.add_get("/login/{name}", self._login)
        app.router.add_post("/open/{gate}", self._open)
        app.router.add_post("/on", self._on)
        return app

    async def _state(self, _request: web.Request) -> web.Response:
        return web.json_response([player.state() for player in self.players.values()])

    async def _counts(self, _request: web.Request) -> web.Response:
        return web.json_response(self.stage.counts)

    async def _secrets(self, _request: web.Request) -> web.Response:
        return web.json_response(self.stage.secrets)

    async def _login(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        for player in self.players.values():
            if player.hostname == name and player.phase == "system":
                return web.Response(text=player.who.host_key)
        return web.Response(status=503, text=f"{name} does not answer")

    async def _open(self, request: web.Request) -> web.Response:
        self.stage.open(request.match_info["gate"])
        return web.Response()

    async def _on(self, request: web.Request) -> web.Response:
        await self.switch_on(float(request.query.get("within_s", "0")))
        return web.Response()

    async def switch_on(self, within_s: float) -> None:
        """Switch every machine on within a time, each at a moment that the seed says."""
        dice = random.Random(f"power {self.fleet.seed}")
        moments = sorted((dice.uniform(0, within_s), name) for name in self.players)
        began = time.monotonic()
        for moment, name in moments:
            await asyncio.sleep(max(0.0, began + moment - time.monotonic()))
            if self.players[name].bmc.power == "Off":
                self.players[name].bmc.reset("On")


def _bmc(who: Character, *, passwords: bool) -> Bmc:
    password = "of-somebody-else" if who.fault is Fault.DENIED else BMC_PASSWORD
    return Bmc(
        id=who.name,
        user=BMC_USER if passwords else "",
        password=password if passwords else "",
        uuid=who.uuid,
        serial=who.serial,
        silent=who.fault is Fault.MUTE,
    )


async def _play(fleet: Fleet) -> None:
    playing = _Playing(fleet)
    runner = web.AppRunner(playing.control(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    await playing.bmcs.start()
    await playing.strangers.start()
    host, port = runner.addresses[0][:2]
    bmcs = {"redfish": playing.bmcs.url, "strangers": playing.strangers.url}
    print(json.dumps({"control": f"http://{host}:{port}", **bmcs}), flush=True)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def wait() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(stop.set)

    threading.Thread(target=wait, daemon=True).start()
    switching = asyncio.create_task(playing.switch_on(fleet.within_s)) if fleet.within_s is not None else None
    await stop.wait()
    if switching is not None:
        switching.cancel()
    await asyncio.gather(*(player.end() for player in playing.players.values()))
    await playing.bmcs.stop()
    await playing.strangers.stop()
    await runner.cleanup()


def main() -> None:
    """Play what the first line of standard input says, until it ends."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(_play(Fleet.loads(sys.stdin.readline())))


# --- who uses it --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A fleet that plays in another process."""

    fleet: Fleet
    pid: int
    control: str
    redfish: str
    strangers: str

    def bmc(self, name: str) -> str:
        """Return the address of a machine's BMC."""
        denied = self.fleet.cast[int(name.rpartition("-")[2]) - 1].fault is Fault.DENIED
        return f"{self.strangers if denied else self.redfish}/redfish/v1/Systems/{name}"

    def state(self) -> dict[str, dict[str, Any]]:
        """Return by name what each machine is at: phase, boots, disk, orders as (id, task), refused, unwanted."""
        return {each["name"]: each for each in self._get("/state")}

    def counts(self) -> dict[str, int]:
        """Return how many requests of each kind were made, and what was lost or refused."""
        found: dict[str, int] = self._get("/counts")
        return found

    def secrets(self) -> list[str]:
        """Return every token and credential that a machine was given."""
        found: list[str] = self._get("/secrets")
        return found

    def open(self, gate: str) -> None:
        self._post(f"/open/{gate}")

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(self.control + path, timeout=_START_S) as answer:
            return json.loads(answer.read())

    def _post(self, path: str) -> None:
        with urllib.request.urlopen(urllib.request.Request(self.control + path, method="POST"), timeout=_START_S):
            pass


@contextlib.contextmanager
def launched(folder: Path, fleet: Fleet) -> Iterator[Running]:
    """Play a fleet in a process of its own while the context is open; what it complains of is an error at the end."""
    log = folder / "fleet.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "tests.support.fleet"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=ROOT,
            env=dict(os.environ),
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(fleet.dumps().encode() + b"\n")
        process.stdin.flush()
        line = process.stdout.readline()
        assert line, log.read_text()
        yield Running(fleet=fleet, pid=process.pid, **json.loads(line))
    finally:
        process.stdin.close()
        try:
            process.wait(_START_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
    assert log.read_text() == "", log.read_text()[-4000:]


def logged_in(control: str, name: str) -> str:
    """Log in to a machine's system, as far as that goes here: return its host key. Raises OSError."""
    try:
        with urllib.request.urlopen(f"{control}/login/{name}", timeout=_START_S) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            raise OSError(error.read().decode()) from None


if __name__ == "__main__":
    main()
