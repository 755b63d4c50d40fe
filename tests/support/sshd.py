"""A real sshd of the test's own on loopback: own keys, own known_hosts, several addresses that are several hosts.

One sshd listens on sixteen addresses at most, so many hosts are several of them, all with one port and one key.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.model import Connection

__all__ = ["ADDRESSES", "Sshd", "free_port", "prepare", "running"]

ADDRESSES = ("127.0.0.11", "127.0.0.12", "127.0.0.13")
_PATIENCE_S = 30.0
_LISTENS = 16  # OpenSSH's MAX_LISTEN_SOCKS


@dataclass(frozen=True, kw_only=True)
class Sshd:
    """Where it listens and how to log in, as whoever runs the test."""

    port: int
    key: Path
    known_hosts: Path
    commands: tuple[tuple[str, ...], ...] = ()  # that start it

    def connection(self, **changes: object) -> Connection:
        given = {"port": self.port, "private_key": str(self.key), "known_hosts": str(self.known_hosts), **changes}
        return Connection(**given)  # type: ignore[arg-type]


@contextmanager
def running(folder: Path, addresses: Sequence[str] = ADDRESSES) -> Iterator[Sshd]:
    """Start it, wait until it answers, and stop it at the end."""
    server = prepare(folder, addresses)
    log = folder / "sshd.log"
    with log.open("w") as printed:
        processes = [subprocess.Popen(command, stdout=printed, stderr=printed) for command in server.commands]
    try:
        for process, address in zip(processes, addresses[::_LISTENS], strict=True):  # the first one it listens on last
            _wait(process, address, server.port, log)
        yield server
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def prepare(
    folder: Path, addresses: Sequence[str], *, homes: Mapping[str, Path] | None = None, log_level: str = "INFO"
) -> Sshd:
    """Write keys and configuration. `homes`: whoever logs in at such an address finds a home folder of its own."""
    program = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("sshd is not installed (apt install openssh-server)")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where Debian's sshd wants to be confined to
    host, key = _new_key(folder / "host"), _new_key(folder / "user")
    port = free_port()
    known_hosts = folder / "known_hosts"
    known_hosts.write_text("".join(f"[{a}]:{port} {host.with_suffix('.pub').read_text()}" for a in addresses))
    authorized = folder / "authorized_keys"
    authorized.write_text(key.with_suffix(".pub").read_text())
    commands = []
    for start in range(0, len(addresses), _LISTENS):
        some = addresses[start : start + _LISTENS]
        config = folder / f"sshd_config_{start}"
        matches = [f"Match LocalAddress {a}\n    SetEnv HOME={homes[a]}" for a in some] if homes else []
        lines = [*_config(some, port, host, authorized), f"LogLevel {log_level}", *matches, ""]
        config.write_text("\n".join(lines))
        commands.append((program, "-D", "-e", "-f", str(config)))
    return Sshd(port=port, key=key, known_hosts=known_hosts, commands=tuple(commands))


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _new_key(path: Path) -> Path:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path


def _config(addresses: Sequence[str], port: int, host: Path, authorized: Path) -> list[str]:
    return [
        *(f"ListenAddress {address}:{port}" for address in addresses),
        f"HostKey {host}",
        f"AuthorizedKeysFile {authorized}",
        "StrictModes no",
        "UsePAM no",
        "PidFile none",
        "PasswordAuthentication no",
        "PermitRootLogin prohibit-password",
        "MaxStartups 100:30:200",
        "Subsystem sftp internal-sftp",
    ]


def _wait(process: subprocess.Popen[bytes], address: str, port: int, log: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.skip(f"sshd does not start here: {log.read_text().strip()[-200:]}")
        try:
            socket.create_connection((address, port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"sshd does not answer on port {port}: {log.read_text()}")
