#!/usr/bin/python
# Copyright: the Halligan authors
# Apache License 2.0 (see LICENSE)
"""Keep domains in Keystone, and the roles that their users and groups have on projects and domains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.openstack_api import (
    AUTH_SPEC,
    ApiError,
    HttpTransport,
    Session,
    UnreachableError,
    issue_token,
    url_join,
)

DOCUMENTATION = r"""
module: keystone_domains
short_description: Keep domains in Keystone, and the roles of their users and groups
description:
  - Keeps domains, enabled. Keystone knows a domain of an LDAP server only once it is there, so this comes first.
  - Gives users and groups of domains, also of those on an LDAP server, roles on projects or domains.
  - Takes nothing away, neither domains nor roles.
author: The Halligan authors
options:
  auth:
    description: How to log in.
    type: dict
    required: true
    suboptions:
      auth_url: {description: URL of the identity API with its version., type: str, required: true}
      username: {description: User that may administer Keystone., type: str, required: true}
      password: {description: Password of that user., type: str, required: true}
      project: {description: Project that the token is scoped to., type: str}
      domain: {description: Domain of user and project., type: str, default: Default}
  domains:
    description: Domains to keep.
    type: list
    elements: dict
    default: []
    suboptions:
      name: {description: Name of the domain., type: str, required: true}
      description: {description: What it is, for people., type: str, default: ""}
  assignments:
    description: Roles to give.
    type: list
    elements: dict
    default: []
    suboptions:
      role: {description: Name of the role; it is made if there is none., type: str, required: true}
      user: {description: Name of the user who gets it., type: str}
      group: {description: Name of the group that gets it., type: str}
      domain: {description: Domain of that user or group., type: str, required: true}
      project: {description: Project on which it is given; without one it is given on the domain., type: str}
      project_domain: {description: Domain of that project., type: str, default: Default}
attributes:
  check_mode:
    support: full
"""

EXAMPLES = r"""
- name: Let the staff in
  keystone_domains:
    auth: {auth_url: "http://10.0.0.11:5000/v3", username: admin, password: "{{ secret }}", project: admin}
    domains: [{name: corp, description: Staff}]
    assignments: [{role: member, group: developers, domain: corp, project: web}]
"""

RETURN = r"""
changes:
  description: What was changed, or would be in check mode.
  type: list
  elements: str
  returned: always
"""

FAULT = 500  # what Keystone answers when a directory cannot be asked

Entity = Mapping[str, Any]


class Directory:
    """Reads and writes domains and grants; notes every difference, and writes it unless told only to look."""

    def __init__(self, session: Session, base: str, *, write: bool) -> None:
        self.changes: list[str] = []
        self._session = session
        self._base = base
        self._write = write

    def keep_domain(self, name: str, description: str) -> None:
        found = self._find("domains", name=name)
        if not found:
            self._create("domain", {"name": name, "description": description, "enabled": True})
            return
        values = {"description": description, "enabled": True}
        different = {key: value for key, value in values.items() if (found[0].get(key) or "") != value}
        if different:
            self.changes.append(f"domain {name} updated")
            if self._write:
                self._session.request("PATCH", self._url(f"domains/{found[0]['id']}"), json_body={"domain": different})

    def keep_assignment(self, wanted: Mapping[str, Any]) -> None:
        """Give a role. Raises ValueError when one of those concerned is not there."""
        kind = "user" if wanted.get("user") else "group"
        who = wanted[kind]
        label = f"role {wanted['role']} of {kind} {who} of {wanted['domain']}"
        domains = self._find("domains", name=wanted["domain"])
        if not domains and not self._write:  # the prediction of another task
            self.changes.append(f"{label} given")
            return
        domain = self._one(domains, f"no domain {wanted['domain']!r}")
        try:
            found = self._find(f"{kind}s", name=who, domain_id=domain["id"])
        except ApiError as error:
            if error.status < FAULT:
                raise
            raise ValueError(
                f"Keystone cannot ask for {kind} {who} of domain {wanted['domain']}: its directory does not answer, or "
                f"refuses the bind user or the certificate. /var/log/keystone/keystone.log says which ({error})"
            ) from error
        actor = self._one(found, f"no {kind} {who!r} in domain {wanted['domain']}")
        place = f"domains/{domain['id']}"
        if wanted.get("project"):
            home = self._one(
                self._find("domains", name=wanted["project_domain"]), f"no domain {wanted['project_domain']!r}"
            )
            project = self._one(
                self._find("projects", name=wanted["project"], domain_id=home["id"]),
                f"no project {wanted['project']!r} in domain {wanted['project_domain']}",
            )
            place = f"projects/{project['id']}"
        roles = self._find("roles", name=wanted["role"])
        role = roles[0] if roles else self._create("role", {"name": wanted["role"]})
        url = self._url(f"{place}/{kind}s/{actor['id']}/roles/{role['id']}") if role else ""
        if not url or self._session.request("HEAD", url, expect=(200, 204, 404)).status == 404:
            self.changes.append(f"{label} given")
            if self._write:
                self._session.request("PUT", url)

    def _one(self, found: list[Entity], otherwise: str) -> Entity:
        if not found:
            raise ValueError(f"Keystone has {otherwise}.")
        return found[0]

    def _find(self, kind: str, **filters: str) -> list[Entity]:
        query = "&".join(f"{key}={quote(value, safe='')}" for key, value in sorted(filters.items()))
        found: list[Entity] = self._session.get(self._url(f"{kind}?{query}"))[kind]
        # LDAP servers do not tell upper from lower case; names that people write in a site may differ in it.
        return [one for one in found if str(one.get("name")).lower() == filters["name"].lower()]

    def _create(self, one: str, values: Mapping[str, Any]) -> Entity | None:
        self.changes.append(f"{one} {values['name']} created")
        if not self._write:
            return None
        made: Entity = self._session.request("POST", self._url(f"{one}s"), json_body={one: values}).json()[one]
        return made

    def _url(self, path: str) -> str:
        return str(url_join(self._base, path))


def main() -> None:
    text = {"type": "str", "required": True}
    module = AnsibleModule(
        argument_spec={
            "auth": AUTH_SPEC,
            "domains": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {"name": text, "description": {"type": "str", "default": ""}},
            },
            "assignments": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "role": text,
                    "user": {"type": "str"},
                    "group": {"type": "str"},
                    "domain": text,
                    "project": {"type": "str"},
                    "project_domain": {"type": "str", "default": "Default"},
                },
                "required_one_of": [("user", "group")],
                "mutually_exclusive": [("user", "group")],
            },
        },
        supports_check_mode=True,
    )
    options = module.params
    transport = HttpTransport(timeout_s=60)
    try:
        session = Session(transport, issue_token(transport, options["auth"]))
    except (ApiError, UnreachableError) as error:
        if not module.check_mode:
            module.fail_json(msg=f"Cannot log in to Keystone: {error}", changes=[])
        module.warn(f"Cannot log in to Keystone: {error}. In check mode this counts as a change.")
        module.exit_json(changed=True, changes=["domains (Keystone cannot be asked yet)"])
    directory = Directory(session, options["auth"]["auth_url"], write=not module.check_mode)
    try:
        for domain in options["domains"]:
            directory.keep_domain(domain["name"], domain["description"])
        for assignment in options["assignments"]:
            directory.keep_assignment(assignment)
    except (ApiError, UnreachableError, ValueError) as error:
        module.fail_json(msg=str(error), changed=bool(directory.changes), changes=directory.changes)
    module.exit_json(changed=bool(directory.changes), changes=directory.changes)


if __name__ == "__main__":
    main()
