"""A real boot service in a process of its own, and a machine that talks to it as firmware and agent do."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from orchestrator.model import Boot
from orchestrator.netboot import Record, Settings, running

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = ROOT / "pxe" / "templates"
LIMIT_S = 60.0


def until(condition: Callable[[], Any], what: str, limit_s: float = LIMIT_S) -> Any:
    """Look at a condition until it holds, and return it."""
    deadline = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"timed out: {what}"
        time.sleep(0.02)
    return found


def discovery_image(folder: Path) -> Path:
    """A folder that looks like a discovery image."""
    folder.mkdir()
    files = {}
    for name, content in {
        "vmlinuz": b"kernel " * 1000,
        "initrd.img": b"initrd " * 2000,
        "root.squashfs": os.urandom(100_000),
    }.items():
        (folder / name).write_bytes(content)
        files[name] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    manifest = {"digest": "0123456789abcdef", "kernel_version": "6.1.0-1-cloud-amd64", "files": files}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def settings(folder: Path, **changes: Any) -> Settings:
    """Settings of a service on loopback, with any free ports and without DHCP."""
    (folder / "images").mkdir(exist_ok=True)
    image = folder / "discovery"
    boot = Boot(dhcp="off", address="127.0.0.1", http_port=0, https_port=0)
    made = Settings(
        site="test",
        store=str(folder / "store.db"),
        state_dir=folder / "state",
        boot=boot,
        templates=TEMPLATES,
        images=folder / "images",
        discovery=image if image.exists() else discovery_image(image),
    )
    boot = replace(boot, **changes.pop("boot", {}))
    return replace(made, boot=boot, **changes)


@dataclass
class Service:
    """One process; `log` is its standard error, `prefix` the words before its command."""

    settings: Settings
    folder: Path
    prefix: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    record: Record | None = None

    @property
    def log(self) -> str:
        return (self.folder / "boot.log").read_text()

    def start(self) -> Record:
        path = self.folder / "settings.json"
        self.settings.write(path)
        with (self.folder / "boot.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *self.prefix,
                    *("setpriv", "--pdeathsig", "KILL"),
                    *(sys.executable, "-m", "orchestrator.netboot", str(path)),
                ],
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
            )
        process = self.process

        def ready() -> Record | None:
            assert process.poll() is None, f"it ended with {process.returncode}: {self.log}"
            return running(self.settings.state_dir)

        self.record = until(ready, "the boot service serves")
        return self.record

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(LIMIT_S)

    def restart(self, number: int = signal.SIGTERM) -> None:
        """Another process at the same ports, so that machines find it again."""
        assert self.record is not None
        boot = replace(self.settings.boot, http_port=self.record.http_port, https_port=self.record.https_port)
        self.stop(number)
        self.settings = replace(self.settings, boot=boot)
        self.start()

    @property
    def cpu_s(self) -> float:
        """Seconds of CPU that the process has used (proc(5), stat fields 14 and 15)."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def http(self) -> str:
        assert self.record is not None
        return f"http://{self.record.address}:{self.record.http_port}"


@dataclass
class Answer:
    status: int
    body: bytes
    headers: Mapping[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        return str(self.json["error"])


def plain(record: Record, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
    connection = http.client.HTTPConnection(record.address, record.http_port, timeout=LIMIT_S)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)  # the path goes out as it is, "../" and all
        for name, value in headers.items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        return Answer(response.status, response.read(), {k.lower(): v for k, v in response.getheaders()})
    finally:
        connection.close()


def unpack_cpio(data: bytes) -> dict[str, bytes]:
    """Return the files of a newc archive by path."""
    found, at = {}, 0
    while True:
        assert data[at : at + 6] == b"070701"
        mode, size, name_size = (int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in (1, 6, 11))
        name = data[at + 110 : at + 110 + name_size - 1].decode()
        at = (at + 110 + name_size + 3) & ~3
        if name == "TRAILER!!!":
            return found
        if mode & 0o170000 == 0o100000:
            found[name] = data[at : at + size]
        at = (at + size + 3) & ~3


@dataclass
class Machine:
    """A machine of our own making: `number` makes its MAC, UUID and serial number."""

    record: Record
    number: int = 1
    mac: str = ""
    uuid: str = ""
    serial: str = ""
    id: str = ""
    credential: str = ""
    site: Mapping[str, Any] = field(default_factory=dict)
    ca: str = ""

    def __post_init__(self) -> None:
        self.mac = self.mac or "52:54:00:" + ":".join(f"{self.number:06x}"[i : i + 2] for i in (0, 2, 4))
        self.uuid = self.uuid or f"6d1f5a0e-8a2b-4a39-9c51-{self.number:012x}"
        self.serial = self.serial or f"HLG{self.number:06d}"

    @property
    def query(self) -> str:
        said = {"mac": self.mac, "uuid": self.uuid, "serial": self.serial, "arch": "x86_64", "platform": "efi"}
        return urlencode(said)

    @property
    def identity(self) -> dict[str, Any]:
        return {"uuid": self.uuid, "serials": [self.serial], "macs": [self.mac]}

    @property
    def enrolment(self) -> dict[str, Any]:
        boot = {"mac": self.mac, "mode": "uefi"}
        return {"protocol": 1, "agent": "test", "identity": self.identity, "boot": boot, "clock": time.time()}

    def document(self, **changes: Any) -> dict[str, Any]:
        """A facts document as the agent makes it."""
        inventory = {
            "cpu": {"model_name": "Test", "count": 4, "architecture": "x86_64", "flags": ["vmx"], "socket_count": 1},
            "memory": {"total": 8 << 30, "physical_mb": 8192, "dimms": []},
            "disks": [{"name": "/dev/vda", "size": 10 << 30, "serial": f"D{self.number}", "rotational": False}],
            "interfaces": [{"name": "eth0", "mac_address": self.mac, "has_carrier": True}],
            "system_vendor": {
                "product_name": "Standard PC",
                "manufacturer": "QEMU",
                "serial_number": self.serial,
                "uuid": self.uuid,
                "serials": [self.serial],
            },
            "boot": {"current_boot_mode": "uefi", "pxe_interface": self.mac},
        }
        return {"inventory": inventory, "agent": {"version": "test", "level": "full"}, "clock": 0.0, **changes}

    def script(self) -> Answer:
        return plain(self.record, f"/boot/script?{self.query}")

    def archive(self) -> Answer:
        answer = plain(self.record, f"/boot/site.cpio?mac={self.mac}&uuid={self.uuid}")
        if answer.status == 200:
            files = unpack_cpio(answer.body)
            self.site = json.loads(files["etc/halligan/site.json"])
            self.ca = files["etc/halligan/ca.pem"].decode()
        return answer

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        raw: bytes | Iterable[bytes] | None = None,
    ) -> Answer:
        """Speak to the agent's API over TLS, believing only the authority that came with the boot."""
        context = ssl.create_default_context(cadata=self.ca)
        connection = http.client.HTTPSConnection(
            self.record.address, self.record.https_port, timeout=LIMIT_S, context=context
        )
        headers = {"Authorization": f"Bearer {self.credential if key is None else key}"}
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        try:
            connection.request(method, path, data, headers)
            response = connection.getresponse()
            return Answer(response.status, response.read(), {k.lower(): v for k, v in response.getheaders()})
        finally:
            connection.close()

    def enrol(self, token: str | None = None) -> Answer:
        answer = self.call("POST", "/v1/enrol", self.enrolment, key=self.site["token"] if token is None else token)
        if answer.status == 200:
            self.id, self.credential = answer.json["machine"], answer.json["credential"]
        return answer

    def boot(self) -> Answer:
        """From the boot script to the credential."""
        assert self.script().status == 200
        assert self.archive().status == 200
        return self.enrol()

    def put_facts(
        self, document: Any = None, level: str = "full", *, raw: bytes | Iterable[bytes] | None = None
    ) -> Answer:
        body = self.document() if document is None else document
        return self.call("PUT", f"/v1/machines/{self.id}/facts?level={level}", body, raw=raw)

    def task(self, wait: int = 0) -> Answer:
        return self.call("GET", f"/v1/machines/{self.id}/task?wait={wait}")

    def progress(self, task: str, **body: Any) -> Answer:
        return self.call("POST", f"/v1/machines/{self.id}/tasks/{task}/progress", body)

    def result(self, task: str, **body: Any) -> Answer:
        return self.call("POST", f"/v1/machines/{self.id}/tasks/{task}/result", body)
