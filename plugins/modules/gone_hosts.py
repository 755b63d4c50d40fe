#!/usr/bin/python
# Copyright: the Halligan authors
# Apache License 2.0 (see LICENSE)
"""Remove what Nova, Placement and Neutron still know of hosts that are gone."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.openstack_api import (
    AUTH_SPEC,
    ApiError,
    HttpTransport,
    Session,
    UnreachableError,
    endpoint_of,
    issue_token,
    url_join,
)

DOCUMENTATION = r"""
module: gone_hosts
short_description: Remove what Nova, Placement and Neutron still know of hosts that are gone
description:
  - Deletes compute services of hosts that are not in O(computes), their resource providers, and Neutron's agents of
    hosts that are not in O(hosts).
  - What is alive is never deleted. The module waits for it to fall silent, because its removal may be on the way.
  - A compute host on which Nova still has servers is an error, for they would be lost to their owners.
  - A list that is empty means that nothing is known, and nothing is removed for it.
author: The Halligan authors
options:
  auth:
    description: How to log in.
    type: dict
    required: true
    suboptions:
      auth_url: {description: URL of the identity API with its version., type: str, required: true}
      username: {description: User that may administer the services., type: str, required: true}
      password: {description: Password of that user., type: str, required: true}
      project: {description: Project that the token is scoped to., type: str}
      domain: {description: Domain of user and project., type: str, default: Default}
  region: {description: Region of the services., type: str, required: true}
  computes: {description: Compute hosts that should be., type: list, elements: str, default: []}
  hosts: {description: Hosts that should be and may have agents of Neutron., type: list, elements: str, default: []}
  timeout: {description: Seconds to wait until what should be gone has fallen silent., type: int, default: 600}
attributes:
  check_mode:
    support: full
"""

EXAMPLES = r"""
- name: Remove what is left of hosts that are gone
  gone_hosts:
    auth: {auth_url: "http://10.0.0.11:5000/v3", username: admin, password: "{{ secret }}", project: admin}
    region: regionOne
    computes: [kvm-1, kvm-2]
    hosts: [ctl-1, net-1, kvm-1, kvm-2]
"""

RETURN = r"""
changes:
  description: What was removed, or would be in check mode.
  type: list
  elements: str
  returned: always
"""

COMPUTE = {"OpenStack-API-Version": "compute 2.53"}  # services have UUIDs
PLACEMENT = {"OpenStack-API-Version": "placement 1.20"}
NOT_FOUND = 404
PAUSE_S = 5
SHOWN = 5

Entity = Mapping[str, Any]


class LeftError(Exception):
    """Something that should be gone cannot be removed."""


class Leftovers:
    """What the services know of hosts that should not be."""

    def __init__(
        self,
        session: Session,
        urls: Mapping[str, str],
        *,
        write: bool = True,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.changes: list[str] = []
        self._session = session
        self._urls = urls
        self._write = write
        self._sleep = sleep

    def remove(self, computes: Collection[str], hosts: Collection[str], timeout: float) -> None:
        """Remove all of it. Raises LeftError for what is alive, or has servers."""
        self._wait(computes, hosts, timeout)
        if computes:
            for service in self._services(computes):
                self._check_empty(service["host"])
                self._delete(
                    "compute", f"os-services/{service['id']}", f"compute service of {service['host']}", COMPUTE
                )
            self._remove_providers(computes)
        if hosts:
            for agent in self._agents(hosts):
                self._delete("network", f"v2.0/agents/{agent['id']}", f"{agent['agent_type']} of {agent['host']}")

    def _wait(self, computes: Collection[str], hosts: Collection[str], timeout: float) -> None:
        """Wait until nothing of what should be gone is alive; in check mode it is not waited for."""
        waited = 0.0
        while alive := self._alive(computes, hosts):
            if not self._write:
                return
            if waited >= timeout:
                raise LeftError(
                    f"Not in the spec and still alive: {_some(alive)}. Has their removal failed, or is it still on "
                    "its way? Apply again when it is done; what was never Halligan's has to be stopped by hand."
                )
            self._sleep(PAUSE_S)
            waited += PAUSE_S

    def _alive(self, computes: Collection[str], hosts: Collection[str]) -> list[str]:
        services = self._services(computes) if computes else []
        agents = self._agents(hosts) if hosts else []
        found = [f"nova-compute of {one['host']}" for one in services if one["state"] == "up"]
        return found + [f"{one['agent_type']} of {one['host']}" for one in agents if one["alive"]]

    def _services(self, computes: Collection[str]) -> list[Entity]:
        found = self._get("compute", "os-services?binary=nova-compute", COMPUTE).get("services", [])
        return sorted((one for one in found if one["host"] not in computes), key=lambda one: str(one["host"]))

    def _agents(self, hosts: Collection[str]) -> list[Entity]:
        found = self._get("network", "v2.0/agents").get("agents", [])
        return sorted(
            (one for one in found if one["host"] not in hosts), key=lambda one: (one["host"], one["agent_type"])
        )

    def _check_empty(self, host: str) -> None:
        servers = self._get("compute", f"servers?all_tenants=1&host={host}", COMPUTE)["servers"]
        if servers:
            raise LeftError(
                f"{host} is gone, and Nova has servers on it: {_some([one['name'] for one in servers])}. Rebuild them "
                f"elsewhere (`openstack server evacuate`) or delete them, and apply again."
            )

    def _remove_providers(self, computes: Collection[str]) -> None:
        """Remove providers of compute hosts that Nova does not know any more. They have processors and no parent."""
        for one in self._get("placement", "resource_providers", PLACEMENT).get("resource_providers", []):
            if one["name"] in computes or one.get("parent_provider_uuid"):
                continue
            place = f"resource_providers/{one['uuid']}"
            if "VCPU" not in self._get("placement", f"{place}/inventories", PLACEMENT).get("inventories", {}):
                continue
            if self._get("placement", f"{place}/allocations", PLACEMENT).get("allocations"):
                raise LeftError(
                    f"Placement has servers on the provider {one['name']} of a host that is gone. "
                    "`openstack resource provider allocation` shows and deletes what nobody uses; then apply again."
                )
            self._delete("placement", place, f"resource provider {one['name']}", PLACEMENT)

    def _get(self, service: str, path: str, headers: Mapping[str, str] | None = None) -> Any:
        """Return what a service answers; nothing when the catalogue has no such service."""
        if not self._urls.get(service):
            return {}
        return self._session.get(url_join(self._urls[service], path), headers=headers)

    def _delete(self, service: str, path: str, label: str, headers: Mapping[str, str] | None = None) -> None:
        self.changes.append(f"{label} deleted")
        if not self._write:
            return
        try:
            self._session.request("DELETE", url_join(self._urls[service], path), headers=headers)
        except ApiError as error:
            if error.status != NOT_FOUND:  # another node, or the removal itself, was faster
                raise


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(sorted(names)[:SHOWN])}{more}"


def main() -> None:
    names = {"type": "list", "elements": "str", "default": []}
    module = AnsibleModule(
        argument_spec={
            "auth": AUTH_SPEC,
            "region": {"type": "str", "required": True},
            "computes": names,
            "hosts": names,
            "timeout": {"type": "int", "default": 600},
        },
        supports_check_mode=True,
    )
    options = module.params
    changes: list[str] = []
    try:
        transport = HttpTransport()
        session = Session(transport, issue_token(transport, options["auth"]))
        kinds = ("compute", "placement", "network")
        urls = {kind: endpoint_of(session.token.catalog, kind, options["region"]) for kind in kinds}
        leftovers = Leftovers(session, urls, write=not module.check_mode)
        changes = leftovers.changes
        leftovers.remove(options["computes"], options["hosts"], options["timeout"])
    except (ApiError, LeftError, UnreachableError) as error:
        module.fail_json(msg=str(error), changed=bool(changes), changes=changes)
    module.exit_json(changed=bool(changes), changes=changes)


if __name__ == "__main__":
    main()
