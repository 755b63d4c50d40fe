#!/usr/bin/python
# Copyright: the Halligan authors
# Apache License 2.0 (see LICENSE)
"""Wait until Nova sees a compute host, or make Nova forget it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
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
module: compute_service
short_description: Wait until Nova sees a compute host, or make Nova forget it
description:
  - With O(state=up) it waits until the service C(nova-compute) of the host is up in the list of Nova.
  - With O(state=absent) it deletes that service, and with it the host's resource provider in Placement.
    It refuses while servers are on the host, and is content when Nova itself is gone.
author: The Halligan authors
options:
  auth:
    description: How to log in.
    type: dict
    required: true
    suboptions:
      auth_url: {description: URL of the identity API with its version., type: str, required: true}
      username: {description: User that may administer Nova., type: str, required: true}
      password: {description: Password of that user., type: str, required: true}
      project: {description: Project that the token is scoped to., type: str}
      domain: {description: Domain of user and project., type: str, default: Default}
  region: {description: Region of Nova., type: str, required: true}
  host: {description: Name of the host among the compute services., type: str, required: true}
  timeout: {description: Seconds to wait., type: int, default: 120}
  state:
    description: What is wanted.
    type: str
    choices: [up, absent]
    default: up
attributes:
  check_mode:
    support: full
"""

EXAMPLES = r"""
- name: Wait until Nova sees the host
  compute_service:
    auth: {auth_url: "http://10.0.0.11:5000/v3", username: admin, password: "{{ secret }}", project: admin}
    region: regionOne
    host: kvm-1
"""

RETURN = r"""
service:
  description: The service as Nova told of it last; empty when it has none.
  type: dict
  returned: always
"""


class HostError(Exception):
    """The host is not as it must be."""


class Computes:
    """The compute services of a region."""

    def __init__(self, session: Session, url: str, sleep: Callable[[float], None]) -> None:
        self._session = session
        self._url = url
        self._sleep = sleep

    def find(self, host: str) -> Mapping[str, Any]:
        found = self._session.get(url_join(self._url, f"os-services?binary=nova-compute&host={host}"))["services"]
        return found[0] if found else {}

    def wait(self, host: str, tries: int) -> Mapping[str, Any]:
        """Return the service once it is up; ask once a second."""
        told: Mapping[str, Any] = {}
        for _ in range(tries):
            told = self.find(host)
            if told.get("state") == "up":
                return told
            self._sleep(1)
        state = f"is {told['state']}" if told else "has not reported"
        raise HostError(
            f"nova-compute of {host} {state} after {tries} s. /var/log/nova/nova-compute.log on {host} says why; "
            "often the message broker or Placement cannot be reached from there."
        )

    def forget(self, host: str, *, write: bool) -> bool:
        """Delete the service; return whether there was one."""
        told = self.find(host)
        if not told:
            return False
        servers = self._session.get(url_join(self._url, f"servers?all_tenants=1&host={host}"))["servers"]
        if servers:
            names = ", ".join(sorted(one["name"] for one in servers)[:5])
            raise HostError(
                f"{len(servers)} servers are still on {host} ({names}): move or delete them first (role drain)."
            )
        if write:
            headers = {"OpenStack-API-Version": "compute 2.53"}  # from here on services have UUIDs
            service = self._session.get(
                url_join(self._url, f"os-services?binary=nova-compute&host={host}"), headers=headers
            )["services"][0]
            self._session.request("DELETE", url_join(self._url, "os-services", service["id"]), headers=headers)
        return True


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "auth": AUTH_SPEC,
            "region": {"type": "str", "required": True},
            "host": {"type": "str", "required": True},
            "timeout": {"type": "int", "default": 120},
            "state": {"type": "str", "choices": ["up", "absent"], "default": "up"},
        },
        supports_check_mode=True,
    )
    options = module.params
    try:
        transport = HttpTransport()
        session = Session(transport, issue_token(transport, options["auth"]))
        url = endpoint_of(session.token.catalog, "compute", options["region"])
        if not url:
            if options["state"] == "absent":
                module.exit_json(changed=False, service={})
            module.fail_json(msg=f"The catalogue has no compute service in {options['region']}.")
        computes = Computes(session, url, time.sleep)
        if options["state"] == "absent":
            module.exit_json(changed=computes.forget(options["host"], write=not module.check_mode), service={})
        told = (
            computes.find(options["host"]) if module.check_mode else computes.wait(options["host"], options["timeout"])
        )
    except (ApiError, HostError, UnreachableError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, service=dict(told))


if __name__ == "__main__":
    main()
