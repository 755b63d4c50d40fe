"""A small cloud in memory that answers HTTP requests as Keystone, Glance and Placement do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from ansible.module_utils.openstack_api import Answer, UnreachableError

IDENTITY = "http://ctl-1:5000/v3"
IMAGE = "http://ctl-1:9292"
PLACEMENT = "http://ctl-1:8778"
ADMIN = {"auth_url": IDENTITY, "username": "admin", "password": "right", "project": "admin", "domain": "Default"}

Entity = dict[str, Any]


class FakeCloud:
    """As bootstrapped: domain Default, project and user admin, one region, Keystone's own service."""

    def __init__(self) -> None:
        self.down = False  # set it to make every request fail
        self.requests: list[tuple[str, str]] = []
        self.grants: set[tuple[str, str, str]] = set()
        self.images: dict[str, Entity] = {}
        self.files: dict[str, bytes] = {}
        self.data: dict[str, list[Entity]] = {
            kind: [] for kind in ("domains", "projects", "users", "roles", "regions", "services", "endpoints")
        }
        self._ids = count(1)
        self._tokens: dict[str, Entity] = {}
        self.add("domains", name="Default")
        self.add("projects", name="admin", domain_id="1", enabled=True)
        self.add("users", name="admin", domain_id="1", enabled=True, password="right")
        self.add("roles", name="admin")
        self.data["regions"].append({"id": "regionOne"})
        self.grants.add(
            (self.one("projects", "admin")["id"], self.one("users", "admin")["id"], self.one("roles", "admin")["id"])
        )
        self.add_service("identity", "keystone", IDENTITY)

    def add(self, kind: str, **values: object) -> Entity:
        entity: Entity = {"id": str(next(self._ids)), **values}
        self.data[kind].append(entity)
        return entity

    def add_service(self, kind: str, name: str, url: str, region: str = "regionOne") -> None:
        service = self.add("services", type=kind, name=name, description="", enabled=True)
        for interface in ("public", "internal", "admin"):
            self.add(
                "endpoints", service_id=service["id"], interface=interface, url=url, region_id=region, enabled=True
            )

    def one(self, kind: str, name: str) -> Entity:
        (found,) = [entity for entity in self.data[kind] if entity.get("name") == name]
        return found

    def urls(self, service: str) -> dict[str, str]:
        own = [end for end in self.data["endpoints"] if end["service_id"] == self.one("services", service)["id"]]
        return {end["interface"]: end["url"] for end in own}

    def roles_of(self, user: str, project: str) -> set[str]:
        where = (self.one("projects", project)["id"], self.one("users", user)["id"])
        ids = {role for *place, role in self.grants if tuple(place) == where}
        return {role["name"] for role in self.data["roles"] if role["id"] in ids}

    def writes(self) -> list[tuple[str, str]]:
        return [
            (method, path)
            for method, path in self.requests
            if method not in ("GET", "HEAD") and path != "/v3/auth/tokens"
        ]

    def __call__(self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None) -> Answer:
        if self.down:
            raise UnreachableError(f"{method} {url}: Connection refused")
        parts = urlsplit(url)
        self.requests.append((method, parts.path))
        sent = json.loads(body) if body and headers.get("Content-Type") == "application/json" else body
        if url == f"{IDENTITY}/auth/tokens":
            return self._log_in(sent["auth"])
        if parts.port != 5000 and parts.path in ("", "/"):
            return _json(300, {"versions": [{"id": "v2.0"}]})
        if url.rstrip("/") == IDENTITY:
            return _json(200, {"version": {"id": "v3.14"}})
        if headers.get("X-Auth-Token") not in self._tokens:
            return _error(401, "The request you have made requires authentication.")
        path = parts.path.strip("/").split("/")
        if url.startswith(IDENTITY):
            return self._identity(method, path[1:], dict(parse_qsl(parts.query)), sent)
        if url.startswith(IMAGE):
            return self._image(method, path[2:], sent)
        return (
            _json(200, {"resource_providers": []}) if path == ["resource_providers"] else _error(404, "no such thing")
        )

    def _log_in(self, auth: Entity) -> Answer:
        given = auth["identity"]["password"]["user"]
        domains = {one["id"] for one in self.data["domains"] if one["name"] == given["domain"]["name"]}
        users = [
            user
            for user in self.data["users"]
            if user["name"] == given["name"] and user["domain_id"] in domains and user["enabled"]
        ]
        if not users or users[0]["password"] != given["password"]:
            return _error(401, "The request you have made requires authentication.")
        token: Entity = {"user": {"id": users[0]["id"]}, "expires_at": "2026-01-01T00:00:00.000000Z"}
        if "scope" in auth:
            project = self.one("projects", auth["scope"]["project"]["name"])
            names = self.roles_of(given["name"], project["name"])
            token |= {
                "project": {"id": project["id"]},
                "roles": [{"name": name} for name in names],
                "catalog": self._catalog(),
            }
        secret = f"token-{next(self._ids)}"
        self._tokens[secret] = token
        return Answer(201, {"x-subject-token": secret}, json.dumps({"token": token}).encode())

    def _catalog(self) -> list[Entity]:
        def endpoints(service: Entity) -> list[Entity]:
            return [end for end in self.data["endpoints"] if end["service_id"] == service["id"] and end["enabled"]]

        return [
            {"type": one["type"], "name": one["name"], "endpoints": endpoints(one)} for one in self.data["services"]
        ]

    def _identity(self, method: str, path: list[str], query: dict[str, str], sent: Any) -> Answer:
        if path[0] in ("projects", "domains") and len(path) == 6:
            return self._grant(method, (path[1], path[3], path[5]))
        kind, one = path[0], path[0][:-1]
        if method == "POST":
            values = {"id": str(next(self._ids)), "enabled": True, **sent[one]}
            self.data[kind].append(values)
            return _json(201, {one: _shown(values)})
        if len(path) == 1:
            matches = [
                e for e in self.data[kind] if all(str(e.get(key)).lower() == query[key].lower() for key in query)
            ]
            return _json(200, {kind: [_shown(entity) for entity in matches]})
        (entity,) = [e for e in self.data[kind] if e["id"] == path[1]]
        if method == "DELETE" and kind == "domains" and entity.get("enabled", True):
            return _error(403, "Cannot delete a domain that is enabled.")
        if method == "DELETE":
            self.data[kind].remove(entity)
            self.data["users"] = [user for user in self.data["users"] if user["domain_id"] != entity["id"]]
            self.data["endpoints"] = [end for end in self.data["endpoints"] if end["service_id"] != entity["id"]]
            return Answer(204, {})
        entity.update(sent[one])
        return _json(200, {one: _shown(entity)})

    def _grant(self, method: str, grant: tuple[str, str, str]) -> Answer:
        if method == "PUT":
            self.grants.add(grant)
        return Answer(204 if grant in self.grants else 404, {})

    def _image(self, method: str, path: list[str], sent: Any) -> Answer:
        if method == "POST":
            image = {"id": str(next(self._ids)), "status": "queued", "created_at": "2026-01-01T00:00:00Z", **sent}
            self.images[image["id"]] = image
            return _json(201, image)
        if not path:
            return _json(200, {"images": list(self.images.values())})
        if path[0] not in self.images:
            return _error(404, "no such image")
        if path[1:] == ["file"] and method == "GET":
            return Answer(200, {}, self.files[path[0]])
        if path[1:] == ["file"]:
            self.store(path[0], sent)
            return Answer(204, {})
        if method == "DELETE":
            del self.images[path[0]]
            return Answer(204, {})
        return _json(200, self.images[path[0]])

    def store(self, image_id: str, data: bytes) -> None:
        digest = hashlib.sha512(data).hexdigest()
        self.files[image_id] = data
        self.images[image_id] |= {"status": "active", "os_hash_algo": "sha512", "os_hash_value": digest}


def _shown(entity: Entity) -> Entity:
    return {key: value for key, value in entity.items() if key != "password"}


def _json(status: int, document: object) -> Answer:
    return Answer(status, {"content-type": "application/json"}, json.dumps(document).encode())


def _error(status: int, message: str) -> Answer:
    return _json(status, {"error": {"code": status, "message": message}})


def ticks() -> Iterator[float]:
    """A clock that advances by a second each time it is read."""
    return (float(second) for second in count(1_800_000_000))
