"""What bare metal costs the controller: `python -m tests.bench.fleet NAME ARG...` prints one measurement as JSON.

storm COUNT SECONDS      so many machines switched on within so many seconds, discovered and claimed
parts COUNT SECONDS      the same, one part after the other: what each costs
dhcp COUNT SECONDS       so many machines ask for addresses (needs root)
answer COUNT ASKS N       a boot answer after a change of one of so many machines, N of which ask in turn
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from orchestrator import identity, lifecycle
from orchestrator.lifecycle import Signal
from orchestrator.model import Boot, Phase
from orchestrator.store import Store, kinds
from tests.bench.measure import ROOT
from tests.bench.reaper import descendants
from tests.support.bootservice import Service, plain, until
from tests.support.fleet import Fleet, Running, launched
from tests.support.fleet_apply import Options, applying
from tests.support.fleet_cast import Character, cast
from tests.support.fleet_site import boot_settings, by_mac, write_metal_site

__all__ = ["MEASURES", "discover_all", "measured", "why_not_dhcp", "write_site"]

_LIMIT_S = 1800.0
_TICK = os.sysconf("SC_CLK_TCK")
_PATIENCE = {"boot_s": 900.0, "facts_s": 900.0}
_CLAIM = ("power", "discover", "match")
_CHUNK = 500
_APART_S = 0.11
"""Between two asks: a machine that asks again within a second is not noted again, which costs less; ten take turns."""


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


@contextlib.contextmanager
def _serving(folder: Path, prefix: tuple[str, ...] = (), **changes: Any) -> Iterator[tuple[Path, Service]]:
    site = folder / "inventories/fleet"
    site.mkdir(parents=True, exist_ok=True)
    service = Service(settings=boot_settings(site, folder, **changes), folder=folder, prefix=prefix)
    service.start()
    try:
        yield site, service
    finally:
        service.stop()


def _pid(service: Service) -> int:
    assert service.record is not None
    return service.record.pid


# --- a storm ------------------------------------------------------------------------------------------------------


def storm(count: str, within_s: str) -> dict[str, Any]:
    """CPU of boot service and apply for machines that come up within a time, and whether all of it went well."""
    with tempfile.TemporaryDirectory() as name, _serving(Path(name), new_per_minute=20_000) as (site, service):
        folder = Path(name)
        plot = Fleet(int(count), service.http, seed=1, within_s=float(within_s))
        write_metal_site(folder, by_mac(plot.cast))
        before = cpu_s(_pid(service))
        with launched(folder, plot) as fleet:
            options = Options(images=str(service.settings.images), roles=_CLAIM, patience=_PATIENCE)
            with applying(site, fleet.control, options) as apply:
                result = apply.result()
            used = cpu_s(_pid(service)) - before
            asleep = _asleep(service, fleet, float(within_s) / 2)
            return {
                "service_s": used,
                "apply_s": result["cpu_s"],
                "status": result["status"],
                "again": fleet.counts().get("tried again", 0),
                "refused": sum(len(each["refused"]) for each in fleet.state().values()),
                "idle_ms": asleep["service_ms"],
                "simulator_idle_ms": asleep["simulator_ms"],
                **_claimed(site, plot.cast),
            }


def _asleep(service: Service, fleet: Running, seconds: float) -> dict[str, float]:
    """Return the CPU of a machine that waits for orders, in ms per second, here and in the simulator."""
    began, here, there = time.monotonic(), cpu_s(_pid(service)), cpu_s(fleet.pid)
    time.sleep(seconds)
    each = 1000 / fleet.fleet.count / (time.monotonic() - began)
    return {"service_ms": (cpu_s(_pid(service)) - here) * each, "simulator_ms": (cpu_s(fleet.pid) - there) * each}


def _claimed(site: Path, players: tuple[Character, ...]) -> dict[str, Any]:
    with Store.open(site / ".halligan/state.db", create=False) as store:
        machines = {state.node: state for state in store.machines()}
        right = [machines[who.name].identity.uuid == who.uuid for who in players if who.name in machines]
        claimed = sum(state.phase is Phase.CLAIMED for state in machines.values())
        return {"claimed": claimed, "right": sum(right), "problems": store.check()}


def parts(count: str, within_s: str) -> dict[str, Any]:
    """CPU of the boot service for each part: what machines do is held up until all have come as far."""
    gates = ("script", "archive", "files", "enrol", "facts")
    total, spread = int(count), float(within_s)
    with tempfile.TemporaryDirectory() as name, _serving(Path(name), new_per_minute=20_000) as (_, service):
        plot = Fleet(total, service.http, seed=1, within_s=0.0, gates=dict.fromkeys(gates, spread))
        with launched(Path(name), plot) as fleet:
            found: dict[str, float] = {}
            for gate, then in zip(gates, ("at archive", "at files", "at enrol", "at facts", "full"), strict=True):
                _all(fleet, f"at {gate}")
                before = cpu_s(_pid(service))
                fleet.open(gate)
                _all(fleet, then)
                found[gate] = (cpu_s(_pid(service)) - before) / total * 1000
            return {f"{gate}_ms": value for gate, value in found.items()}


def _all(fleet: Running, what: str) -> None:
    until(lambda: fleet.counts().get(what, 0) >= fleet.fleet.count, f"all machines are {what}", _LIMIT_S)


# --- DHCP ---------------------------------------------------------------------------------------------------------


def why_not_dhcp() -> str:
    """Return why DHCP cannot be measured here, empty if it can."""
    if os.geteuid() != 0:
        return "only root can serve DHCP"
    missing = [tool for tool in ("dnsmasq", "ip", "unshare", "nsenter") if shutil.which(tool) is None]
    if missing or not Path("/usr/lib/ipxe/snponly.efi").exists():
        return f"not installed: {', '.join(missing) or 'ipxe'}"
    made = subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False)
    return "" if made.returncode == 0 else "network namespaces cannot be made here"


@contextlib.contextmanager
def _cable() -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Two network namespaces and a cable: return what runs a command in ours (10.98.0.1 on br0), and in theirs."""
    holders = [
        subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "unshare", "-n", "cat"], stdin=subprocess.PIPE)
        for _ in range(2)
    ]
    ours, theirs = (("nsenter", "-t", str(holder.pid), "-n") for holder in holders)
    try:
        own = Path("/proc/self/ns/net").readlink()
        for holder in holders:
            path = Path(f"/proc/{holder.pid}/ns/net")
            until(lambda path=path: path.readlink() != own, "the namespace is there")  # type: ignore[misc]
        peer = ("peer", "name", "eth0", "netns", str(holders[1].pid))
        for inside, command in (
            (ours, ("link", "set", "lo", "up")),
            (ours, ("link", "add", "br0", "type", "veth", *peer)),
            (ours, ("address", "add", "10.98.0.1/16", "dev", "br0")),
            (ours, ("link", "set", "br0", "up")),
            (theirs, ("link", "set", "eth0", "up")),
        ):
            subprocess.run([*inside, "ip", *command], check=True)
        yield ours, theirs
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()
            assert holder.stdin is not None
            holder.stdin.close()


def dhcp(count: str, within_s: str) -> dict[str, Any]:
    """CPU of dnsmasq and of the boot service that reads its log, for machines that ask three times each."""
    boot = Boot(dhcp="server", address="10.98.0.1", first="10.98.1.0", last="10.98.60.255", http_port=0, https_port=0)
    with (
        tempfile.TemporaryDirectory() as name,
        _cable() as (ours, theirs),
        _serving(Path(name), ours, boot=boot, network="10.98.0.0/16") as (site, service),
    ):
        [server] = [pid for pid in descendants(_pid(service)) if _comm(pid) == "dnsmasq"]
        before = cpu_s(server), cpu_s(_pid(service))
        command = [*theirs, sys.executable, "-m", "tests.bench.dhcp_clients", "eth0", count, within_s]
        asked = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=ROOT)
        told = json.loads(asked.stdout)
        store = site / ".halligan/state.db"
        until(lambda: _leased(store) == int(count), "they are on record", 120)
        return {
            **told,
            "dnsmasq_ms": (cpu_s(server) - before[0]) / int(count) * 1000,
            "service_ms": (cpu_s(_pid(service)) - before[1]) / int(count) * 1000,
        }


def _comm(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def _leased(path: Path) -> int:
    with Store.open(path, create=False) as store:
        seen = [event.data for event in store.events(kinds=(kinds.MACHINE_BOOT,))]
        return len({data["mac"] for data in seen if data["what"] == "dhcp" and "DHCPACK" in data["detail"]})


# --- one answer ---------------------------------------------------------------------------------------------------


def fill(path: Path, players: tuple[Character, ...]) -> list[str]:
    """Put machines into a store as if they had been discovered; return their ids."""
    ids = []
    with Store.open(path) as store:
        for start in range(0, len(players), _CHUNK):
            events, documents = [], {}
            for who in players[start : start + _CHUNK]:
                own = identity.make(uuid=who.uuid, serials=[who.serial], macs=[who.mac])
                document = who.facts("full", 0.0)
                digest = f"{who.number:064x}"
                facts = {"facts": digest, "level": "full", "identity": own}
                documents[digest] = document
                ids.append(identity.new_id(own))
                moved = lifecycle.move(None, Signal.FACTS, machine=ids[-1], **facts)
                events.append(kinds.machine_moved(moved, at=1.0, by="fleet"))
            store.append(events, facts=documents)
    return ids


def answer(count: str, asks: str, askers: str) -> dict[str, Any]:
    """CPU of the boot service for script and archive of a machine that was changed by somebody else just before.

    `askers` machines, spread evenly over the store, ask in turn.
    """
    players, times = cast(int(count), seed=1, templates=("qemu",)), int(asks)
    with tempfile.TemporaryDirectory() as name, _serving(Path(name)) as (site, service):
        ids = fill(site / ".halligan/state.db", players)
        assert service.record is not None
        with Store.open(site / ".halligan/state.db") as store:
            used = 0.0
            for number in range(-times // 10, times):  # the first ones warm up
                at = number % int(askers) * (len(players) // int(askers))
                _change(store, ids[at])
                who = players[at]
                query = urlencode({"mac": who.mac, "uuid": who.uuid, "serial": who.serial, "arch": "x86_64"})
                for path in ("/boot/script", "/boot/site.cpio"):
                    assert plain(service.record, f"{path}?{query}").status == 200
                if number == -1:
                    used = cpu_s(_pid(service))
                time.sleep(_APART_S)
            return {"ms": (cpu_s(_pid(service)) - used) / times * 1000}


def _change(store: Store, machine: str) -> None:
    state = store.machine(machine)
    signal = Signal.RELEASE if state and state.node else Signal.CLAIM
    node = {} if signal is Signal.RELEASE else {"node": f"of-{machine}"}
    store.append([kinds.machine_moved(lifecycle.move(state, signal, **node), at=2.0, by="bench")])


# --- a plan -------------------------------------------------------------------------------------------------------

_RULES = {"dell-r660": {"memory_gib": ">= 200", "disks": {"nvme": ">= 2"}}, "supermicro-6029": {"memory_gib": "< 200"}}


def write_site(folder: Path, count: int, kind: str) -> Path:
    """Write a site of so many bare-metal nodes, named by MAC ("mac") or chosen by one rule per template ("rule")."""
    if kind == "mac":
        return write_metal_site(folder, by_mac(_two(count), wired=False))
    counts = Counter(who.template for who in _two(count))
    nodes: dict[str, Any] = {}
    for at, (profile, rule) in enumerate(_RULES.items()):
        name = f"{profile.partition('-')[0]}-[00001:{counts[profile]:05}]"
        nodes[name] = {"groups": ["metal"], "address": f"10.20.{at * 100}.1", "profile": profile, "match": rule}
    return write_metal_site(folder, nodes)


def discover_all(site: Path, count: int) -> None:
    """Put all machines of a site that `write_site` wrote into its store."""
    fill(site / ".halligan/state.db", _two(count))


def _two(count: int) -> tuple[Character, ...]:
    return cast(count, seed=1, templates=tuple(_RULES))


# --- running ------------------------------------------------------------------------------------------------------

MEASURES: Mapping[str, Callable[..., dict[str, Any]]] = {
    "storm": storm,
    "parts": parts,
    "dhcp": dhcp,
    "answer": answer,
}


def measured(name: str, *arguments: object) -> dict[str, Any]:
    """Measure in a fresh process."""
    command = [sys.executable, "-m", "tests.bench.fleet", name, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    print(json.dumps(MEASURES[sys.argv[1]](*sys.argv[2:])))
