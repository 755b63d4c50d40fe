"""What is left of hosts that are gone is removed; what is alive or in use is not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from ansible.module_utils.openstack_api import Answer, Session, Token

from plugins.modules.gone_hosts import LeftError, Leftovers

URLS = {"compute": "http://n:8774/v2.1", "placement": "http://p:8778", "network": "http://q:9696"}
COMPUTES = ["kvm-1"]
HOSTS = ["ctl-1", "kvm-1"]


class FakeServices:
    """kvm-1 is there, kvm-9 is gone; `up_for` looks it still seems alive."""

    def __init__(self, up_for: int = 0) -> None:
        self.services = {name: {"id": name, "host": name} for name in ("kvm-1", "kvm-9")}
        self.agents = {f"a-{name}": {"id": f"a-{name}", "host": name} for name in ("ctl-1", "kvm-1", "kvm-9")}
        self.providers = {name: {"uuid": name, "name": name} for name in ("kvm-1", "kvm-9", "shared-disks")}
        self.servers: list[str] = []
        self.allocations: dict[str, Any] = {}
        self.deleted: list[str] = []
        self.up_for = up_for

    def __call__(self, method: str, url: str, *, headers: Mapping[str, str], body: Any) -> Answer:
        path = url.split("/", 3)[3].removeprefix("v2.1/").removeprefix("v2.0/")
        if method == "DELETE":
            kind, key = path.split("/")
            found = {"os-services": self.services, "agents": self.agents, "resource_providers": self.providers}[kind]
            self.deleted.append(path)
            return Answer(204 if found.pop(key, None) else 404, {})
        return Answer(200, {}, json.dumps(self._read(path)).encode())

    def _read(self, path: str) -> object:
        if path.startswith("os-services"):
            self.up_for -= 1
            state = {"kvm-9": "up" if self.up_for >= 0 else "down"}
            return {"services": [{**one, "state": state.get(name, "up")} for name, one in self.services.items()]}
        if path == "agents":
            return {
                "agents": [
                    {**a, "agent_type": "OVS agent", "alive": a["host"] != "kvm-9"} for a in self.agents.values()
                ]
            }
        if path.startswith("servers"):
            return {"servers": [{"name": name} for name in self.servers]}
        if path.endswith("/inventories"):
            return {"inventories": {"DISK_GB": {}} if "shared" in path else {"VCPU": {}}}
        if path.endswith("/allocations"):
            return {"allocations": self.allocations}
        return {"resource_providers": list(self.providers.values())}


def leftovers(services: FakeServices, *, write: bool = True, urls: Mapping[str, str] = URLS) -> Leftovers:
    session = Session(services, Token("t", "u", "p", ("admin",), "", ()))
    return Leftovers(session, urls, write=write, sleep=lambda _: None)


def test_what_is_gone_is_removed_once() -> None:
    services = FakeServices()
    for expected in (
        ["compute service of kvm-9 deleted", "resource provider kvm-9 deleted", "OVS agent of kvm-9 deleted"],
        [],
    ):
        seen = leftovers(services)
        seen.remove(COMPUTES, HOSTS, 0)
        assert seen.changes == expected


def test_looking_deletes_nothing() -> None:
    services = FakeServices(up_for=99)
    seen = leftovers(services, write=False)
    seen.remove(COMPUTES, HOSTS, 0)
    assert len(seen.changes) == 3
    assert services.deleted == []


def test_a_removal_on_its_way_is_waited_for() -> None:
    services = FakeServices(up_for=3)
    leftovers(services).remove(COMPUTES, HOSTS, 60)
    assert "os-services/kvm-9" in services.deleted


def test_what_stays_alive_is_left_and_told() -> None:
    services = FakeServices(up_for=99)
    with pytest.raises(LeftError, match="still alive: nova-compute of kvm-9"):
        leftovers(services).remove(COMPUTES, HOSTS, 20)
    assert services.deleted == []


def test_servers_on_a_host_that_is_gone_are_not_lost() -> None:
    services = FakeServices()
    services.servers = ["web"]
    with pytest.raises(LeftError, match="kvm-9 is gone, and Nova has servers on it: web"):
        leftovers(services).remove(COMPUTES, HOSTS, 0)
    assert services.deleted == []


def test_allocations_keep_a_provider() -> None:
    services = FakeServices()
    services.allocations = {"x": {}}
    with pytest.raises(LeftError, match="Placement has servers on the provider kvm-9"):
        leftovers(services).remove(COMPUTES, HOSTS, 0)


def test_an_empty_list_removes_nothing() -> None:
    services = FakeServices()
    leftovers(services).remove([], [], 0)
    assert services.deleted == []


def test_services_that_the_site_does_not_have_are_not_asked() -> None:
    seen = leftovers(FakeServices(), urls={"network": URLS["network"]})
    seen.remove(COMPUTES, HOSTS, 0)
    assert seen.changes == ["OVS agent of kvm-9 deleted"]
