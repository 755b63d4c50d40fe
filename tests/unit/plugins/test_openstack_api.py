"""What the modules know of OpenStack's HTTP APIs."""

from __future__ import annotations

import io
import urllib.error
from email.message import Message
from typing import Any

import pytest
from ansible.module_utils import openstack_api
from ansible.module_utils.openstack_api import (
    Answer,
    ApiError,
    HttpTransport,
    Session,
    UnreachableError,
    issue_token,
    url_join,
)

from tests.unit.plugins.fake_openstack import ADMIN, IDENTITY, FakeCloud


def test_a_token_tells_who_may_do_what_where() -> None:
    token = issue_token(FakeCloud(), ADMIN)
    assert token.roles == ("admin",)
    assert [service["type"] for service in token.catalog] == ["identity"]


def test_a_token_without_a_project_is_unscoped() -> None:
    token = issue_token(FakeCloud(), {**ADMIN, "project": None})
    assert (token.project_id, token.roles, token.catalog) == (None, (), ())


def test_a_refused_login_names_user_and_place_but_not_the_password() -> None:
    with pytest.raises(ApiError) as caught:
        issue_token(FakeCloud(), {**ADMIN, "password": "guessed"})
    assert caught.value.status == 401
    assert str(caught.value) == (
        f"log in as admin at {IDENTITY}/auth/tokens: HTTP 401: The request you have made requires authentication."
    )


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error": {"message": "no\\n such thing"}}', "no such thing"),
        (b'{"error": {"title": "Gone"}}', "Gone"),
        (b"<html>Bad gateway</html>", "<html>Bad gateway</html>"),
        (b'["unexpected"]', '["unexpected"]'),
        (b"", ""),
    ],
)
def test_any_answer_can_be_told_as_an_error(body: bytes, said: str) -> None:
    session = Session(lambda *_, **__: Answer(502, {}, body), issue_token(FakeCloud(), ADMIN))
    with pytest.raises(ApiError, match="GET http://x: HTTP 502") as caught:
        session.get("http://x")
    assert str(caught.value) == f"GET http://x: HTTP 502: {said}"


@pytest.mark.parametrize(
    ("base", "parts", "url"),
    [
        ("http://a:1/v3", ("users",), "http://a:1/v3/users"),
        ("http://a:1/v3/", ("/users/", "7"), "http://a:1/v3/users/7"),
        ("http://a:1", ("v2/images?tag=x",), "http://a:1/v2/images?tag=x"),
    ],
)
def test_url_join(base: str, parts: tuple[str, ...], url: str) -> None:
    assert url_join(base, *parts) == url


class TestHttpTransport:
    def test_an_error_status_is_an_answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        headers = Message()
        headers["X-Thing"] = "yes"

        def refuse(*_: object, **__: object) -> None:
            raise urllib.error.HTTPError("http://x", 401, "Unauthorized", headers, io.BytesIO(b"no"))

        monkeypatch.setattr(openstack_api, "open_url", refuse)
        assert HttpTransport()("GET", "http://x", headers={}, body=None) == Answer(401, {"x-thing": "yes"}, b"no")

    def test_no_answer_is_unreachable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def hang(*_: object, **__: object) -> None:
            raise urllib.error.URLError(ConnectionRefusedError(111, "Connection refused"))

        monkeypatch.setattr(openstack_api, "open_url", hang)
        with pytest.raises(UnreachableError, match=r"GET http://x: .*Connection refused"):
            HttpTransport()("GET", "http://x", headers={}, body=None)

    def test_the_environments_proxy_is_not_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: dict[str, Any] = {}

        def note(*_: object, **options: object) -> None:
            seen.update(options)
            raise TimeoutError

        monkeypatch.setattr(openstack_api, "open_url", note)
        with pytest.raises(UnreachableError):
            HttpTransport(timeout_s=7)("PUT", "http://x", headers={"A": "b"}, body=b"c")
        assert (seen["use_proxy"], seen["timeout"], seen["data"], seen["headers"]) == (False, 7, b"c", {"A": "b"})
