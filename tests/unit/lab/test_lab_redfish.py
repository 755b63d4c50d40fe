"""The lab's Redfish service: what OpenStack's client makes of it, and how it refuses."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sushy
from sushy import auth, exceptions

from orchestrator.lab import Lab, LabError, LabNode, machine_of
from orchestrator.lab.bmc import make_certificates
from orchestrator.lab.power import Override
from orchestrator.lab.redfish import MOST_SESSIONS, SESSION_S, Reply, Server, Service

NODES = (
    LabNode(name="b1", address="10.77.0.21", kind="vm", firmware="bios"),
    LabNode(name="u1", address="10.77.0.22", kind="vm", memory_mib=2048, cpus=2),
)
LAB = Lab(site="demo", cidr="10.77.0.0/24", gateway="10.77.0.1", nodes=NODES, state_dir=Path("/none"))
SYSTEM = "/redfish/v1/Systems/u1"
RESET = f"{SYSTEM}/Actions/ComputerSystem.Reset"
SESSIONS = "/redfish/v1/SessionService/Sessions"


@dataclass
class FakePower:
    """A machine that does at once what it is told."""

    node: LabNode
    on: bool = False
    wanted: Override = field(default_factory=Override)
    done: list[str] = field(default_factory=list)
    problem: LabError | None = None

    def is_on(self) -> bool:
        return self.on

    def override(self) -> Override:
        return self.wanted

    def set_override(self, wanted: Override) -> None:
        self.wanted = wanted

    def act(self, action: str) -> None:
        if self.problem:
            raise self.problem
        self.done.append(f"{action} {self.wanted.boot()}")
        self.on = action not in ("off", "shutdown")
        if self.on:
            self.wanted = self.wanted.used()


@dataclass
class Stand:
    """The service with machines that are off, and a clock that the test turns."""

    machines: dict[str, FakePower]
    service: Service
    now: list[float]

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        given = {"authorization": basic("lab", "secret"), **{name.replace("_", "-"): v for name, v in headers.items()}}
        text = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        return self.service.answer(method, path, given, text)

    def log_in(self) -> Reply:
        return self.ask("POST", SESSIONS, {"UserName": "lab", "Password": "secret"}, authorization="")


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.fixture
def stand() -> Stand:
    machines = {node.name: FakePower(machine_of(LAB, node.name)) for node in NODES}
    now = [0.0]
    service = Service(machines, user="lab", password="secret", uuid=LAB_UUID, clock=lambda: now[0])
    return Stand(machines, service, now)


LAB_UUID = "92384634-2938-2342-8820-489239905423"


@dataclass(frozen=True)
class Endpoint:
    url: str
    ca: Path

    def client(self, how: auth.AuthBase) -> sushy.Sushy:
        return sushy.Sushy(self.url, verify=str(self.ca), auth=how)


@pytest.fixture
def endpoint(stand: Stand, tmp_path: Path) -> Iterator[Endpoint]:
    """The service on a real socket with TLS."""
    authority, key = make_certificates("127.0.0.1")
    tmp_path.joinpath("ca.pem").write_bytes(authority)
    tmp_path.joinpath("key.pem").write_bytes(key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "key.pem")
    listener = socket.create_server(("127.0.0.1", 0))
    with Server(listener, stand.service, context) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield Endpoint(f"https://127.0.0.1:{listener.getsockname()[1]}", tmp_path / "ca.pem")
        server.shutdown()
        thread.join()


def test_sushy_finds_the_machines_and_who_they_are(endpoint: Endpoint):
    """With a session, as Ironic logs in."""
    with auth.SessionAuth("lab", "secret") as session:
        client = endpoint.client(session)
        systems = {one.identity: one for one in client.get_system_collection().get_members()}
        assert sorted(systems) == ["b1", "u1"]
        node, found = machine_of(LAB, "u1"), systems["u1"]
        assert (found.uuid, found.serial_number, found.manufacturer) == (node.uuid, node.serial, "Halligan")
        assert found.power_state == sushy.PowerState.OFF
        assert found.memory_summary.size_gib == 2
        assert list(found.ethernet_interfaces.summary) == [node.mac]
        assert [one.identity for one in client.get_manager_collection().get_members()] == ["bmc"]
        assert [one.identity for one in found.managers] == ["bmc"]


def test_sushy_switches_a_machine(stand: Stand, endpoint: Endpoint):
    """Every reset that is offered, in an order that makes sense."""
    found = endpoint.client(auth.BasicAuth("lab", "secret")).get_system(SYSTEM)
    offered = found.get_allowed_reset_system_values()
    order = ("On", "ForceRestart", "PowerCycle", "GracefulShutdown", "On", "ForceOff")
    assert {one.value for one in offered} == set(order)
    for kind in order:
        found.reset_system(sushy.ResetType(kind))
    assert [line.split()[0] for line in stand.machines["u1"].done] == ["on", "reset", "cycle", "shutdown", "on", "off"]
    assert stand.machines["b1"].done == []


def test_sushy_sets_what_a_machine_boots_from_once(stand: Stand, endpoint: Endpoint):
    """And sees that it was used up."""
    client = endpoint.client(auth.SessionOrBasicAuth("lab", "secret"))
    found = client.get_system(SYSTEM)
    targets = {one.value for one in found.get_allowed_system_boot_source_values()}
    assert targets == {"None", "Pxe", "Hdd", "UefiHttp"}
    found.set_system_boot_options(target=sushy.BOOT_SOURCE_TARGET_HDD, enabled=sushy.BOOT_SOURCE_ENABLED_ONCE)
    found.refresh()
    assert (found.boot.target, found.boot.enabled) == (sushy.BootSource.HDD, sushy.BootSourceOverrideEnabled.ONCE)
    found.reset_system(sushy.RESET_ON)
    found.refresh()
    assert stand.machines["u1"].done == ["on disk"]
    assert found.boot.enabled == sushy.BootSourceOverrideEnabled.DISABLED
    assert found.boot.mode == sushy.BootSourceOverrideMode.UEFI
    bios = client.get_system(SYSTEM.replace("u1", "b1"))
    assert sushy.BootSource.UEFI_HTTP not in bios.get_allowed_system_boot_source_values()
    assert bios.boot.mode == sushy.BootSourceOverrideMode.LEGACY
    client._auth.close()


def test_sushy_is_refused_with_a_wrong_password(endpoint: Endpoint):
    """On either road."""
    with pytest.raises(exceptions.AccessError):
        endpoint.client(auth.BasicAuth("lab", "wrong")).get_system(SYSTEM)
    with pytest.raises(exceptions.AccessError):
        endpoint.client(auth.SessionAuth("lab", "wrong"))


def test_another_authority_is_not_trusted(endpoint: Endpoint, tmp_path: Path):
    """A client that checks certificates does not even ask."""
    other = tmp_path / "other.pem"
    other.write_bytes(make_certificates("127.0.0.1")[0])
    with pytest.raises(exceptions.ConnectionError):
        Endpoint(endpoint.url, other).client(auth.BasicAuth("lab", "secret"))


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": ""},
        {"authorization": basic("lab", "wrong")},
        {"authorization": basic("root", "secret")},
        {"authorization": "Basic not-base64!"},
        {"authorization": "Basic /w=="},
        {"authorization": "Bearer secret"},
        {"x_auth_token": "guess"},
    ],
)
@pytest.mark.parametrize(("method", "path"), [("GET", SYSTEM), ("POST", RESET), ("GET", "/redfish/v1/nothing")])
def test_nobody_else_gets_in(stand: Stand, headers: Mapping[str, str], method: str, path: str):
    """Nor learns which paths there are."""
    assert stand.ask(method, path, {"ResetType": "On"}, **headers).status == 401
    assert stand.machines["u1"].done == []


def test_the_root_is_open_and_names_no_machine(stand: Stand):
    """So a client can see what it talks to."""
    found = stand.ask("GET", "/redfish/v1/", authorization="")
    assert found.status == 200
    assert "u1" not in json.dumps(found.body)
    assert stand.ask("GET", "/redfish", authorization="").body == {"v1": "/redfish/v1/"}


def test_a_session_ends_when_it_is_closed_or_idle(stand: Stand):
    """Each use makes it last."""
    first, second = stand.log_in(), stand.log_in()
    tokens = [one.headers["X-Auth-Token"] for one in (first, second)]
    assert stand.ask("DELETE", first.headers["Location"], x_auth_token=tokens[0]).status == 204
    assert stand.ask("GET", SYSTEM, x_auth_token=tokens[0]).status == 401
    for _ in range(3):
        stand.now[0] += SESSION_S - 1
        assert stand.ask("GET", SYSTEM, x_auth_token=tokens[1]).status == 200
    stand.now[0] += SESSION_S
    assert stand.ask("GET", SYSTEM, x_auth_token=tokens[1]).status == 401


def test_clients_that_never_close_their_sessions_do_no_harm(stand: Stand):
    """The oldest one goes."""
    tokens = []
    for _ in range(MOST_SESSIONS + 1):
        stand.now[0] += 1
        tokens.append(stand.log_in().headers["X-Auth-Token"])
    assert stand.ask("GET", SYSTEM, x_auth_token=tokens[0]).status == 401
    assert stand.ask("GET", SYSTEM, x_auth_token=tokens[-1]).status == 200
    assert (stand.ask("GET", SESSIONS).body or {})["Members@odata.count"] == MOST_SESSIONS


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/redfish/v1/Systems/none", None, 404),
        ("GET", f"{SYSTEM}/Storage", None, 404),
        ("GET", f"{SYSTEM}/EthernetInterfaces/nic2", None, 404),
        ("GET", RESET, None, 405),
        ("DELETE", SYSTEM, None, 405),
        ("POST", RESET, {"ResetType": "Nmi"}, 400),
        ("POST", RESET, {"ResetType": ["On"]}, 400),
        ("POST", RESET, {"ResetType": "On", "Delay": 5}, 400),
        ("POST", RESET, {}, 400),
        ("POST", RESET, b"not json", 400),
        ("POST", RESET, b"[]", 400),
        ("POST", RESET, b"\xff", 400),
        ("POST", RESET, {"ResetType": "ForceRestart"}, 409),
        ("POST", RESET, {"ResetType": "GracefulShutdown"}, 409),
        ("PATCH", SYSTEM, {"AssetTag": "x"}, 400),
        ("PATCH", SYSTEM, {"Boot": "Pxe"}, 400),
        ("PATCH", SYSTEM, {"Boot": {"BootSourceOverrideTarget": "Cd"}}, 400),
        ("PATCH", SYSTEM, {"Boot": {"BootSourceOverrideTarget": ["Pxe"]}}, 400),
        ("PATCH", SYSTEM, {"Boot": {"BootSourceOverrideMode": "Legacy"}}, 400),
        ("PATCH", SYSTEM, {"Boot": {"BootSourceOverrideTarget": "Hdd", "HttpBootUri": "http://x"}}, 400),
        ("PATCH", SYSTEM.replace("u1", "b1"), {"Boot": {"BootSourceOverrideTarget": "UefiHttp"}}, 400),
    ],
)
def test_what_it_cannot_do_it_refuses_in_redfishs_form(stand: Stand, method: str, path: str, body: Any, status: int):
    """And does nothing of it."""
    found = stand.ask(method, path, body)
    assert found.status == status
    assert (found.body or {})["error"]["@Message.ExtendedInfo"][0]["Message"]
    assert stand.machines["u1"].done == []
    assert stand.machines["u1"].wanted == Override()


def test_a_machine_that_is_as_wanted_stays(stand: Stand):
    """An order that is sent twice is no error."""
    for kind, status in (("ForceOff", 204), ("On", 204), ("On", 204)):
        assert stand.ask("POST", RESET, {"ResetType": kind}).status == status


def test_a_part_of_the_override_keeps_the_rest(stand: Stand):
    """Disabled takes the target with it."""
    for boot, left in (
        ({"BootSourceOverrideTarget": "Hdd", "BootSourceOverrideEnabled": "Continuous"}, ("Hdd", "Continuous")),
        ({"BootSourceOverrideTarget": "Pxe"}, ("Pxe", "Continuous")),
        ({"BootSourceOverrideEnabled": "Once"}, ("Pxe", "Once")),
        ({"BootSourceOverrideEnabled": "Disabled"}, ("None", "Disabled")),
    ):
        assert stand.ask("PATCH", SYSTEM, {"Boot": boot}).status == 200
        wanted = stand.machines["u1"].wanted
        assert (wanted.target, wanted.enabled) == left


def test_a_machine_that_fails_is_told_with_the_hint(stand: Stand):
    """The client shows it to a person."""
    stand.machines["u1"].problem = LabError("Machine u1 could not be switched on", hint="Look at its console.")
    found = stand.ask("POST", RESET, {"ResetType": "On"})
    assert found.status == 500
    assert "could not be switched on" in (found.body or {})["error"]["message"]
    assert "Look at its console." in (found.body or {})["error"]["message"]


def test_a_body_that_is_too_large_is_not_read(endpoint: Endpoint):
    """The connection ends with the answer."""
    context = ssl.create_default_context(cafile=str(endpoint.ca))
    address = ("127.0.0.1", int(endpoint.url.rpartition(":")[2]))
    with (
        socket.create_connection(address, timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
    ):
        secured.sendall(f"POST {SESSIONS} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n".encode())
        with secured.makefile("rb") as answer:
            assert b" 413 " in answer.readline()
            assert answer.read().endswith(b"}")


def test_a_connection_serves_many_requests_and_ends_when_asked(endpoint: Endpoint):
    """Whoever asks for the end is told that it comes, and does not use the connection again."""
    context = ssl.create_default_context(cafile=str(endpoint.ca))
    connection = http.client.HTTPSConnection(endpoint.url.removeprefix("https://"), context=context, timeout=10)
    try:
        for wanted, told in (("keep-alive", None), ("keep-alive", None), ("close", "close")):
            headers = {"Connection": wanted, "Authorization": basic("lab", "secret")}
            connection.request("POST", RESET, json.dumps({"ResetType": "On"}), headers)
            answer = connection.getresponse()
            answer.read()
            assert (answer.status, answer.getheader("Connection")) == (204, told)
    finally:
        connection.close()
