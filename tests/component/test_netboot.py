"""The boot service as machines see it: a real process on loopback, a real store, real HTTP and TLS."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import resource
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from support.bootservice import ROOT, Answer, Machine, Service, plain, settings, unpack_cpio, until

from orchestrator.errors import LockedError
from orchestrator.lifecycle import Signal, move
from orchestrator.model import MachineState, Order, Phase
from orchestrator.netboot import Record, running
from orchestrator.netboot.record import held
from orchestrator.store import kinds
from orchestrator.store.store import Store

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ4Cq2b1Gq0m1Jv2jvYk8m7y8xk0o0b0c0d0e0f0g0h0"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(settings=settings(tmp_path), folder=tmp_path)
    made.start()
    yield made
    if made.process is not None and made.process.poll() is None:
        made.stop()


@pytest.fixture
def record(service: Service) -> Record:
    assert service.record is not None
    return service.record


@pytest.fixture
def store(service: Service) -> Iterator[Store]:
    with Store.open(service.settings.store) as opened:
        yield opened


@pytest.fixture
def machine(record: Record) -> Machine:
    return Machine(record)


def believed(store: Store, machine: Machine) -> MachineState:
    found = store.machine(machine.id)
    assert found is not None
    return found


def told(store: Store, machine: Machine, signal_: Signal, **changes: object) -> MachineState:
    """Another process (an apply, a command) moves a machine."""
    state = believed(store, machine)
    store.append([kinds.machine_moved(move(state, signal_, **changes), at=time.time(), by="test")])
    return believed(store, machine)


def ordered(store: Store, machine: Machine, task: str = "t-1") -> MachineState:
    """The machine is claimed by node kvm-1 and told to install."""
    if believed(store, machine).phase is not Phase.CLAIMED:
        told(store, machine, Signal.CLAIM, node="kvm-1")
    order = Order(id=task, task="install", args={"disk": {"name": "/dev/vda"}})
    return told(store, machine, Signal.INSTALL, order=order)


def discovered(machine: Machine) -> None:
    assert machine.boot().status == 200
    assert machine.put_facts().status == 204


def events(store: Store, kind: str) -> list[dict[str, object]]:
    return [dict(event.data) for event in store.events(kinds=(kind,))]


# --- a whole life -------------------------------------------------------------------------------------------------


def test_a_machine_goes_from_its_first_boot_to_an_installed_system(machine: Machine, store: Store) -> None:
    script = machine.script()
    assert script.body.startswith(b"#!ipxe")
    assert b"/files/discovery/vmlinuz" in script.body
    [state] = store.machines_like([f"mac:{machine.mac}"])
    assert state.phase is Phase.ENROLLED

    assert machine.archive().status == 200
    assert machine.site["mode"] == "discover"
    assert machine.site["token"] not in script.body.decode()
    enrolled = machine.enrol().json
    assert enrolled["machine"] == state.id
    assert abs(enrolled["now"] - time.time()) < 60
    assert believed(store, machine).phase is Phase.DISCOVERING

    assert machine.put_facts(level="basic").status == 204
    assert machine.put_facts(level="full").status == 204
    state = believed(store, machine)
    assert (state.phase, state.level) == (Phase.DISCOVERED, "full")
    assert json.loads(store.facts(state.facts)) == machine.document()
    assert machine.task().status == 204

    ordered(store, machine)
    answer = machine.task()
    assert answer.json == {"id": "t-1", "task": "install", "args": {"disk": {"name": "/dev/vda"}}}
    assert machine.task().json == answer.json  # until its result comes
    assert machine.progress("t-1", step="write", percent=40, message="half").status == 204
    assert machine.progress("t-0", step="write", percent=40).status == 410

    outputs = {"host_keys": [KEY], "image": "debian-12@0123456789ab", "disk": "/dev/vda"}
    assert machine.result("t-1", ok=True, outputs=outputs, log="wrote it\n").status == 204
    state = believed(store, machine)
    assert (state.phase, state.node, state.order) == (Phase.INSTALLED, "kvm-1", None)
    assert (state.image, state.host_keys) == ("debian-12@0123456789ab", (KEY,))
    [log] = store.log(step="install@kvm-1")
    assert log.text == "wrote it\n"

    assert b"sanboot" in machine.script().body
    assert believed(store, machine).phase is Phase.INSTALLED
    assert machine.archive().status == 403
    assert store.check() == []


def test_an_order_of_another_process_wakes_a_waiting_agent(machine: Machine, store: Store) -> None:
    discovered(machine)
    answers: list[Answer] = []
    poll = threading.Thread(target=lambda: answers.append(machine.task(wait=60)))
    poll.start()
    until(lambda: plain(machine.record, "/healthz").json["waiting"] == 1, "it waits")
    ordered(store, machine)
    poll.join(50)
    assert not poll.is_alive()
    assert answers[0].json["id"] == "t-1"


def test_a_second_poll_of_a_machine_takes_the_place_of_the_first(machine: Machine) -> None:
    discovered(machine)
    answers: list[Answer] = []
    poll = threading.Thread(target=lambda: answers.append(machine.task(wait=60)))
    poll.start()
    until(lambda: plain(machine.record, "/healthz").json["waiting"] == 1, "it waits")
    assert machine.task(wait=1).status == 204
    poll.join(50)
    assert not poll.is_alive()
    assert answers[0].status == 204


def test_a_failed_install_tells_why(machine: Machine, store: Store) -> None:
    discovered(machine)
    ordered(store, machine)
    problem = "the image has another SHA-256"
    assert machine.result("t-1", ok=False, problem=problem, failure="image").status == 204
    state = believed(store, machine)
    assert (state.phase, state.failure, state.reason, state.order) == (Phase.FAILED, "image", problem, None)


@pytest.mark.parametrize("ok", [True, False])
def test_an_erase_ends_a_machine_or_fails(machine: Machine, store: Store, ok: bool) -> None:
    discovered(machine)
    told(store, machine, Signal.RETIRE, order=Order(id="e-1", task="erase", args={"disks": "all"}))
    assert machine.task().json["task"] == "erase"
    assert machine.result("e-1", ok=ok, problem="" if ok else "sda lies").status == 204
    state = believed(store, machine)
    assert (state.phase, state.failure) == ((Phase.RETIRED, "") if ok else (Phase.FAILED, "erase"))
    if ok:
        assert b"retired" in machine.script().body
        assert machine.archive().status == 403


def test_a_reboot_is_done_when_its_agent_says_so(machine: Machine, store: Store) -> None:
    discovered(machine)
    told(store, machine, Signal.BOOT, order=Order(id="r-1", task="reboot"))
    assert machine.task().json["task"] == "reboot"
    assert machine.result("r-1", ok=True).status == 204
    assert machine.task().status == 204
    assert believed(store, machine).phase is Phase.DISCOVERED


def test_a_machine_in_rescue_gets_a_shell_for_those_with_a_key(tmp_path: Path) -> None:
    service = Service(settings=settings(tmp_path, rescue_keys=("ssh-ed25519 AAAA me",)), folder=tmp_path)
    machine = Machine(service.start())
    try:
        discovered(machine)
        assert "authorized_keys" not in machine.site
        with Store.open(service.settings.store) as store:
            told(store, machine, Signal.RESCUE)
            assert b"rescue" in machine.script().body
            machine.archive()
            assert (machine.site["mode"], machine.site["authorized_keys"]) == ("rescue", ["ssh-ed25519 AAAA me"])
            assert machine.enrol().json["mode"] == "rescue"
            assert believed(store, machine).phase is Phase.RESCUE
    finally:
        service.stop()


def test_late_and_repeated_results_change_nothing(machine: Machine, store: Store) -> None:
    discovered(machine)
    ordered(store, machine)
    assert machine.result("t-0", ok=True).status == 204
    assert believed(store, machine).phase is Phase.INSTALLING
    assert machine.result("t-1", ok=True, outputs={"host_keys": [KEY]}).status == 204
    assert machine.result("t-1", ok=False, problem="too late").status == 204
    assert believed(store, machine).phase is Phase.INSTALLED
    assert any("late result" in str(event["detail"]) for event in events(store, kinds.MACHINE_BOOT))


def test_a_machine_that_restarts_in_an_install_is_claimed_again(machine: Machine, store: Store) -> None:
    discovered(machine)
    ordered(store, machine)
    machine.script()
    state = believed(store, machine)
    assert (state.phase, state.node, state.order) == (Phase.CLAIMED, "kvm-1", None)
    assert "restarted" in state.reason
    old = machine.credential
    machine.archive()
    machine.enrol()
    assert machine.credential != old
    assert machine.call("GET", f"/v1/machines/{machine.id}/task", key=old).status == 401


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_install_goes_on_when_the_service_restarts(
    service: Service, machine: Machine, store: Store, number: int
) -> None:
    discovered(machine)
    ordered(store, machine)
    assert machine.task().status == 200
    service.restart(number)
    assert machine.task().json["id"] == "t-1"
    assert machine.progress("t-1", step="grow", percent=90).status == 204
    assert machine.result("t-1", ok=True, outputs={"host_keys": [KEY]}).status == 204
    assert believed(store, machine).phase is Phase.INSTALLED
    assert store.check() == []


def test_the_real_agent_enrols_tells_facts_and_takes_an_order(machine: Machine, store: Store, tmp_path: Path) -> None:
    machine.script()
    machine.archive()
    root = tmp_path / "root"
    content = {
        "etc/halligan/site.json": json.dumps(machine.site),
        "etc/halligan/ca.pem": machine.ca,
        "run/halligan/bootif": machine.mac,
        "sys/class/dmi/id/product_uuid": machine.uuid,
        "sys/class/dmi/id/product_serial": machine.serial,
        "sys/class/net/eth0/address": machine.mac,
        "sys/class/net/eth0/type": "1",
        "sys/class/net/eth0/device/vendor": "0x1af4",
    }
    for name, text in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    command = [sys.executable, str(ROOT / "pxe/agent/halligan_agent.py"), "--root", str(root), "--keep-clock"]
    with (tmp_path / "agent.log").open("wb") as log:
        agent = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command], stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
    try:

        def discovered_() -> bool:
            assert agent.poll() is None, (tmp_path / "agent.log").read_text()
            [state] = store.machines_like([f"mac:{machine.mac}"])
            machine.id = state.id
            return state.phase is Phase.DISCOVERED

        until(discovered_, "the agent told its facts")
        told(store, machine, Signal.BOOT, order=Order(id="r-1", task="reboot"))
        assert agent.wait(60) == 0, (tmp_path / "agent.log").read_text()
    finally:
        agent.kill()
        agent.wait()
    assert (root / "run/halligan/agent/switched").read_text() == "reboot"
    assert believed(store, machine).order is None
    assert store.check() == []


# --- tokens and credentials ---------------------------------------------------------------------------------------


def test_a_token_is_good_once_even_after_a_restart(service: Service, machine: Machine) -> None:
    machine.boot()
    assert machine.enrol().status == 401
    service.restart()
    assert "used before" in machine.enrol().error


def test_forged_tokens_are_refused(service: Service, machine: Machine) -> None:
    machine.archive()
    token = machine.site["token"]
    body, _, signature = token.partition(".")
    for forged in ("", "x", token[:-2], f"{body}.", f".{signature}", f"{body}.{signature[::-1]}", token + "A", "é"):
        if forged.isascii():
            assert machine.enrol(forged).status == 401, forged
    assert machine.enrol().status == 200


def test_a_token_is_only_for_the_machine_that_booted(record: Record, machine: Machine, store: Store) -> None:
    machine.archive()
    other = Machine(record, number=2, site=machine.site, ca=machine.ca)
    assert machine.mac in other.enrol().error
    assert store.machines_like([f"mac:{other.mac}"]) == []
    assert machine.enrol().status == 200  # nobody could use it up


def test_tokens_expire(tmp_path: Path, service: Service, machine: Machine) -> None:
    from orchestrator.netboot.tokens import LASTS_S, Tokens

    machine.archive()
    made = Tokens(service.settings.state_dir, now=0)
    old = made.issue(mac=machine.mac, uuid=machine.uuid, now=time.time() - LASTS_S - 1)
    assert "expired" in machine.enrol(old).error


def test_nobody_speaks_for_another_machine(record: Record, machine: Machine) -> None:
    other = Machine(record, number=2)
    machine.boot()
    other.boot()
    assert machine.call("GET", f"/v1/machines/{other.id}/task").status == 403
    assert machine.call("PUT", f"/v1/machines/{other.id}/facts", other.document()).status == 403
    mixed = f"{other.id}.{machine.credential.partition('.')[2]}"
    assert machine.call("GET", f"/v1/machines/{other.id}/task", key=mixed).status == 401
    assert machine.call("GET", f"/v1/machines/{machine.id}/task", key="").status == 401


# --- who is who ---------------------------------------------------------------------------------------------------


def test_a_mac_of_another_machine_is_a_conflict_and_changes_nothing(
    record: Record, machine: Machine, store: Store
) -> None:
    discovered(machine)
    before = believed(store, machine)
    thief = Machine(record, number=2, mac=machine.mac)
    assert thief.script().status == 200
    thief.archive()
    assert thief.enrol().status == 409
    state = believed(store, machine)
    assert replace(state, seen=0) == replace(before, seen=0)
    [conflict] = events(store, kinds.MACHINE_CONFLICT)
    assert conflict["machine"] == machine.id
    assert machine.task().status == 204  # its credential is as good as before


def test_another_machines_facts_are_a_conflict(record: Record, machine: Machine, store: Store) -> None:
    other = Machine(record, number=2)
    machine.boot()
    other.boot()
    answer = machine.put_facts(other.document())
    assert answer.status == 409
    assert "another machine's facts" in answer.error
    [conflict] = events(store, kinds.MACHINE_CONFLICT)
    assert (conflict["machine"], conflict["others"]) == (machine.id, [other.id])
    assert believed(store, machine).facts == believed(store, other).facts == ""
    assert machine.put_facts(Machine(record, number=3).document()).status == 409


def test_two_machines_with_one_serial_number_are_two_or_a_conflict(
    record: Record, machine: Machine, store: Store
) -> None:
    discovered(machine)
    twin = Machine(record, number=2, serial=machine.serial)
    twin.script()
    twin.archive()
    answer = twin.enrol()
    assert answer.status == 409
    assert machine.serial in answer.error
    blade = Machine(record, number=3)
    blade.archive()
    serials = {"serials": [machine.serial, blade.serial]}
    body = {**blade.enrolment, "identity": {**blade.identity, **serials}}
    assert blade.call("POST", "/v1/enrol", body, key=blade.site["token"]).status in (200, 409)
    assert believed(store, machine).phase is Phase.DISCOVERED
    assert store.check() == []


def test_an_installed_machine_cannot_enrol(machine: Machine, store: Store) -> None:
    discovered(machine)
    ordered(store, machine)
    machine.archive()
    token = machine.site["token"]
    machine.result("t-1", ok=True, outputs={"host_keys": [KEY]})
    answer = machine.enrol(token)
    assert answer.status == 403
    assert answer.json["hint"]
    assert believed(store, machine).phase is Phase.INSTALLED


def test_unknown_machines_can_be_ignored(tmp_path: Path) -> None:
    service = Service(
        settings=settings(tmp_path, boot={"unknown": "ignore"}, known_macs=("52:54:00:00:00:07",)), folder=tmp_path
    )
    record = service.start()
    try:
        stranger = Machine(record, number=1)
        assert b"ignores" in stranger.script().body
        assert stranger.archive().status == 403
        known = Machine(record, number=7)
        discovered(known)
        body = json.dumps(stranger.document()).encode()
        assert plain(record, "/v1/inspect", "POST", body).status == 403
        with Store.open(service.settings.store) as store:
            assert set(store.snapshot().machines) == {known.id}
    finally:
        service.stop()


# --- bad input ----------------------------------------------------------------------------------------------------


def test_facts_have_a_limit(machine: Machine, store: Store) -> None:
    machine.boot()
    large = b'{"inventory": {"x": "' + b"a" * (10 << 20) + b'"}}'
    with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLError):  # it may hang up in the middle
        assert machine.put_facts(raw=large).status == 413
    assert believed(store, machine).facts == ""
    assert machine.put_facts().status == 204


def test_facts_without_a_length_have_a_limit_too(machine: Machine, store: Store) -> None:
    machine.boot()

    with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLError):  # it may hang up in the middle
        assert machine.put_facts(raw=(b" " * (1 << 20) for _ in range(10))).status == 413
    assert believed(store, machine).facts == ""


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"\xff\xfe", b'{"inventory": 5}', b"[" * 50_000, b'{"protocol": "\\ud800"}']
)
def test_malformed_bodies_are_refused(service: Service, machine: Machine, body: bytes) -> None:
    machine.archive()
    assert machine.call("POST", "/v1/enrol", key=machine.site["token"], raw=body).status == 400
    assert machine.enrol().status == 200
    assert machine.put_facts(raw=body).status == 400
    assert machine.call("POST", f"/v1/machines/{machine.id}/tasks/t/result", raw=body).status == 400
    assert plain(machine.record, "/v1/inspect", "POST", body).status == 400
    assert "Traceback" not in service.log


@pytest.mark.parametrize("body", [b"no gzip at all", gzip.compress(b" " * (100 << 20)), b""])
def test_a_body_that_is_not_what_its_header_says_is_refused(service: Service, machine: Machine, body: bytes) -> None:
    machine.boot()
    answer = plain(machine.record, "/v1/inspect", "POST", body, **{"Content-Encoding": "gzip"})
    assert answer.status in (400, 413)
    assert machine.put_facts().status == 204
    assert "Traceback" not in service.log


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00garbage\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 50_000 + b"\r\n",
        b"POST /v1/inspect HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf",
        b"POST /v1/inspect HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    ],
)
def test_garbage_does_no_harm(service: Service, machine: Machine, sent: bytes) -> None:
    record = machine.record
    for port in (record.http_port, record.https_port):
        with socket.create_connection((record.address, port), timeout=60) as raw, contextlib.suppress(OSError):
            raw.sendall(sent)
            raw.shutdown(socket.SHUT_WR)
            while raw.recv(65536):
                pass
    assert machine.boot().status == 200
    assert "Traceback" not in service.log


def test_facts_of_one_machine_are_limited(machine: Machine, store: Store) -> None:
    machine.boot()
    statuses = [machine.put_facts(machine.document(clock=float(n))).status for n in range(25)]
    assert statuses == [204] * 20 + [429] * 5
    last = machine.document(clock=19.0)
    assert machine.put_facts(last).status == 204  # what is known costs nothing


def test_host_keys_must_look_like_host_keys(machine: Machine, store: Store) -> None:
    discovered(machine)
    ordered(store, machine)
    for keys in (["ssh-ed25519 AAAA\nevil"], "ssh-ed25519", [5], [KEY + " comment"], [KEY] * 11):
        assert machine.result("t-1", ok=True, outputs={"host_keys": keys}).status == 400
    assert believed(store, machine).phase is Phase.INSTALLING


def test_a_boot_request_must_make_sense(record: Record) -> None:
    assert plain(record, "/boot/script").body.startswith(b"#!ipxe")
    assert plain(record, "/boot/script?mac=zz").status == 400
    assert plain(record, "/boot/script?mac=52:54:00:00:00:01&uuid=%0aecho").status == 400
    assert plain(record, "/boot/site.cpio").status == 400
    assert plain(record, "/nothing").status == 404
    assert plain(record, "/boot/script", "POST").status == 405


def test_new_machines_are_limited(tmp_path: Path) -> None:
    service = Service(settings=settings(tmp_path, new_per_minute=3), folder=tmp_path)
    record = service.start()
    try:
        answers = [Machine(record, number=n).script() for n in range(1, 6)]
        assert [answer.status for answer in answers] == [200, 200, 200, 503, 503]
        assert int(answers[-1].headers["retry-after"]) > 0
        assert Machine(record, number=1).script().status == 200  # those that are known are served
        with Store.open(service.settings.store) as store:
            assert len(store.snapshot().machines) == 3
    finally:
        service.stop()


# --- files --------------------------------------------------------------------------------------------------------


def test_what_a_machine_fetches_is_in_its_trace(machine: Machine, store: Store) -> None:
    machine.script()
    for name in ("vmlinuz", "root.squashfs"):
        for _ in range(2):
            assert plain(machine.record, f"/files/discovery/{name}").status == 200
    machine.archive()
    fetched = [event["detail"] for event in events(store, kinds.MACHINE_BOOT) if event["what"] == "file"]
    assert fetched == [f"{name} to 127.0.0.1" for name in ("vmlinuz", "root.squashfs", "site.cpio")]


def test_files_are_served_whole_and_in_parts(service: Service, record: Record) -> None:
    image = service.folder / "images" / "debian-12.raw.zst"
    content = os.urandom(3_000_000)
    image.write_bytes(content)
    path = "/files/images/debian-12.raw.zst"
    assert plain(record, path).body == content
    part = plain(record, path, Range="bytes=1000000-1999999")
    assert (part.status, part.body) == (206, content[1_000_000:2_000_000])
    assert part.headers["content-range"] == "bytes 1000000-1999999/3000000"
    assert plain(record, path, Range="bytes=2999990-").body == content[-10:]
    assert plain(record, path, Range="bytes=-10").body == content[-10:]
    assert plain(record, path, Range="bytes=3000000-").status == 416
    head = plain(record, path, "HEAD")
    assert (head.status, head.headers["content-length"], head.body) == (200, "3000000", b"")
    assert plain(record, "/files/discovery/vmlinuz").body == (service.folder / "discovery" / "vmlinuz").read_bytes()


@pytest.mark.parametrize(
    "path",
    [
        "/files/images/../store.db",
        "/files/images/..%2fstore.db",
        "/files/images/%2e%2e/store.db",
        "/files/images/%2fetc%2fpasswd",
        "/files/images//etc/passwd",
        "/files/images/link",
        "/files/images/.hidden",
        "/files/images/folder",
        "/files/images/a%00b",
        "/files/discovery/manifest.json",
        "/files/discovery/../state/enrol.key",
        "/files/loaders/../ipxe/ipxe.iso",
        "/files/state/enrol.key",
        "/files/images",
    ],
)
def test_no_path_leads_out(service: Service, record: Record, path: str) -> None:
    images = service.folder / "images"
    (images / "link").symlink_to(service.folder / "store.db")
    (images / ".hidden").write_text("x")
    (images / "folder").mkdir()
    assert plain(record, path).status in (400, 404)


# --- ironic-python-agent ------------------------------------------------------------------------------------------


def test_an_ironic_python_agent_may_tell_facts(record: Record, store: Store) -> None:
    ipa = Machine(record, number=5)
    document = {**ipa.document(), "boot_interface": ipa.mac, "logs": "H4sI" * 100, "error": None}
    del document["agent"], document["clock"]
    answer = plain(record, "/v1/inspect", "POST", json.dumps(document).encode())
    ipa.id = answer.json["uuid"]
    state = believed(store, ipa)
    assert (state.phase, state.level) == (Phase.DISCOVERED, "full")
    assert "logs" not in json.loads(store.facts(state.facts))
    document["inventory"]["memory"]["physical_mb"] = 4096
    assert plain(record, "/v1/inspect", "POST", json.dumps(document).encode()).json["uuid"] == ipa.id
    told(store, ipa, Signal.CLAIM, node="kvm-1")
    assert plain(record, "/v1/inspect", "POST", json.dumps(document).encode()).status == 403


def test_strangers_tell_no_facts_of_a_machine_with_an_agent(machine: Machine, store: Store) -> None:
    discovered(machine)
    forged = machine.document()
    forged["inventory"]["disks"] = []
    assert plain(machine.record, "/v1/inspect", "POST", json.dumps(forged).encode()).status == 403
    assert json.loads(store.facts(believed(store, machine).facts)) == machine.document()


# --- many, secrets, operation -------------------------------------------------------------------------------------


def test_a_thousand_machines_at_once(service: Service, record: Record, store: Store) -> None:
    count = 1000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    first = Machine(record)
    first.archive()
    context = ssl.create_default_context(cadata=first.ca)
    https = f"https://{record.address}:{record.https_port}"

    async def live(session: aiohttp.ClientSession, number: int) -> str:
        machine = Machine(record, number=number)
        async with session.get(f"{service.http}/boot/script?{machine.query}") as response:
            assert response.status == 200
        async with session.get(f"{service.http}/boot/site.cpio?mac={machine.mac}&uuid={machine.uuid}") as response:
            token = json.loads(unpack_cpio(await response.read())["etc/halligan/site.json"])["token"]
        key = {"Authorization": f"Bearer {token}"}
        async with session.post(f"{https}/v1/enrol", json=machine.enrolment, headers=key, ssl=context) as response:
            enrolled = await response.json()
            assert response.status == 200, enrolled
        key = {"Authorization": f"Bearer {enrolled['credential']}"}
        path = f"{https}/v1/machines/{enrolled['machine']}"
        async with session.put(f"{path}/facts", json=machine.document(), headers=key, ssl=context) as response:
            assert response.status == 204
        async with session.get(f"{path}/task?wait=60", headers=key, ssl=context) as response:
            assert response.status == 200
            assert (await response.json())["id"] == f"o-{enrolled['machine']}"
        return str(enrolled["machine"])

    async def all_of_them() -> list[str]:
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=300)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            lives = [asyncio.create_task(live(session, number)) for number in range(1, count + 1)]
            giver = asyncio.create_task(asyncio.to_thread(order_everybody))
            done = await asyncio.gather(*lives)
            await giver
            return done

    def order_everybody() -> None:
        def everybody_waits() -> bool:
            return bool(plain(record, "/healthz").json["waiting"] == count)

        until(everybody_waits, "all agents wait", 240)
        states = store.snapshot().machines.values()
        at = time.time()
        moves = [move(state, Signal.BOOT, order=Order(id=f"o-{state.id}", task="reboot")) for state in states]
        store.append([kinds.machine_moved(each, at=at) for each in moves])

    try:
        ids = asyncio.run(all_of_them())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    print(f"{1000 * service.cpu_s / count:.1f} ms of CPU per machine: script, archive, enrolment, facts, order")
    assert len(set(ids)) == count
    assert {state.phase for state in store.snapshot().machines.values()} == {Phase.DISCOVERED}
    assert store.check() == []
    assert "Traceback" not in service.log


def test_no_secret_is_on_record(service: Service, machine: Machine, store: Store) -> None:
    discovered(machine)
    ordered(store, machine)
    machine.enrol()
    machine.call("GET", f"/v1/machines/{machine.id}/task", key=machine.credential + "x")
    machine.result("t-1", ok=True, outputs={"host_keys": [KEY]})
    service.stop()
    whole = b"".join(
        path.read_bytes()
        for folder in (service.folder, service.settings.state_dir)
        for path in folder.iterdir()
        if path.is_file()
    )
    secret = machine.credential.partition(".")[2]
    for hidden in (machine.site["token"], machine.site["token"].partition(".")[0], secret):
        assert hidden.encode() not in whole
    assert machine.id.encode() in whole
    for key in ("enrol.key", "ca/ca.key", "ca/server.key"):
        assert (service.settings.state_dir / key).stat().st_mode & 0o777 == 0o600


def test_one_service_per_site(service: Service) -> None:
    with pytest.raises(LockedError, match="running already"), held(service.settings.state_dir, "test"):
        pass
    assert service.stop() == 0
    assert running(service.settings.state_dir) is None
    with held(service.settings.state_dir, "test"):
        pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_service_that_ended_is_not_running(service: Service, number: int) -> None:
    service.stop(number)
    assert running(service.settings.state_dir) is None


def run_once(folder: Path, **changes: object) -> subprocess.CompletedProcess[str]:
    path = folder / "settings.json"
    settings(folder, **changes).write(path)
    command = [sys.executable, "-m", "orchestrator.netboot", str(path)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = run_once(tmp_path, boot={"http_port": port})
    assert done.returncode == 1
    assert f"127.0.0.1 port {port}: another program has it" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_address_that_is_not_ours_is_told(tmp_path: Path) -> None:
    done = run_once(tmp_path, boot={"address": "192.0.2.1"})
    assert done.returncode == 1
    assert "no interface of this machine has that address" in done.stderr


def test_settings_that_are_wrong_are_told(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    settings(tmp_path).write(path)
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text(path.read_text().replace('"images"', '"imagse"'))
    command = [sys.executable, "-m", "orchestrator.netboot", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 1
    assert 'Did you mean "images"?' in done.stderr
