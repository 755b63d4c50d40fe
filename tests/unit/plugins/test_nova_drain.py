"""A compute host is emptied before it goes, or everything says why not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from ansible.module_utils.openstack_api import Answer, Session, Token

from plugins.modules.nova_drain import REASON, Drain, DrainError

URL = "http://ctl-1:8774/v2.1"


class FakeNova:
    """Two hosts; a migration takes as many looks at the server as `looks` says."""

    def __init__(self, *servers: tuple[str, str], looks: int = 2) -> None:
        self.service: dict[str, Any] | None = {"id": "s1", "status": "enabled", "disabled_reason": None}
        self.servers = {
            name: {
                "id": name,
                "name": name,
                "status": status,
                "OS-EXT-STS:task_state": None,
                "OS-EXT-SRV-ATTR:host": "kvm-1",
            }
            for name, status in servers
        }
        self.refuses: set[str] = set()
        self.breaks: set[str] = set()
        self.writes: list[tuple[str, Any]] = []
        self.migrations: list[dict[str, str]] = []
        self.most = 0
        self.expired = False
        self.time = 0.0
        self._looks = looks
        self._moves: dict[str, list[Any]] = {}

    def __call__(self, method: str, url: str, *, headers: Mapping[str, str], body: Any) -> Answer:
        assert headers["OpenStack-API-Version"] == "compute 2.53"
        if self.expired:
            self.expired = False
            return Answer(401, {}, b"{}")
        path, sent = url.removeprefix(URL + "/"), json.loads(body) if body else None
        if method != "GET":
            self.writes.append((path, sent))
        return self._answer(method, path, sent)

    def _answer(self, method: str, path: str, sent: Any) -> Answer:
        if path.startswith("os-services?"):
            return answer({"services": [self.service] if self.service else []})
        if path == "os-services/s1" and self.service:
            self.service |= {"disabled_reason": None, **sent}
            return answer({"service": self.service})
        if path.startswith("servers/detail"):
            return answer({"servers": [s for s in self.servers.values() if s["OS-EXT-SRV-ATTR:host"] == "kvm-1"]})
        if path.startswith("os-migrations"):
            return answer({"migrations": self.migrations})
        name = path.split("/")[1]
        if method == "POST":
            return self._act(self.servers[name], sent)
        self._advance(self.servers[name])
        return answer({"server": self.servers[name]})

    def _act(self, server: dict[str, Any], sent: Mapping[str, Any]) -> Answer:
        (action,) = sent
        if server["name"] in self.refuses:
            return Answer(400, {}, b'{"badRequest": {}}')
        if action == "confirmResize":
            assert server["status"] == "VERIFY_RESIZE"
            self._moves[server["name"]] = [self._looks, action]
        else:
            server["OS-EXT-STS:task_state"] = "migrating"
            self._moves[server["name"]] = [self._looks, action]
            self.most = max(self.most, sum(1 for s in self.servers.values() if s["OS-EXT-STS:task_state"]))
        return Answer(202, {})

    def _advance(self, server: dict[str, Any]) -> None:
        move = self._moves.get(server["name"])
        if not move or move[0] <= 0:
            return
        move[0] -= 1
        if move[0] > 0:
            return
        if move[1] == "confirmResize":
            server["status"] = "SHUTOFF"
            return
        server["OS-EXT-STS:task_state"] = None
        if server["name"] in self.breaks:
            server["fault"] = {"message": "no valid host"}
            return
        server["OS-EXT-SRV-ATTR:host"] = "kvm-2"
        server["status"] = "VERIFY_RESIZE" if move[1] == "migrate" else server["status"]

    def sleep(self, seconds: float) -> None:
        self.time += seconds


def answer(document: object) -> Answer:
    return Answer(200, {}, json.dumps(document).encode())


def drain(nova: FakeNova, *, write: bool = True) -> Drain:
    token = Token("t", "u", "p", ("admin",), "", ())
    return Drain(lambda: Session(nova, token), URL, "kvm-1", write=write, sleep=nova.sleep, clock=lambda: nova.time)


def actions(nova: FakeNova) -> list[tuple[str, str]]:
    return [(path.split("/")[1], next(iter(sent))) for path, sent in nova.writes if path.startswith("servers/")]


def test_an_empty_host_is_disabled_once() -> None:
    nova = FakeNova()
    for expected in (["service disabled"], []):
        seen = drain(nova)
        seen.drain("refuse", 2, 60)
        assert seen.changes == expected
    assert nova.service
    assert nova.service["disabled_reason"] == REASON


def test_servers_are_a_reason_to_refuse() -> None:
    nova = FakeNova(*((f"web-{number}", "ACTIVE") for number in range(7)))
    with pytest.raises(DrainError, match=r"7 servers are still \(web-0, .*web-4 and 2 more\) on kvm-1"):
        drain(nova).drain("refuse", 2, 60)
    assert nova.service
    assert nova.service["status"] == "disabled"
    assert actions(nova) == []


def test_servers_may_be_left() -> None:
    nova = FakeNova(("web", "ACTIVE"))
    drain(nova).drain("leave", 2, 60)
    assert actions(nova) == []


def test_running_servers_move_live_and_stopped_ones_cold() -> None:
    nova = FakeNova(("web", "ACTIVE"), ("batch", "SHUTOFF"))
    seen = drain(nova)
    seen.drain("live", 2, 60)
    assert sorted(actions(nova)) == [("batch", "confirmResize"), ("batch", "migrate"), ("web", "os-migrateLive")]
    assert sorted(seen.changes) == ["server batch moved", "server web moved", "service disabled"]
    assert {server["OS-EXT-SRV-ATTR:host"] for server in nova.servers.values()} == {"kvm-2"}


def test_all_move_cold_when_asked() -> None:
    nova = FakeNova(("web", "ACTIVE"))
    drain(nova).drain("cold", 2, 60)
    assert actions(nova) == [("web", "migrate"), ("web", "confirmResize")]


def test_what_a_dead_run_moved_is_confirmed_and_a_persons_resize_is_not() -> None:
    nova = FakeNova(("web", "VERIFY_RESIZE"), ("own", "VERIFY_RESIZE"))
    for name, kind in (("web", "migration"), ("own", "resize")):
        nova.servers[name]["OS-EXT-SRV-ATTR:host"] = "kvm-2"
        nova.migrations.append({"migration_type": kind, "source_compute": "kvm-1", "instance_uuid": name})
    drain(nova).drain("cold", 2, 60)
    assert actions(nova) == [("web", "confirmResize")]


def test_no_more_move_at_once_than_asked() -> None:
    nova = FakeNova(*((f"web-{number}", "ACTIVE") for number in range(5)))
    drain(nova).drain("live", 2, 600)
    assert nova.most == 2


def test_a_failed_migration_is_told_with_its_cause_and_the_others_go_on() -> None:
    nova = FakeNova(("bad", "ACTIVE"), ("good", "ACTIVE"))
    nova.breaks = {"bad"}
    seen = drain(nova)
    with pytest.raises(DrainError, match=r"still \(bad\) on kvm-1: moving failed. Nova says of bad: no valid host"):
        seen.drain("live", 1, 60)
    assert "server good moved" in seen.changes


def test_a_refused_migration_is_told() -> None:
    nova = FakeNova(("web", "ACTIVE"))
    nova.refuses = {"web"}
    with pytest.raises(DrainError, match="moving failed"):
        drain(nova).drain("live", 1, 60)


def test_a_server_in_error_is_not_touched() -> None:
    nova = FakeNova(("web", "ACTIVE"), ("broken", "ERROR"))
    with pytest.raises(
        DrainError, match=r"1 server is still \(broken\) on kvm-1 in a state that cannot move \(ERROR\)"
    ):
        drain(nova).drain("live", 1, 60)
    assert actions(nova) == []


def test_time_runs_out() -> None:
    nova = FakeNova(("web", "ACTIVE"), looks=1000)
    with pytest.raises(DrainError, match="when the time was up"):
        drain(nova).drain("live", 1, 60)


def test_looking_changes_nothing() -> None:
    nova = FakeNova(("web", "ACTIVE"))
    seen = drain(nova, write=False)
    seen.drain("live", 1, 60)
    assert seen.changes == ["service disabled", "server web moved"]
    assert nova.writes == []


def test_a_host_that_nova_does_not_have_is_no_problem() -> None:
    nova = FakeNova()
    nova.service = None
    seen = drain(nova)
    seen.drain("live", 1, 60)
    seen.resume()
    assert seen.changes == []


def test_an_expired_token_is_renewed() -> None:
    nova = FakeNova(("web", "ACTIVE"))
    seen = drain(nova)
    nova.expired = True
    seen.drain("live", 1, 60)
    assert "server web moved" in seen.changes


@pytest.mark.parametrize(("reason", "expected"), [(REASON, ["service enabled"]), ("broken memory", []), (None, [])])
def test_only_what_was_disabled_here_is_enabled(reason: str | None, expected: list[str]) -> None:
    nova = FakeNova()
    nova.service = {"id": "s1", "status": "disabled", "disabled_reason": reason}
    seen = drain(nova)
    seen.resume()
    assert seen.changes == expected
