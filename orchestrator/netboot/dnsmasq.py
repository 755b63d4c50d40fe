"""dnsmasq under our supervision: DHCP (or proxyDHCP) and TFTP for the boot network.

It dies with us, however we die: a shell in a process namespace of its own is its parent, and the kernel ends the
namespace with the shell, and the shell with us. (A parent-death signal alone is lost when dnsmasq changes its user.)
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import shutil
import subprocess
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from orchestrator.boot import LOADERS, DhcpSettings, Templates, dnsmasq
from orchestrator.errors import HalliganError, StoreError
from orchestrator.netboot import probe
from orchestrator.netboot.limits import Once, Rate
from orchestrator.netboot.settings import Settings
from orchestrator.netboot.sightings import Sighting, Sightings

__all__ = ["Note", "dhcp", "interface_of"]

Note: TypeAlias = tuple[str, str, str]
"""MAC (or empty), what was seen, detail."""

_LOG = logging.getLogger("halligan.boot")
_START_S = 15.0
_BACK_OFF_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
_STEADY_S = 60.0
_FLUSH_S = 0.25
_MOST_NOTES = 2000
_RUN = Path("/run")
_HINTS = (
    ("Address already in use", "another DHCP server runs on this machine: `ss -lunp 'sport = 67'` shows which"),
    ("Permission denied", "only root can serve DHCP and TFTP: start the boot service with sudo"),
    ("Operation not permitted", "only root can serve DHCP and TFTP: start the boot service with sudo"),
    ("unknown interface", "`ip -br address` lists the interfaces; set boot.interface to the one in the boot network"),
)


@asynccontextmanager
async def dhcp(
    settings: Settings, templates: Templates, http: str, note: Callable[[Sequence[Note]], Awaitable[None]]
) -> AsyncIterator[None]:
    """Serve DHCP and TFTP while the context is open, if the site wants that; `note` gets what is seen of machines.

    Raises:
        HalliganError: it cannot start, or another DHCP server answers where ours is to be the only one.
    """
    if settings.boot.dhcp == "off":
        yield
        return
    if shutil.which("dnsmasq") is None:
        raise HalliganError("dnsmasq is not installed", hint="apt install dnsmasq-base")
    interface = settings.boot.interface or interface_of(settings.boot.address)
    notes = Notes(note)
    mac = probe.made_up_mac()
    watch = Watch(settings, interface, mac, notes)
    await watch.first()
    server = Dnsmasq(_prepared(settings, templates, interface, http), notes, own=mac.hex(":"))
    await server.start()
    tasks = [asyncio.create_task(each) for each in (server.keep(), watch.keep(), notes.keep())]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.stop()
        await notes.flush()
        shutil.rmtree(_run_folder(settings), ignore_errors=True)  # made again at each start


def interface_of(address: str) -> str:
    """Return the interface that has an address.

    Raises:
        HalliganError: none has.
    """
    done = subprocess.run(
        ["ip", "-json", "address", "show"], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    for link in json.loads(done.stdout or "[]"):
        if any(found.get("local") == address for found in link.get("addr_info", [])):
            return str(link["ifname"])
    raise HalliganError(
        f"no interface of this machine has the address {address}",
        hint="give the interface in the boot network this address, or correct boot.address",
    )


def _prepared(settings: Settings, templates: Templates, interface: str, http: str) -> Path:
    """Write what dnsmasq reads, and return its configuration.

    dnsmasq becomes another user before it sends files, and the site's own folder is closed to others: loaders are
    public, so they are copied to where everybody can read.
    """
    folder = _run_folder(settings)
    text = dnsmasq(
        DhcpSettings(
            mode=settings.boot.dhcp,
            interface=interface,
            address=settings.boot.address,
            network=settings.network,
            http=http,
            lease_file=str(settings.state_dir.absolute() / "dnsmasq.leases"),
            tftp_root=str(folder / "tftp"),
            first=settings.boot.first,
            last=settings.boot.last,
            gateway=settings.gateway,
            dns=settings.dns,
            mtu=settings.mtu,
            prefix6=settings.prefix6,
        ),
        templates,
    )
    try:
        _copy_loaders(settings.loaders, folder)
        path = settings.state_dir.absolute() / "dnsmasq.conf"
        path.write_text(text)
    except OSError as error:
        raise HalliganError(f"cannot prepare dnsmasq: {error.filename}: {error.strerror}") from error
    return path


def _run_folder(settings: Settings) -> Path:
    name = hashlib.sha256(str(settings.state_dir.absolute()).encode()).hexdigest()[:12]
    return _RUN / f"halligan-boot-{name}"


def _copy_loaders(source: Path, folder: Path) -> None:
    found = [name for name in LOADERS.values() if (source / name).is_file()]
    if not found:
        raise HalliganError(f"there are no iPXE loaders in {source}", hint="apt install ipxe")
    for place in (folder, folder / "tftp"):
        place.mkdir(exist_ok=True)
        place.chmod(0o755)
    for name in found:
        to = folder / "tftp" / name
        partial = to.with_name(f".{name}.part")
        shutil.copyfile(source / name, partial)
        partial.chmod(0o644)
        partial.replace(to)
    if missing := sorted(set(LOADERS.values()) - set(found)):
        _LOG.info("no loader %s in %s: machines that need it cannot boot", ", ".join(missing), source)


class Notes:
    """Collects what is seen of machines and hands it over a few times a second; a flood is cut off and counted."""

    def __init__(self, note: Callable[[Sequence[Note]], Awaitable[None]]) -> None:
        self._note = note
        self._waiting: list[Note] = []
        self._rate = Rate(500, 1.0, time.monotonic)
        self._once = Once(1.0, time.monotonic)
        self._left_out = 0

    def add(self, mac: str, what: str, detail: str) -> None:
        if not self._once.allow(f"{mac} {what} {detail}"):
            return
        if len(self._waiting) >= _MOST_NOTES or not self._rate.allow():
            self._left_out += 1
            return
        self._waiting.append((mac, what, detail))

    async def flush(self) -> None:
        notes, self._waiting = self._waiting, []
        if self._left_out:
            _LOG.warning("%d sightings of machines were left out: too many at once", self._left_out)
            self._left_out = 0
        if not notes:
            return
        try:
            await self._note(notes)
        except (StoreError, HalliganError) as error:
            _LOG.error("cannot note what was seen of machines: %s", error.summary)

    async def keep(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_S)
            await self.flush()


@dataclass(frozen=True, slots=True)
class Watch:
    """Looks for other DHCP servers, before ours starts and then every few minutes."""

    settings: Settings
    interface: str
    mac: bytes
    notes: Notes

    async def first(self) -> None:
        """Raise HalliganError if another server answers where ours is to be the only one."""
        other = await self._look()
        if self.settings.boot.dhcp == "server" and other is not None:
            raise HalliganError(
                f"another DHCP server answers on {self.interface}: {other.server} (MAC {other.mac})",
                detail=[f"it offered {other.offered}; with two servers, machines boot by chance"],
                hint="switch that one off in this network, or set `boot.dhcp: proxy` to work beside it",
            )
        if self.settings.boot.dhcp == "proxy" and other is None:
            _LOG.warning("no DHCP server answers on %s: a proxy gives no addresses", self.interface)

    async def keep(self) -> None:
        told = Once(3600.0, time.monotonic)
        while True:
            await asyncio.sleep(self.settings.probe_s)
            try:
                other = await self._look()
            except HalliganError as error:
                _LOG.error("%s", error.summary)
                continue
            if self.settings.boot.dhcp == "server" and other is not None and told.allow(other.server):
                said = f"another DHCP server answers: {other.server} (MAC {other.mac})"
                _LOG.error("%s on %s; switch it off, or set boot.dhcp: proxy", said, self.interface)
                self.notes.add(other.mac, "dhcp", said)

    async def _look(self) -> probe.Offer | None:
        return await asyncio.to_thread(probe.servers, self.interface, self.mac, but=self.settings.boot.address)


class Dnsmasq:
    """One dnsmasq: started, read, restarted when it dies, ended. `own` is the MAC that our own questions come from."""

    def __init__(self, configuration: Path, notes: Notes, *, own: str) -> None:
        self._configuration = configuration
        self._notes = notes
        self._own = own
        self._sightings = Sightings()
        self._process: asyncio.subprocess.Process | None = None
        self._lines: deque[str] = deque(maxlen=20)
        self._full = Once(60.0, time.monotonic)

    async def start(self) -> None:
        """Start it; returns when it serves. Raises HalliganError with what it said if it does not."""
        await self._spawn()
        try:
            async with asyncio.timeout(_START_S):
                serves = await self._until_started()
        except TimeoutError:
            serves = False
        if not serves:
            await self.stop()
            said = [line for line in self._lines if line][-5:]
            hint = next((hint for word, hint in _HINTS if any(word in line for line in said)), "")
            raise HalliganError("dnsmasq does not start", detail=said, hint=hint)

    async def keep(self) -> None:
        """Read what it says, and start it again when it dies, later each time."""
        loop = asyncio.get_running_loop()
        tries = 0
        while True:
            began = loop.time()
            await self._read_all()
            assert self._process is not None
            code = await self._process.wait()
            tries = 0 if loop.time() - began > _STEADY_S else tries + 1
            pause = _BACK_OFF_S[min(tries, len(_BACK_OFF_S) - 1)]
            last = self._lines[-1] if self._lines else ""
            _LOG.error("dnsmasq ended with exit code %d (%s); it is started again in %.0f s", code, last, pause)
            await asyncio.sleep(pause)
            await self._spawn()

    async def stop(self) -> None:
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._read_all()
        await self._process.wait()

    async def _spawn(self) -> None:
        inner = 'dnsmasq --conf-file="$1" & wait $!'
        self._process = await asyncio.create_subprocess_exec(
            *("setpriv", "--pdeathsig", "KILL"),
            *("unshare", "--pid", "--fork", "--kill-child=KILL"),
            *("sh", "-c", inner, "dnsmasq", str(self._configuration)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
            umask=0o022,
        )

    async def _until_started(self) -> bool:
        """Read until it says that it started (True), or ends."""
        while (line := await self._line()) is not None:
            if ": started, version" in line:
                return True
        return False

    async def _read_all(self) -> None:
        while await self._line() is not None:
            pass

    async def _line(self) -> str | None:
        """Read a line and note what it says; None at the end."""
        assert self._process is not None
        assert self._process.stderr is not None
        try:
            raw = await self._process.stderr.readline()
        except ValueError:  # longer than 64 KiB: the stream dropped it
            return ""
        if not raw:
            return None
        line = raw.decode("utf-8", "replace").strip()
        found = self._sightings.read(line)
        if not line.startswith("dnsmasq-dhcp") or (found and found.what == "trouble"):
            self._lines.append(line)
        if found is not None and found.mac != self._own:
            self._tell(found)
        return line

    def _tell(self, found: Sighting) -> None:
        mac = found.mac or _neighbour(found.address)
        if found.what == "trouble":
            _LOG.error("dnsmasq: %s", found.detail)
            return
        self._notes.add(mac, found.what, found.detail)
        if found.exhausted:
            if self._full.allow("full"):
                _LOG.error("no address is left for %s: every address of boot.range is leased; widen it", mac)
        elif found.bad:
            _LOG.warning("%s: %s", mac or found.address, found.detail)


def _neighbour(address: str) -> str:
    """Return the MAC of an address from the kernel's neighbours: a proxy leases none. Empty if it is not there."""
    if not address:
        return ""
    try:
        lines = Path("/proc/net/arp").read_text().splitlines()[1:]
    except OSError:
        return ""
    rows = (line.split() for line in lines)
    return next((row[3] for row in rows if len(row) > 3 and row[0] == address and row[3] != "00:00:00:00:00:00"), "")
