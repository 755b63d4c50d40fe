"""Nova sees a compute host, or forgets it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from ansible.module_utils.openstack_api import Answer, Session, Token

from plugins.modules.compute_service import Computes, HostError

URL = "http://ctl-1:8774/v2.1"


class FakeNova:
    """One compute host, which is up after it was asked for `asks` times."""

    def __init__(self, *servers: str, asks: int | None = 0) -> None:
        self.known = asks is not None
        self.asks = asks or 0
        self.servers = servers
        self.writes: list[str] = []
        self.slept: list[float] = []

    def __call__(self, method: str, url: str, *, headers: Mapping[str, str], body: Any) -> Answer:
        path = url.removeprefix(URL)
        if method == "DELETE":
            self.writes.append(path)
            self.known = False
            return Answer(204, {})
        if path.startswith("/servers?"):
            assert "all_tenants=1&host=kvm-1" in path
            return _json({"servers": [{"name": name} for name in self.servers]})
        assert path == "/os-services?binary=nova-compute&host=kvm-1"
        self.asks -= 1
        identity = "0a1b-uuid" if headers.get("OpenStack-API-Version") == "compute 2.53" else 7
        state = "down" if self.asks >= 0 else "up"
        return _json({"services": [{"id": identity, "state": state}] if self.known else []})


def _json(document: object) -> Answer:
    return Answer(200, {}, json.dumps(document).encode())


def computes(nova: FakeNova) -> Computes:
    return Computes(Session(nova, Token("t", "u", "p", ("admin",), "", ())), URL, nova.slept.append)


def test_it_waits_until_the_host_is_up() -> None:
    nova = FakeNova(asks=2)
    assert computes(nova).wait("kvm-1", tries=5)["state"] == "up"
    assert nova.slept == [1, 1]


@pytest.mark.parametrize(("asks", "said"), [(99, "is down"), (None, "has not reported")])
def test_a_host_that_does_not_come_up_is_told_with_where_to_look(asks: int | None, said: str) -> None:
    with pytest.raises(HostError, match=rf"kvm-1 {said} after 3 s\. /var/log/nova/nova-compute\.log on kvm-1"):
        computes(FakeNova(asks=asks)).wait("kvm-1", tries=3)


def test_a_host_without_servers_is_forgotten_once() -> None:
    nova = FakeNova()
    assert computes(nova).forget("kvm-1", write=True)
    assert nova.writes == ["/os-services/0a1b-uuid"]
    assert not computes(nova).forget("kvm-1", write=True)
    assert len(nova.writes) == 1


def test_looking_whether_it_can_be_forgotten_writes_nothing() -> None:
    nova = FakeNova()
    assert computes(nova).forget("kvm-1", write=False)
    assert nova.writes == []


@pytest.mark.parametrize("write", [True, False])
def test_a_host_with_servers_is_kept(*, write: bool) -> None:
    nova = FakeNova("web-2", "web-1")
    with pytest.raises(HostError, match=r"2 servers are still on kvm-1 \(web-1, web-2\).*drain"):
        computes(nova).forget("kvm-1", write=write)
    assert nova.writes == []
