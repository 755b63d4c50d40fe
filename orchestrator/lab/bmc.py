"""The lab's Redfish endpoint, from outside: its secrets, its port, its process.

It listens on the machine's own loopback and not in the lab's network: BMCs have a network of their own, and who runs
the power of machines runs outside of the lab.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import secrets
import socket
import ssl
import sys
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from orchestrator.lab.errors import LabError
from orchestrator.lab.host import Cgroup, Process, spawn, tail, wait_until, write_whole
from orchestrator.lab.values import Lab, LabBmc, LabNode, Places, machine_of

__all__ = ["bmc_of", "ensure", "is_alive", "remove_secrets", "stop", "stop_unless"]

BMC_USER = "lab"
HOST = "127.0.0.1"
PORTS = range(20000, 30000)  # below those that the kernel hands out by itself
START_TIMEOUT_S = 30.0
VALID_DAYS = 3650

# Run with -I, so that neither the caller's folder nor its environment decides which code serves.
START = "import sys; sys.path.insert(0, sys.argv[1]); from orchestrator.lab import redfish; redfish.main(sys.argv[2])"


def bmc_of(lab: Lab, name: str) -> LabBmc:
    """Where the power of a vm is controlled; it answers as soon as `up` has returned."""
    places = Places.of(lab)
    return LabBmc(
        address=f"https://{HOST}:{_port(lab, places)}/redfish/v1/Systems/{machine_of(lab, name).name}",
        ca=places.bmc_ca,
        user=BMC_USER,
        password_file=places.bmc_password,
    )


def is_alive(places: Places) -> bool:
    process = Process.read(_file(places, "pid"))
    return process is not None and process.is_alive()


def ensure(lab: Lab, places: Places, machines: Sequence[LabNode]) -> None:
    """The endpoint serves exactly these vms when this returns. Machines that are on stay on when it is restarted."""
    stop_unless(lab, places, machines)
    if not is_alive(places):
        _start(lab, places)
    if not wait_until(lambda: _answers(lab, places) or not is_alive(places), START_TIMEOUT_S) or not is_alive(places):
        stop(lab, places)  # so that the next `up` starts it again
        log = _file(places, "log")
        raise LabError(
            f"The Redfish endpoint of lab {lab.site} does not answer on {HOST}:{_port(lab, places)}",
            detail=tail(log),
            hint=f"Its whole log is in {log}. `up` starts it again.",
        )


def stop_unless(lab: Lab, places: Places, machines: Sequence[LabNode]) -> None:
    """End the endpoint if it serves other vms, other hardware of theirs, or by older code. Its settings are written."""
    _password(places)
    _certificate(places)
    settings = {
        "site": lab.site,
        "uuid": str(uuid.uuid5(uuid.NAMESPACE_URL, f"halligan-lab:{lab.site}")),
        "user": BMC_USER,
        "gateway": lab.gateway,
        "places": {name: str(path) for name, path in asdict(places).items()},
        "machines": [asdict(node) for node in machines],
        "secrets": [_digest(places.bmc_key), _digest(places.bmc_password)],
        "code": [_digest(file) for file in sorted(Path(__file__).parent.glob("*.py"))],
    }
    text = json.dumps(settings, indent=2) + "\n"
    config = _file(places, "json")
    if not (is_alive(places) and config.exists() and config.read_text() == text):
        stop(lab, places)
        write_whole(config, text)


def stop(lab: Lab, places: Places) -> None:
    Cgroup.of(lab.site, "bmc").kill()
    _file(places, "pid").unlink(missing_ok=True)


def remove_secrets(places: Places) -> None:
    for file in (places.bmc_ca, places.bmc_key, places.bmc_password):
        file.unlink(missing_ok=True)


def _start(lab: Lab, places: Places) -> None:
    with _listener(lab, places) as listener:
        write_whole(_file(places, "port"), f"{listener.getsockname()[1]}\n")
        package = Path(__file__).parents[2]
        spawn(
            (sys.executable, "-I", "-c", START, package, _file(places, "json")),
            cgroup=Cgroup.of(lab.site, "bmc"),
            log=_file(places, "log"),
            record=_file(places, "pid"),
            stdin=listener.fileno(),
        )


def _listener(lab: Lab, places: Places) -> socket.socket:
    """The port of last time if it is free, so that addresses given out stay true; else any other."""
    first = _port(lab, places)
    for port in (first, *(PORTS[(first - PORTS.start + step) % len(PORTS)] for step in range(1, 100))):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
            listener.listen(64)
        except OSError:
            listener.close()
        else:
            return listener
    raise LabError(f"No port near {first} is free on {HOST}", hint="Look at `ss -ltnp`: something holds all of them.")


def _port(lab: Lab, places: Places) -> int:
    """The port it listens on or, before the first `up`, the one that it will try first."""
    with contextlib.suppress(OSError, ValueError):
        return int(_file(places, "port").read_text())
    return PORTS[int.from_bytes(hashlib.sha256(lab.site.encode()).digest()[:4], "big") % len(PORTS)]


def _answers(lab: Lab, places: Places) -> bool:
    context = ssl.create_default_context(cafile=str(places.bmc_ca))
    connection = http.client.HTTPSConnection(HOST, _port(lab, places), timeout=5, context=context)
    try:
        connection.request("GET", "/redfish/v1/")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _file(places: Places, suffix: str) -> Path:
    return places.run / f"bmc.{suffix}"


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _password(places: Places) -> None:
    if not places.bmc_password.exists():
        _write_private(places.bmc_password, secrets.token_urlsafe(24).encode())


def _write_private(path: Path, data: bytes) -> None:
    """Never readable by others, and whole or not there."""
    partial = path.with_name(f".{path.name}.part")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
    partial.rename(path)


def _certificate(places: Places) -> None:
    """A certificate for the loopback address, from an authority whose key is thrown away once it has signed it."""
    if places.bmc_key.exists() and places.bmc_ca.exists() and not _expires_soon(places.bmc_key):
        return
    authority, key = make_certificates(HOST)
    places.bmc_ca.write_bytes(authority)
    _write_private(places.bmc_key, key)


def _expires_soon(file: Path) -> bool:
    import datetime

    from cryptography import x509

    ends = x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc
    return ends < datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=30)


def make_certificates(host: str) -> tuple[bytes, bytes]:
    """The authority's certificate, and the server's private key with its certificate, both as PEM."""
    import datetime

    from cryptography.hazmat.primitives.serialization import Encoding

    from orchestrator import certificates

    at, lasts = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=VALID_DAYS)
    authority = certificates.authority("Halligan lab BMC authority", at=at, lasts=lasts)
    server = certificates.server("Halligan lab BMC", (host, "localhost"), authority, at=at, lasts=lasts)
    key = certificates.pem(server.key)
    return authority.certificate.public_bytes(Encoding.PEM), key + server.certificate.public_bytes(Encoding.PEM)
