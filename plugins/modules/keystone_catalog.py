#!/usr/bin/python
# Copyright: the Halligan authors
# Apache License 2.0 (see LICENSE)
"""Keep what a service needs in Keystone: project, roles, user, service, endpoints and a domain of its own."""

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
    Transport,
    UnreachableError,
    issue_token,
    url_join,
)

DOCUMENTATION = r"""
module: keystone_catalog
short_description: Keep what a service needs in Keystone
description:
  - Keeps a project, roles, a user with roles on that project, a service and its endpoints in one region.
  - Keeps a domain with a user that administers it, for a service that makes users of its own there.
  - Only what differs is written. A password is tried by logging in with it.
  - Needs nothing but Python on the target.
  - In check mode a Keystone that cannot be asked yet counts as a change, with a warning.
author: The Halligan authors
options:
  auth:
    description: How to log in.
    type: dict
    required: true
    suboptions:
      auth_url:
        description: URL of the identity API, with its version, as in C(http://10.0.0.11:5000/v3).
        type: str
        required: true
      username:
        description: User that may administer Keystone.
        type: str
        required: true
      password:
        description: Password of that user.
        type: str
        required: true
      project:
        description: Project that the token is scoped to.
        type: str
      domain:
        description: Domain of users and projects.
        type: str
        default: Default
  region:
    description: Region of the endpoints. A region whose name differs only in case is an error, because look-ups are
      case-sensitive.
    type: str
    required: true
  project:
    description: Project to keep. It holds the service users and is never removed by this module.
    type: str
  roles:
    description: Roles to keep. They are never removed by this module.
    type: list
    elements: str
    default: []
  user:
    description: User to keep, with roles on O(project).
    type: dict
    suboptions:
      name:
        description: Name of the user.
        type: str
        required: true
      password:
        description: Password of the user. Needed unless O(state=absent).
        type: str
      roles:
        description: Roles on O(project). Further roles that the user has stay.
        type: list
        elements: str
        default: []
  service:
    description: Service to keep.
    type: dict
    suboptions:
      type:
        description: Type of the service, as in C(image).
        type: str
        required: true
      name:
        description: Name of the service.
        type: str
        required: true
      description:
        description: What the service is, for people.
        type: str
        default: ""
  endpoints:
    description: URLs of the service, by interface.
    type: dict
    suboptions:
      public:
        description: URL for everybody.
        type: str
        required: true
      internal:
        description: URL for the other services.
        type: str
        required: true
      admin:
        description: URL for administration.
        type: str
        required: true
  domain:
    description: Domain to keep beside that of O(auth), with a user in it that administers it.
    type: dict
    suboptions:
      name:
        description: Name of the domain.
        type: str
        required: true
      description:
        description: What the domain is for, for people.
        type: str
        default: ""
      admin:
        description: User in the domain that has the role C(admin) on it, and nowhere else.
        type: str
        required: true
      password:
        description: Password of that user. Needed unless O(state=absent).
        type: str
  state:
    description: V(absent) removes the service with its endpoints, the user, and the domain with all that is in it.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    support: full
"""

EXAMPLES = r"""
- name: Keep the image service in the catalogue
  keystone_catalog:
    auth: {auth_url: "http://10.0.0.11:5000/v3", username: admin, password: "{{ secret }}", project: admin}
    region: regionOne
    project: service
    user: {name: glance, password: "{{ glance_service_password }}", roles: [service]}
    service: {type: image, name: glance, description: Image service}
    endpoints:
      public: http://10.0.0.11:9292
      internal: http://10.0.0.11:9292
      admin: http://10.0.0.11:9292
  no_log: true
"""

RETURN = r"""
changes:
  description: What was changed, or would be in check mode.
  type: list
  elements: str
  returned: always
"""

INTERFACES = ("public", "internal", "admin")

Entity = Mapping[str, Any]


class Catalog:
    """Reads and writes Keystone's entities; notes every difference, and writes it unless told only to look."""

    def __init__(self, session: Session, transport: Transport, auth: Mapping[str, Any], *, write: bool) -> None:
        self.changes: list[str] = []
        self._session = session
        self._transport = transport
        self._auth = auth
        self._write = write
        self._domain_id = ""

    def keep(self, wanted: Mapping[str, Any]) -> None:
        self._keep_region(wanted["region"])
        project = self._keep_project(wanted["project"]) if wanted.get("project") else None
        roles = {name: self._keep_role(name) for name in wanted.get("roles", [])}
        if wanted.get("user"):
            self._keep_user(wanted["user"], self._auth["domain"], self._domain(), _place("projects", project), roles)
        if wanted.get("domain"):
            self._keep_domain(wanted["domain"])
        if wanted.get("service"):
            service = self._keep_service(wanted["service"])
            for interface in INTERFACES if wanted.get("endpoints") else ():
                self._keep_endpoint(service, interface, wanted["endpoints"][interface], wanted["region"])

    def drop(self, wanted: Mapping[str, Any]) -> None:
        if wanted.get("service"):
            name, kind = wanted["service"]["name"], wanted["service"]["type"]
            for service in self._find("services", type=kind, name=name):
                # Keystone removes a service's endpoints with it.
                self._delete("services", service, f"service {name}")
        if wanted.get("user"):
            name = wanted["user"]["name"]
            for user in self._find("users", name=name, domain_id=self._domain()):
                self._delete("users", user, f"user {name}")
        if wanted.get("domain"):
            name = self._name_of_own_domain(wanted["domain"])
            for domain in self._find("domains", name=name):
                # Keystone deletes a domain with everything in it, but only one that nobody can log in to any more.
                self._correct("domains", domain, {"enabled": False}, f"domain {name}")
                self._delete("domains", domain, f"domain {name}")

    def _keep_region(self, name: str) -> None:
        names = [region["id"] for region in self._find("regions")]
        twins = [other for other in names if other != name and other.lower() == name.lower()]
        if twins:
            raise ValueError(
                f"Keystone has a region {twins[0]!r}, and {name!r} is wanted: look-ups are case-sensitive. "
                "Use one spelling in the whole site, or delete the other region and its endpoints."
            )
        if name not in names:
            self._create("regions", {"id": name}, f"region {name}")

    def _keep_project(self, name: str) -> Entity | None:
        found = self._find("projects", name=name, domain_id=self._domain())
        if not found:
            return self._create("projects", {"name": name, "domain_id": self._domain()}, f"project {name}")
        self._correct("projects", found[0], {"enabled": True}, f"project {name}")
        return found[0]

    def _keep_role(self, name: str) -> Entity | None:
        found = self._find("roles", name=name)
        return found[0] if found else self._create("roles", {"name": name}, f"role {name}")

    def _keep_domain(self, wanted: Mapping[str, Any]) -> None:
        name = self._name_of_own_domain(wanted)
        found = self._find("domains", name=name)
        values = {"description": wanted["description"], "enabled": True}
        if found:
            domain: Entity | None = found[0]
            self._correct("domains", found[0], values, f"domain {name}")
        else:
            domain = self._create("domains", {"name": name, **values}, f"domain {name}")
        admin = {"name": wanted["admin"], "password": wanted["password"], "roles": ["admin"]}
        self._keep_user(admin, name, str(domain["id"]) if domain else "", _place("domains", domain), {})

    def _name_of_own_domain(self, wanted: Mapping[str, Any]) -> str:
        name = str(wanted["name"])
        if name.lower() in (self._auth["domain"].lower(), "default"):
            raise ValueError(f"Domain {name!r} is that of the site's own users: a service needs one of its own.")
        return name

    def _keep_user(
        self, wanted: Mapping[str, Any], domain: str, domain_id: str, place: str, roles: Mapping[str, Entity | None]
    ) -> None:
        """Keep a user of a domain, which may be still to create (no id), with roles at a place (a part of a URL)."""
        name, password = wanted["name"], wanted["password"]
        label = f"user {name}"
        found = self._find("users", name=name, domain_id=domain_id) if domain_id else []
        if found:
            user: Entity | None = found[0]
            self._correct("users", found[0], {"enabled": True}, label)
            if not self._can_log_in(name, password, domain):
                self._update("users", found[0], {"password": password}, f"password of {label}")
        else:
            user = self._create("users", {"name": name, "domain_id": domain_id, "password": password}, label)
        for role_name in wanted["roles"]:
            role = roles[role_name] if role_name in roles else self._keep_role(role_name)
            self._keep_grant(user, role, place, f"role {role_name} of {label}")

    def _keep_grant(self, user: Entity | None, role: Entity | None, place: str, label: str) -> None:
        if user is None or role is None or not place:  # only when looking: one of them would be created
            self.changes.append(f"{label} granted")
            return
        url = self._url(f"{place}/users/{user['id']}/roles/{role['id']}")
        if self._session.request("HEAD", url, expect=(200, 204, 404)).status == 404:
            self.changes.append(f"{label} granted")
            if self._write:
                self._session.request("PUT", url)

    def _keep_service(self, wanted: Mapping[str, Any]) -> Entity | None:
        label = f"service {wanted['name']}"
        found = self._find("services", type=wanted["type"])
        if len(found) > 1:
            names = ", ".join(sorted(str(service.get("name")) for service in found))
            raise ValueError(f"Keystone has several services of type {wanted['type']} ({names}): delete all but one.")
        if not found:
            return self._create("services", dict(wanted), label)
        self._correct("services", found[0], {**wanted, "enabled": True}, label)
        return found[0]

    def _keep_endpoint(self, service: Entity | None, interface: str, url: str, region: str) -> None:
        label = f"endpoint {interface} {url}"
        wanted = {"interface": interface, "url": url, "region_id": region}
        if service is None:  # only when looking: it would be created
            self.changes.append(f"{label} created")
            return
        found = self._find("endpoints", service_id=service["id"], interface=interface, region_id=region)
        if not found:
            self._create("endpoints", {**wanted, "service_id": service["id"]}, label)
            return
        self._correct("endpoints", found[0], {"url": url, "enabled": True}, label)
        for extra in found[1:]:
            self._delete("endpoints", extra, f"second endpoint {interface} {extra['url']}")

    def _can_log_in(self, name: str, password: str, domain: str) -> bool:
        who = {"username": name, "password": password, "domain": domain, "project": None}
        try:
            issue_token(self._transport, {**self._auth, **who})
        except ApiError as error:
            if error.status != 401:
                raise
            return False
        return True

    def _domain(self) -> str:
        if not self._domain_id:
            found = self._find("domains", name=self._auth["domain"])
            if not found:
                raise ValueError(f"Keystone has no domain {self._auth['domain']!r}.")
            self._domain_id = str(found[0]["id"])
        return self._domain_id

    def _url(self, path: str) -> str:
        return url_join(self._auth["auth_url"], path)

    def _find(self, kind: str, **filters: str) -> list[Entity]:
        # Names are compared here as well: not every filter of the API is exact in its case.
        query = "&".join(f"{key}={quote(value, safe='')}" for key, value in sorted(filters.items()))
        found = self._session.get(self._url(kind) + (f"?{query}" if query else ""))[kind]
        matches = [one for one in found if all(one.get(key) == value for key, value in filters.items())]
        return sorted(matches, key=lambda one: str(one["id"]))

    def _create(self, kind: str, values: Mapping[str, Any], label: str) -> Entity | None:
        self.changes.append(f"{label} created")
        if not self._write:
            return None
        created = self._session.request("POST", self._url(kind), json_body={kind[:-1]: values}).json()
        entity: Entity = created[kind[:-1]]
        return entity

    def _correct(self, kind: str, seen: Entity, wanted: Mapping[str, Any], label: str) -> None:
        different = {key: value for key, value in wanted.items() if (seen.get(key) or "") != value}
        if different:
            self._update(kind, seen, different, label)

    def _update(self, kind: str, seen: Entity, values: Mapping[str, Any], label: str) -> None:
        self.changes.append(f"{label} updated")
        if self._write:
            self._session.request("PATCH", self._url(f"{kind}/{seen['id']}"), json_body={kind[:-1]: values})

    def _delete(self, kind: str, seen: Entity, label: str) -> None:
        self.changes.append(f"{label} deleted")
        if self._write:
            self._session.request("DELETE", self._url(f"{kind}/{seen['id']}"))


def _place(kind: str, entity: Entity | None) -> str:
    """Return where roles are given, as a part of a URL; empty when it is still to create."""
    return f"{kind}/{entity['id']}" if entity else ""


def main() -> None:
    text = {"type": "str", "required": True}
    endpoint_spec = dict.fromkeys(INTERFACES, text)
    user_spec = {
        "name": text,
        "password": {"type": "str", "no_log": True},
        "roles": {"type": "list", "elements": "str", "default": []},
    }
    service_spec = {"type": text, "name": text, "description": {"type": "str", "default": ""}}
    domain_spec = {
        "name": text,
        "description": {"type": "str", "default": ""},
        "admin": text,
        "password": {"type": "str", "no_log": True},
    }
    module = AnsibleModule(
        argument_spec={
            "auth": AUTH_SPEC,
            "region": text,
            "project": {"type": "str"},
            "roles": {"type": "list", "elements": "str", "default": []},
            "user": {"type": "dict", "options": user_spec},
            "service": {"type": "dict", "options": service_spec},
            "endpoints": {"type": "dict", "options": endpoint_spec},
            "domain": {"type": "dict", "options": domain_spec},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_by={"user": ["project"], "endpoints": ["service"]},
        supports_check_mode=True,
    )
    options = module.params
    present = options["state"] == "present"
    for whose in ("user", "domain"):
        if present and options[whose] and not options[whose]["password"]:
            module.fail_json(msg=f"{whose}.password is needed when state is present", changes=[])
    transport = HttpTransport()
    try:
        session = Session(transport, issue_token(transport, options["auth"]))
    except (ApiError, UnreachableError) as error:
        if not module.check_mode:
            module.fail_json(msg=f"Cannot log in to Keystone: {error}", changes=[])
        module.warn(f"Cannot log in to Keystone: {error}. In check mode this counts as a change.")
        module.exit_json(changed=True, changes=["catalogue (Keystone cannot be asked yet)"])
    catalog = Catalog(session, transport, options["auth"], write=not module.check_mode)
    try:
        if present:
            catalog.keep(options)
        else:
            catalog.drop(options)
    except (ApiError, UnreachableError, ValueError) as error:
        module.fail_json(msg=str(error), changed=bool(catalog.changes), changes=catalog.changes)
    module.exit_json(changed=bool(catalog.changes), changes=catalog.changes)


if __name__ == "__main__":
    main()
