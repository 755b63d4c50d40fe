"""The small part of OpenStack's HTTP APIs that Halligan's modules need, on what every Ansible target has.

Nothing has to be installed on the target: `open_url` is Ansible's own wrapper of urllib. Secrets travel in request
bodies only, and no error message repeats a request.
"""

from __future__ import annotations

import json
import urllib.error
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import IO, Any, Protocol

from ansible.module_utils.urls import open_url

__all__ = [
    "AUTH_SPEC",
    "Answer",
    "ApiError",
    "HttpTransport",
    "Session",
    "Token",
    "Transport",
    "UnreachableError",
    "endpoint_of",
    "issue_token",
    "url_join",
]

AUTH_SPEC: dict[str, Any] = {
    "type": "dict",
    "required": True,
    "options": {
        "auth_url": {"type": "str", "required": True},
        "username": {"type": "str", "required": True},
        "password": {"type": "str", "required": True, "no_log": True},
        "project": {"type": "str"},
        "domain": {"type": "str", "default": "Default"},
    },
}


class UnreachableError(Exception):
    """Nobody answered."""


class ApiError(Exception):
    """The service answered, but not with what was asked for."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes = b""

    def json(self) -> Any:
        return json.loads(self.body) if self.body else None


class Transport(Protocol):
    """One HTTP request; raises UnreachableError, and returns every answer whatever its status."""

    def __call__(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | IO[bytes] | None
    ) -> Answer: ...


class HttpTransport:
    def __init__(self, timeout_s: int = 30) -> None:
        self._timeout_s = timeout_s

    def __call__(self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | IO[bytes] | None) -> Answer:
        # The endpoints are the site's own: a proxy that the environment names for the Internet is no way to them.
        options = {"use_proxy": False, "timeout": self._timeout_s, "follow_redirects": "no"}
        try:
            answer = open_url(url, method=method, data=body, headers=dict(headers), **options)
            with answer:
                return _answer(answer)
        except urllib.error.HTTPError as error:
            with error:
                return _answer(error)
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise UnreachableError(f"{method} {url}: {reason}") from error


def _answer(raw: Any) -> Answer:
    return Answer(raw.status, {name.lower(): value for name, value in raw.headers.items()}, raw.read())


@dataclass(frozen=True)
class Token:
    """An issued token with what Keystone says about it."""

    id: str
    user_id: str
    project_id: str | None
    roles: tuple[str, ...]
    expires_at: str
    catalog: tuple[Mapping[str, Any], ...]


def issue_token(transport: Transport, auth: Mapping[str, Any]) -> Token:
    """Log in with a password; without a project the token is unscoped and its catalogue empty."""
    domain = {"name": auth["domain"]}
    user = {"name": auth["username"], "domain": domain, "password": auth["password"]}
    request: dict[str, Any] = {"identity": {"methods": ["password"], "password": {"user": user}}}
    if auth.get("project"):
        request["scope"] = {"project": {"name": auth["project"], "domain": domain}}
    url = url_join(auth["auth_url"], "auth/tokens")
    body = json.dumps({"auth": request}).encode()
    answer = transport("POST", url, headers={"Content-Type": "application/json"}, body=body)
    if answer.status != 201:
        raise _unexpected(f"log in as {auth['username']} at {url}", answer)
    token = answer.json()["token"]
    return Token(
        id=answer.headers["x-subject-token"],
        user_id=token["user"]["id"],
        project_id=token.get("project", {}).get("id"),
        roles=tuple(sorted(role["name"] for role in token.get("roles", []))),
        expires_at=token["expires_at"],
        catalog=tuple(token.get("catalog", [])),
    )


def endpoint_of(catalog: Iterable[Mapping[str, Any]], kind: str, region: str, interface: str = "internal") -> str:
    """Return the URL of a type of service; empty when the catalogue has none."""
    for service in catalog:
        if service["type"] == kind:
            for endpoint in service["endpoints"]:
                if endpoint["region_id"] == region and endpoint["interface"] == interface:
                    return str(endpoint["url"])
    return ""


class Session:
    """Sends requests with a token. It never renews it: a module's run is shorter than a token's life."""

    def __init__(self, transport: Transport, token: Token) -> None:
        self.token = token
        self._transport = transport

    def get(self, url: str, *, headers: Mapping[str, str] | None = None) -> Any:
        return self.request("GET", url, headers=headers).json()

    def request(
        self,
        method: str,
        url: str,
        *,
        json_body: object = None,
        body: bytes | IO[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        expect: tuple[int, ...] = (200, 201, 202, 204),
    ) -> Answer:
        sent = {"X-Auth-Token": self.token.id, "Accept": "application/json", **(headers or {})}
        if json_body is not None:
            body = json.dumps(json_body).encode()
            sent.setdefault("Content-Type", "application/json")
        answer = self._transport(method, url, headers=sent, body=body)
        if answer.status not in expect:
            raise _unexpected(f"{method} {url}", answer)
        return answer


def url_join(base: str, *parts: str) -> str:
    return "/".join([base.rstrip("/"), *(part.strip("/") for part in parts)])


def _unexpected(what: str, answer: Answer) -> ApiError:
    try:
        error = json.loads(answer.body)["error"]
        said = str(error.get("message") or error.get("title"))
    except (ValueError, KeyError, TypeError, AttributeError):
        said = answer.body[:200].decode(errors="replace")
    return ApiError(f"{what}: HTTP {answer.status}: {' '.join(said.split())}", answer.status)
