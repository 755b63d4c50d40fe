"""Runs on a host, by its own Python, and serves one session: takes parcels, starts plays, streams their events.

Sent over the session that it serves; standard library only; Linux only.

A message is a line of JSON on stdin or stdout; one with "size" is followed by so many bytes. The controller asks

  {"do": "play", "id", "from", "owner", "run", "about", "needs"}
      -> {"attached": true}   it was started before: its events from byte "from" on
       | {"failed": why}      some of it was read before, and it is not here any more
       | {"lacks": [names]}   then {"parcel", "size"} for each, {"start": {...}, "size"} with the inventory, and
         {"waits": holder} while an earlier run of the same owner holds the host, then
         {"started": true} | {"attached": true} | {"refused": holder} | {"failed": why}
      then the play's events, line by line as the callback wrote them, and at last {"end": {...}}
  {"do": "cancel"}            while a play is followed or waits: it is ended
  {"do": "forget", "id"}      its end has arrived and is recorded: its folder is removed

A play does not belong to the session. It runs under a supervisor of its own that holds the host's lock, so when the
session breaks it goes on, and the next session that asks for the same id reads its events on.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import io
import json
import lzma
import os
import pwd
import select
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

KEPT_PARCELS = {"ansible": 3, "tools": 3, "role": 200}
_GRACE_S = 10.0
_READY = b"!"
_CHUNK = 1 << 16


class Wire:
    """Messages over two file descriptors."""

    def __init__(self, source: int, sink: int) -> None:
        self.source = source
        self._sink = sink
        self._buffer = b""

    def read(self) -> dict[str, Any]:
        """Return the next message; raises EOFError when the session is over."""
        while b"\n" not in self._buffer:
            self._more()
        line, _, self._buffer = self._buffer.partition(b"\n")
        return cast(dict[str, Any], json.loads(line))

    def read_bytes(self, size: int) -> bytes:
        parts, have = [self._buffer], len(self._buffer)
        self._buffer = b""
        while have < size:
            self._more()
            parts.append(self._buffer)
            have += len(self._buffer)
            self._buffer = b""
        whole = b"".join(parts)
        self._buffer = whole[size:]
        return whole[:size]

    def waiting(self) -> bool:
        """Return whether a whole message has been read already."""
        return b"\n" in self._buffer

    def _more(self) -> None:
        chunk = os.read(self.source, _CHUNK)
        if not chunk:
            raise EOFError
        self._buffer += chunk

    def write(self, message: dict[str, Any]) -> None:
        self.write_bytes(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    def write_bytes(self, content: bytes) -> None:
        view = memoryview(content)
        while view:
            view = view[os.write(self._sink, view) :]


# --- parcels ----------------------------------------------------------------------------------------------------------


class Store:
    """The parcels that this host keeps, each in a folder named by kind and digest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        return self.folder / name

    def has(self, name: str) -> bool:
        """Return whether a parcel is here and is what its name says: its files are read and hashed."""
        path = self.path(name)
        try:
            info = path.lstat()
            sound = stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid() and _digest(path) == _named(name)
        except FileNotFoundError:
            sound = False
        if sound:
            self._use(path)
        else:
            _remove(path)
        return sound

    def add(self, name: str, packed: bytes) -> None:
        """Unpack a parcel, prove it, and put it in its place in one step."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        self._sweep()
        fresh = self.folder / f".{name}.{os.getpid()}"
        try:
            with tarfile.open(fileobj=io.BytesIO(lzma.decompress(packed))) as archive:
                for member in archive:
                    parts = Path(member.name).parts
                    if not member.isreg() or ".." in parts or member.name.startswith("/"):
                        raise OSError(errno.EINVAL, f"parcel {name} holds {member.name}, which is no plain file")
                    path = fresh.joinpath(*parts)
                    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
                    with open(path, "xb") as file:
                        shutil.copyfileobj(cast(Any, archive.extractfile(member)), file)
                        os.fchmod(file.fileno(), member.mode)
                    os.utime(path, (1, 1))
            if _digest(fresh) != _named(name):
                raise OSError(errno.EIO, f"parcel {name} did not arrive as it was sent")
            try:
                fresh.rename(self.path(name))
            except OSError:
                if not self.path(name).is_dir():  # else another session was faster
                    raise
            self._use(self.path(name))
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def prune(self, used: set[str]) -> None:
        """Remove all but the parcels used last and those that plays use; by order, never by age."""
        for kind, count in KEPT_PARCELS.items():
            for path in sorted(self.folder.glob(f"{kind}-*"), key=_order)[:-count]:
                if path.name not in used:
                    shutil.rmtree(path, ignore_errors=True)
                    shutil.rmtree(self.folder / "pyc" / path.name, ignore_errors=True)

    def _use(self, path: Path) -> None:
        """Make a parcel the one used last. Its time is a count of uses: a host's clock may jump, either way."""
        last = max(_order(other) for other in self.folder.glob("*-*"))
        os.utime(path, (last + 1, last + 1))

    def _sweep(self) -> None:
        """Remove what sessions that were killed had half unpacked."""
        for path in self.folder.glob(".*"):
            pid = path.name.rpartition(".")[2]
            if pid == str(os.getpid()) or not Path("/proc", pid).exists():
                _remove(path)


def _named(name: str) -> str:
    return name.rpartition("-")[2]


def _order(path: Path) -> int:
    try:
        return int(path.stat().st_mtime)
    except OSError:  # another session removed it
        return 0


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        path.unlink()  # what should have been a folder


def _digest(folder: Path) -> str:
    """Return the digest of the files below a folder; none of what holds anything but plain files."""
    lines = []
    for path in folder.rglob("*"):
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            continue
        if not stat.S_ISREG(mode):
            return ""
        content = path.read_bytes()
        name = path.relative_to(folder).as_posix()
        lines.append((name, f"{mode & 0o777:o} {len(content)} {hashlib.sha256(content).hexdigest()} {name}\n"))
    return hashlib.sha256("".join(line for _, line in sorted(lines)).encode()).hexdigest()


# --- the lock ---------------------------------------------------------------------------------------------------------


class RefusedError(Exception):
    """Somebody else's play holds the host."""

    def __init__(self, holder: dict[str, Any]) -> None:
        super().__init__(holder)
        self.holder = holder


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep the host's other sessions out for a moment."""
    with open(folder / "guard", "w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        yield


def take_lock(folder: Path, holder: dict[str, Any]) -> int:
    """Return a descriptor that holds the host's lock as long as it is open; raises RefusedError.

    Plays of one run share it: how many run at once on a host is the controller's decision.
    """
    with alone(folder):
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with open(folder / "lock") as file:
                other = json.loads(file.read() or "{}")
            if (other.get("owner"), other.get("run")) != (holder["owner"], holder["run"]):
                os.close(lock)
                raise RefusedError(other) from None
        else:
            os.ftruncate(lock, 0)
            os.pwrite(lock, json.dumps(holder).encode(), 0)
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return lock


# --- a play and its supervisor ----------------------------------------------------------------------------------------


def start_time(pid: int) -> str:
    """Return when a process started, in clock ticks since boot (proc(5)); "" if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def launch(folder: Path, lock: int, ask: dict[str, Any], start: dict[str, Any], inventory: bytes) -> None:
    """Start a supervisor that no session owns, and return when it is known by the play's folder."""
    folder.mkdir(mode=0o700, parents=True)
    (folder / "events").touch(mode=0o600)
    (folder / "ask").write_text(json.dumps(ask))
    ready, done = os.pipe()
    if not os.fork():
        try:
            os.setsid()
            if not os.fork():
                _close_all_but(lock, done)
                supervise(folder, lock, start, inventory, done)
        finally:
            os._exit(0)
    os.close(done)
    os.wait()
    with open(ready, "rb") as told:
        if (why := told.read()) != _READY:
            raise OSError(why.decode() or "its supervisor ended at once")


def _close_all_but(*kept: int) -> None:
    """Close what belongs to the session: its end must not wait for the play's."""
    for entry in os.listdir("/proc/self/fd"):
        if int(entry) > 2 and int(entry) not in kept:
            with contextlib.suppress(OSError):
                os.close(int(entry))


def supervise(folder: Path, lock: int, start: dict[str, Any], inventory: bytes, done: int) -> None:
    """Run the play to its end, within its time; write how it ended as the last event."""
    try:
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # the session may be gone before the play is known
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        _adopt_orphans()
        wake = _Wake()
        (folder / "pid.new").write_text(f"{os.getpid()} {start_time(os.getpid())}")
        (folder / "pid.new").rename(folder / "pid")
    except BaseException as error:
        os.write(done, str(error).encode())
        return
    with contextlib.suppress(BrokenPipeError):
        os.write(done, _READY)
    os.close(done)
    ending: dict[str, Any] = {}
    try:
        ending = _watch(_popen(folder, start, inventory), start["timeout"], wake)
        with open(folder / "said", "rb") as said:
            said.seek(max(0, said.seek(0, os.SEEK_END) - 4096))
            ending["said"] = said.read().decode(errors="replace")
        if ending["rc"] and not ending["why"] and not (folder / "events").stat().st_size:
            shutil.rmtree(start["pyc"], ignore_errors=True)  # whatever kept it from starting may be a broken file there
    except BaseException as error:
        ending = {"rc": None, "why": f"the play could not be run: {error}"}
    finally:
        for temporary in start["temporary"]:
            shutil.rmtree(temporary, ignore_errors=True)
        os.close(lock)  # before the end is told: whoever hears of it may want the host next
        with contextlib.suppress(FileNotFoundError):  # it is forgotten already
            events = os.open(folder / "events", os.O_WRONLY | os.O_APPEND)
            os.write(events, json.dumps({"end": ending}).encode() + b"\n")


def _popen(folder: Path, start: dict[str, Any], inventory: bytes) -> subprocess.Popen[bytes]:
    memory = os.memfd_create("inventory")  # the host's secrets never touch a file
    with open(memory, "wb", closefd=False) as file:
        file.write(inventory)
    os.lseek(memory, 0, os.SEEK_SET)
    try:
        with open(folder / "said", "wb") as said:
            return subprocess.Popen(
                start["argv"], stdin=memory, stdout=said, stderr=said, env=start["env"], cwd="/", start_new_session=True
            )
    finally:
        os.close(memory)


def _adopt_orphans() -> None:
    """Become the parent of whatever the play leaves (prctl(2)): what it started can be found until it has ended."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


class _Wake:
    """Hears SIGTERM, which a session sends to cancel the play."""

    def __init__(self) -> None:
        self.asked = False
        self.descriptor, poke = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGTERM, self._hear)
        signal.set_wakeup_fd(poke)

    def _hear(self, *_: object) -> None:
        self.asked = True


def _watch(play: subprocess.Popen[bytes], timeout: float, wake: _Wake) -> dict[str, Any]:
    """Wait for the play, for its time to be over, or for a cancel."""
    handle = os.pidfd_open(play.pid)
    deadline = time.monotonic() + timeout
    while not select.select([handle], [], [], 0)[0]:
        left = deadline - time.monotonic()
        if wake.asked or left <= 0:
            why = "cancelled" if wake.asked else "timeout"
            _end(play, handle)
            return {"rc": play.wait(), "why": why}
        if wake.descriptor in select.select([handle, wake.descriptor], [], [], left)[0]:
            os.read(wake.descriptor, 16)
    return {"rc": play.wait(), "why": ""}


def _end(play: subprocess.Popen[bytes], handle: int) -> None:
    """End a play and everything that it started, politely first."""
    play.terminate()
    select.select([handle], [], [], _GRACE_S)
    for _ in range(100):  # what is killed may just have started something
        left = {pid: started for pid, started in _family(os.getpid()).items() if started and pid != os.getpid()}
        if not left:
            return
        for pid, started in left.items():
            if start_time(pid) == started:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _family(pid: int) -> dict[int, str]:
    """Return a process and its descendants with their start times."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found: dict[int, str] = {}
    todo = [pid]
    while todo:
        one = todo.pop()
        found[one] = start_time(one)
        todo += children.get(one, ())
    return found


# --- the session ------------------------------------------------------------------------------------------------------


class Session:
    """What one controller's session may ask for."""

    def __init__(self, wire: Wire, cache: Path, run: Path) -> None:
        self.wire = wire
        self.store = Store(cache)
        self.run = run
        self.cache = cache

    def serve(self) -> None:
        while True:
            message = self.wire.read()
            if message["do"] == "play":
                self.play(message)
            elif message["do"] == "forget":
                self.forget(self.folder(message["id"]))

    def folder(self, name: str) -> Path:
        return self.run / "plays" / name

    def play(self, ask: dict[str, Any]) -> None:
        folder = self.folder(ask["id"])
        if (folder / "pid").exists():
            self.wire.write({"attached": True})
        elif ask["from"]:
            self.wire.write({"failed": "the host does not know the play any more, of which it had done something"})
            return
        elif not self.start(folder, ask):
            return
        self.follow(folder, ask["from"])

    def start(self, folder: Path, ask: dict[str, Any]) -> bool:
        """Take what the play needs and start it. Returns whether it runs."""
        self.wire.write({"lacks": [name for name in ask["needs"] if not self.store.has(name)]})
        failed = ""
        while True:
            message = self.wire.read()
            content = self.wire.read_bytes(message["size"])
            if "start" in message:
                break
            try:
                self.store.add(message["parcel"], content)
            except (OSError, lzma.LZMAError, tarfile.TarError) as error:
                failed = failed or f"{message['parcel']} could not be kept in {self.cache}: {_told(error)}"
        if failed:
            self.wire.write({"failed": failed})
            return False
        try:
            self.run.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = self.lock(ask)
            try:
                answer = self.launch(folder, lock, ask, self.settings(message["start"], folder), content)
            finally:
                os.close(lock)
        except RefusedError as refused:
            self.wire.write({"refused": refused.holder})
            return False
        except OSError as error:
            self.wire.write({"failed": f"the play could not be started in {self.run}: {_told(error)}"})
            return False
        self.wire.write({answer: True})
        self.prune(ask)
        return True

    def launch(self, folder: Path, lock: int, ask: dict[str, Any], start: dict[str, Any], inventory: bytes) -> str:
        """Start a play unless a session that broke meanwhile did so; say which."""
        with alone(self.run):
            if (folder / "pid").exists():
                return "attached"
            self.forget(folder)  # a start that came to nothing
            try:
                launch(folder, lock, ask, start, inventory)
            except OSError:
                self.forget(folder)
                raise
            return "started"

    def forget(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(self.cache / "tmp" / folder.name, ignore_errors=True)

    def prune(self, ask: dict[str, Any]) -> None:
        """Remove what nobody will ask for: plays of the same owner's earlier runs, and parcels out of use."""
        used: set[str] = set()
        with alone(self.run):
            for folder in (self.run / "plays").iterdir():
                try:
                    its = json.loads((folder / "ask").read_text())
                except (OSError, ValueError):  # a start or a removal that was cut short
                    self.forget(folder)
                    continue
                if its["owner"] == ask["owner"] and its["run"] != ask["run"]:
                    self.forget(folder)  # it has ended: the lock is of one run only
                else:
                    used |= set(its["needs"])
        for left in (self.cache / "tmp").glob("*"):
            if not self.folder(left.name).exists():  # the host went down in the middle of it
                shutil.rmtree(left, ignore_errors=True)
        self.store.prune(used)

    def lock(self, ask: dict[str, Any]) -> int:
        """Take the host's lock. A play that an earlier run of the same controller left is waited for."""
        holder = {key: ask[key] for key in ("owner", "run", "about")} | {"since": int(time.time())}
        told = False
        while True:
            try:
                return take_lock(self.run, holder)
            except RefusedError as refused:
                if refused.holder.get("owner") != ask["owner"]:
                    raise
                if not told:
                    told = True
                    self.wire.write({"waits": refused.holder})
                if self.wire.waiting() or select.select([self.wire.source], [], [], 0.2)[0]:
                    self.wire.read()  # a cancel, or the session's end
                    raise

    def settings(self, start: dict[str, Any], folder: Path) -> dict[str, Any]:
        """Return how to run the play here."""
        temporary = remote = folder / "tmp"
        if os.statvfs(self.run).f_flag & os.ST_NOEXEC:  # as Debian's /run is: scripts are to run from there
            remote = self.cache / "tmp" / folder.name
        roles = os.pathsep.join(str(self.store.path(name)) for name in start["roles"])
        user = pwd.getpwuid(os.geteuid())
        tools, ansible = self.store.path(start["tools"]), self.store.path(start["ansible"])
        environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": os.path.expanduser("~"),
            "USER": user.pw_name,
            "LOGNAME": user.pw_name,
            "SHELL": user.pw_shell,
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_CONFIG": str(tools / "ansible.cfg"),
            "ANSIBLE_ROLES_PATH": roles,
            "ANSIBLE_HOME": str(temporary),
            "ANSIBLE_LOCAL_TEMP": str(temporary),
            "ANSIBLE_REMOTE_TEMP": str(remote),
            "HALLIGAN_EVENTS": str(folder / "events"),
            **start["env"],
        }
        if start["facts"]:
            environment |= {
                "ANSIBLE_CACHE_PLUGIN": "ansible.builtin.jsonfile",
                "ANSIBLE_CACHE_PLUGIN_CONNECTION": str(self.run / "facts"),
            }
        environment["HALLIGAN_FACTS"] = str(self.run / "facts")
        pyc = self.cache / "pyc" / ansible.name
        code = [f"-Xpycache_prefix={pyc}", "-I", str(tools / "play.py")]
        argv = [sys.executable, *code, str(ansible), str(tools / "playbooks" / "run_role.yml"), *start["options"]]
        return {
            "argv": argv,
            "env": environment,
            "timeout": start["timeout"],
            "pyc": pyc,
            "temporary": [temporary, remote],
        }

    def follow(self, folder: Path, offset: int) -> None:
        """Stream a play's events from a byte on until its end has been sent."""
        pid, started = (folder / "pid").read_text().split()
        ended = False
        try:
            handle = os.pidfd_open(int(pid))
        except OSError:
            handle = -1
        with open(folder / "events", "rb") as events:
            events.seek(offset)
            changed = _inotify(folder / "events")
            while not ended:
                gone = handle < 0 or start_time(int(pid)) != started
                lines = events.read()
                lines = lines[: lines.rfind(b"\n") + 1]
                events.seek(offset := offset + len(lines))
                if lines:
                    self.wire.write_bytes(lines)
                    ended = lines[lines.rfind(b"\n", 0, -1) + 1 :].startswith(b'{"end"')
                elif gone:
                    self.wire.write({"end": {"rc": None, "why": "its supervisor on the host was killed"}})
                    ended = True
                else:
                    self.wait(changed, handle, int(pid), started)
        os.close(changed)
        if handle >= 0:
            os.close(handle)

    def wait(self, changed: int, handle: int, pid: int, started: str) -> None:
        """Wait until something was written, the supervisor ended, or the controller said something."""
        if not self.wire.waiting():
            readable = select.select([changed, handle, self.wire.source], [], [])[0]
            if changed in readable:
                os.read(changed, 4096)
            if self.wire.source not in readable:
                return
        if self.wire.read().get("do") == "cancel" and start_time(pid) == started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


def _inotify(path: Path) -> int:
    """Return a descriptor that becomes readable when a file is written to (inotify(7))."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor: int = libc.inotify_init1(os.O_CLOEXEC)
    if descriptor < 0 or libc.inotify_add_watch(descriptor, os.fsencode(path), 2) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return descriptor


def _told(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def places(given: str) -> tuple[Path, Path]:
    """Return where parcels are kept and where plays run: memory, gone with the next boot."""
    if given:
        return Path(given) / "cache", Path(given) / "run"
    if os.geteuid() == 0:
        return Path("/var/cache/halligan/parcels"), Path("/run/halligan")
    memory = Path(f"/run/user/{os.geteuid()}")
    memory = memory / "halligan" if memory.is_dir() else Path(f"/dev/shm/halligan-{os.geteuid()}")
    return Path(os.path.expanduser("~/.cache/halligan/parcels")), memory


def main(place: str) -> None:
    os.umask(0o022)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a broken session ends this process, never a play
    wire = Wire(os.dup(0), os.dup(1))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    cache, run = places(place)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    wire.write(
        {
            "python": list(sys.version_info[:3]),
            "boot": boot,
            "clock": time.time(),
        }
    )
    with contextlib.suppress(EOFError):
        Session(wire, cache, run).serve()
