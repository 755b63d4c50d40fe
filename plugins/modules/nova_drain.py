#!/usr/bin/python
# Copyright: the Halligan authors
# Apache License 2.0 (see LICENSE)
"""Take a compute host out of service and its servers off it, or put it back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
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
module: nova_drain
short_description: Take a compute host out of service and its servers off it, or put it back
description:
  - With O(state=drained) it disables the host's service C(nova-compute), so that no new server gets there, and moves
    the servers that are there as O(servers) says.
  - With O(state=in_service) it enables a service again that this module disabled, and no other.
  - It is content when Nova, or the host's service, is gone.
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
  servers:
    description:
      - What becomes of servers on the host. V(refuse) is an error while there are any.
      - V(live) moves running ones without a stop, V(cold) stops them and starts them elsewhere; both move stopped ones.
      - V(leave) leaves them where they are.
    type: str
    choices: [refuse, live, cold, leave]
    default: refuse
  parallel: {description: Servers that move at the same time., type: int, default: 2}
  timeout: {description: Seconds until all servers must have moved., type: int, default: 3600}
  state:
    description: What is wanted.
    type: str
    choices: [drained, in_service]
    default: drained
attributes:
  check_mode:
    support: full
"""

EXAMPLES = r"""
- name: Move the servers away
  nova_drain:
    auth: {auth_url: "http://10.0.0.11:5000/v3", username: admin, password: "{{ secret }}", project: admin}
    region: regionOne
    host: kvm-1
    servers: live
"""

RETURN = r"""
changes:
  description: What was done, or would be in check mode.
  type: list
  elements: str
  returned: always
"""

REASON = "drained by Halligan"  # how a service that was disabled here is told from one that a person disabled
MICROVERSION = {"OpenStack-API-Version": "compute 2.53"}  # services have UUIDs; a live migration chooses its way itself
RUNNING = ("ACTIVE", "PAUSED")
PAUSE_S = 2
SHOWN = 5
UNAUTHORIZED = 401
NOT_FOUND = 404
GONE_OR_BUSY = (400, NOT_FOUND, 409)

Entity = Mapping[str, Any]


class DrainError(Exception):
    """The host cannot be drained."""


class Drain:
    """One compute host, as Nova tells of it and changes it."""

    def __init__(
        self,
        log_in: Callable[[], Session],
        url: str,
        host: str,
        *,
        write: bool = True,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.changes: list[str] = []
        self._log_in = log_in
        self._session = log_in()
        self._url = url
        self._host = host
        self._confirmed: set[str] = set()
        self._write = write
        self._sleep = sleep
        self._clock = clock

    def service(self) -> Entity | None:
        """Return the host's service; None when Nova has none."""
        found = self._call("GET", f"os-services?binary=nova-compute&host={self._host}")["services"]
        return found[0] if found else None

    def resume(self) -> None:
        """Enable the service if it was disabled here."""
        service = self.service()
        if service and service["status"] == "disabled" and service.get("disabled_reason") == REASON:
            self._set(service, {"status": "enabled"}, "service enabled")

    def drain(self, how: str, parallel: int, timeout: float) -> None:
        """Disable the service and empty the host. Raises DrainError when servers are left."""
        service = self.service()
        if service is None:
            return
        if service["status"] != "disabled":
            self._set(service, {"status": "disabled", "disabled_reason": REASON}, "service disabled")
        servers = self._servers()
        if how == "leave":
            return
        if how in ("live", "cold") and self._write:
            self._confirm_earlier()
        if not servers:
            return
        if how == "refuse":
            raise DrainError(
                f"{_these(servers)} on {self._host}, which gets no new ones any more. Move or delete them and apply "
                "again, let the role move them (drain_servers: live or cold), or put the node back into the spec."
            )
        stuck = [one for one in servers if one["status"] not in (*RUNNING, "SHUTOFF")]
        if stuck:
            raise DrainError(
                f"{_these(stuck)} on {self._host} in a state that cannot move "
                f"({', '.join(sorted({str(one['status']) for one in stuck}))}). Mend or delete them and apply again."
            )
        if self._write:
            self._empty(servers, how, max(parallel, 1), self._clock() + timeout)
        else:
            self.changes += [f"server {one['name']} moved" for one in servers]

    def _empty(self, servers: list[Entity], how: str, parallel: int, deadline: float) -> None:
        waiting = list(servers)
        moving: dict[str, Entity] = {}
        failed: list[Entity] = []
        while waiting or moving:
            while waiting and len(moving) < parallel:
                server = waiting.pop(0)
                if self._start(server, how):
                    moving[server["id"]] = server
                else:
                    failed.append(server)
            if self._clock() > deadline:
                raise DrainError(f"{_these([*moving.values(), *waiting])} on {self._host} when the time was up.")
            for key, server in list(moving.items()):
                if (left := self._has_left(server)) is not None:
                    del moving[key]
                    if left:
                        self.changes.append(f"server {server['name']} moved")
                    else:
                        failed.append(server)
            if moving:
                self._sleep(PAUSE_S)
        if failed:
            raise DrainError(
                f"{_these(failed)} on {self._host}: moving failed. {self._why(failed[0])} "
                "`openstack server migration list` tells more. Mend the cause and apply again."
            )

    def _start(self, server: Entity, how: str) -> bool:
        live = how == "live" and server["status"] in RUNNING
        action = {"os-migrateLive": {"host": None, "block_migration": "auto"}} if live else {"migrate": None}
        try:
            self._call("POST", f"servers/{server['id']}/action", action)
        except ApiError as error:
            if error.status == UNAUTHORIZED:
                raise
            return False
        return True

    def _has_left(self, server: Entity) -> bool | None:
        """Return whether a server that was told to move did; None while it is on its way."""
        try:
            told = self._call("GET", f"servers/{server['id']}")["server"]
        except ApiError as error:
            if error.status != NOT_FOUND:
                raise
            return True  # deleted meanwhile
        if told["status"] == "VERIFY_RESIZE":
            self._confirm(server["id"])
            return None
        # Nova sets the state of the task before it answers the request to move: none means that it is over.
        return None if told.get("OS-EXT-STS:task_state") else told["OS-EXT-SRV-ATTR:host"] != self._host

    def _confirm_earlier(self) -> None:
        """Confirm what an earlier run moved and, being cut short, did not confirm. A resize of a person stays."""
        found = self._call("GET", f"os-migrations?source_compute={self._host}&status=finished")["migrations"]
        for migration in found:
            if migration["migration_type"] == "migration" and migration["source_compute"] == self._host:
                self._confirm(migration["instance_uuid"])

    def _confirm(self, server_id: str) -> None:
        """Tell Nova once that a cold migration went well; it takes a while until it looks so."""
        if server_id in self._confirmed:
            return
        self._confirmed.add(server_id)
        try:
            self._call("POST", f"servers/{server_id}/action", {"confirmResize": None})
        except ApiError as error:
            if error.status not in GONE_OR_BUSY:
                raise

    def _why(self, server: Entity) -> str:
        fault = self._call("GET", f"servers/{server['id']}")["server"].get("fault") or {}
        return f"Nova says of {server['name']}: {fault['message']}." if fault.get("message") else ""

    def _servers(self) -> list[Entity]:
        return list(self._call("GET", f"servers/detail?all_tenants=1&host={self._host}")["servers"])

    def _set(self, service: Entity, values: Mapping[str, str], label: str) -> None:
        self.changes.append(label)
        if self._write:
            self._call("PUT", f"os-services/{service['id']}", dict(values))

    def _call(self, method: str, path: str, body: object = None) -> Any:
        """Send a request; with a new token if the old one ran out, for servers may take hours to move."""
        try:
            return self._send(method, path, body)
        except ApiError as error:
            if error.status != UNAUTHORIZED:
                raise
            self._session = self._log_in()
            return self._send(method, path, body)

    def _send(self, method: str, path: str, body: object) -> Any:
        url = url_join(self._url, path)
        return self._session.request(method, url, json_body=body, headers=MICROVERSION).json()


def _these(servers: Iterable[Entity]) -> str:
    names = sorted(str(one["name"]) for one in servers)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    verb = "server is" if len(names) == 1 else "servers are"
    return f"{len(names)} {verb} still ({', '.join(names[:SHOWN])}{more})"


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "auth": AUTH_SPEC,
            "region": {"type": "str", "required": True},
            "host": {"type": "str", "required": True},
            "servers": {"type": "str", "choices": ["refuse", "live", "cold", "leave"], "default": "refuse"},
            "parallel": {"type": "int", "default": 2},
            "timeout": {"type": "int", "default": 3600},
            "state": {"type": "str", "choices": ["drained", "in_service"], "default": "drained"},
        },
        supports_check_mode=True,
    )
    options = module.params
    transport = HttpTransport()

    def log_in() -> Session:
        return Session(transport, issue_token(transport, options["auth"]))

    changes: list[str] = []
    try:
        url = endpoint_of(log_in().token.catalog, "compute", options["region"])
        if url:
            drain = Drain(log_in, url, options["host"], write=not module.check_mode)
            changes = drain.changes
            if options["state"] == "in_service":
                drain.resume()
            else:
                drain.drain(options["servers"], options["parallel"], options["timeout"])
    except (ApiError, DrainError, UnreachableError) as error:
        module.fail_json(msg=str(error), changed=bool(changes), changes=changes)
    module.exit_json(changed=bool(changes), changes=changes)


if __name__ == "__main__":
    main()
