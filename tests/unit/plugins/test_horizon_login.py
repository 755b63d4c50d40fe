"""What horizon_login does at a dashboard, and what it says when the dashboard does something else."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from plugins.modules.horizon_login import STATE, Chromium, ProbeError, Visit, ends_as_3_and_4, keep_picture

OPTIONS: dict[str, Any] = {
    "url": "http://ctl-1/",
    "username": "admin",
    "password": "s3cret",
    "domain": "Default",
    "path": "project/",
    "timeout": 10,
}


class FakeDashboard:
    """A dashboard and a browser at it: a login form, a page with the user's name, a logout."""

    def __init__(self, **different: Any) -> None:
        self.typed: dict[str, str] = {}
        self.scripts: list[str] = []
        self.opened: list[str] = []
        self.password = "s3cret"
        self.asks_domain = False
        self.has_form = True
        self.shown_user = "admin"
        self.has_logout = True
        self.logout_works = True
        self.lands_on = "/project/"
        self.status = 200
        self.heading = "Overview"
        self.slow = 0  # how many looks the browser still sees the page before
        self.session = False
        self._refused = False
        self._focus = ""
        self._path = ""
        for name, value in different.items():
            assert hasattr(self, name)
            setattr(self, name, value)

    def open(self, url: str) -> None:
        self.opened.append(url)
        self._path = "/auth/login/" if not self.session else self.lands_on

    def evaluate(self, script: str) -> Any:
        if script == STATE:
            return self._state()
        self.scripts.append(script)
        for field in ("id_domain", "id_username", "id_password"):
            if f"getElementById('{field}')" in script:
                self._focus = field
        if "loginBtn" in script:
            self.session = self.typed.get("id_password") == self.password
            self._refused = not self.session
            self._path = self.lands_on if self.session else "/auth/login/"
        if "/auth/logout/" in script:
            self.session = self.session and not (self.has_logout and self.logout_works)
            self._path = "/auth/login/"
            return self.has_logout
        return None

    def type(self, text: str) -> None:
        self.typed[self._focus] = text

    def picture(self) -> bytes:
        return b"PNG"

    def _state(self) -> dict[str, Any] | None:
        if self.slow:
            self.slow -= 1
            return {"settled": False, "form": True, "user": ""} if self.slow % 2 else None
        inside = self.session and self._path == self.lands_on
        return {
            "settled": True,
            "path": self._path,
            "status": self.status if inside else 200,
            "title": "Overview" if inside else "Login",
            "form": self.has_form and not inside,
            "domain": self.asks_domain,
            "user": self.shown_user if inside else "",
            "heading": self.heading if inside else "",
            "problem": "Invalid credentials." if self._refused else "",
        }


def ticks() -> Iterator[float]:
    return (float(second) for second in count())


def visit(dashboard: FakeDashboard, **options: Any) -> tuple[dict[str, str], list[bytes]]:
    clock = ticks()
    one = Visit(dashboard, {**OPTIONS, **options}, lambda: next(clock), lambda: None)
    pictures: list[bytes] = []
    one.make(pictures.append)
    return one.report, pictures


def fails(dashboard: FakeDashboard, **options: Any) -> str:
    with pytest.raises(ProbeError) as error:
        visit(dashboard, **options)
    return str(error.value)


def test_a_visit_leaves_evidence() -> None:
    dashboard = FakeDashboard()
    report, pictures = visit(dashboard)
    assert report == {
        "verdict": "ok",
        "url": "http://ctl-1/",
        "login_title": "Login",
        "title": "Overview",
        "heading": "Overview",
        "user": "admin",
        "logout": "Login",
    }
    assert pictures == [b"PNG"]
    assert dashboard.opened == ["http://ctl-1/auth/login/?next=/project/", "http://ctl-1/project/"]


def test_the_password_is_typed_and_in_no_script() -> None:
    dashboard = FakeDashboard()
    report, _ = visit(dashboard)
    assert dashboard.typed == {"id_username": "admin", "id_password": "s3cret"}
    assert "s3cret" not in " ".join([*dashboard.scripts, *dashboard.opened, *report.values()])


def test_a_form_that_asks_for_a_domain_gets_it() -> None:
    dashboard = FakeDashboard(asks_domain=True)
    visit(dashboard, domain="Staff")
    assert dashboard.typed["id_domain"] == "Staff"


def test_pages_that_are_still_coming_are_waited_for() -> None:
    assert visit(FakeDashboard(slow=6))[0]["verdict"] == "ok"


def test_a_wrong_password_is_told_in_the_words_of_the_dashboard() -> None:
    assert fails(FakeDashboard(password="other")) == "the login was refused: Invalid credentials."


def test_a_page_without_a_form_is_no_login_page() -> None:
    assert fails(FakeDashboard(has_form=False)) == (
        "waited 10 s for a login form; the browser shows 'Login' at '/auth/login/'"
    )


def test_another_name_on_the_page_is_a_failure() -> None:
    assert "shows the name 'eve'" in fails(FakeDashboard(shown_user="eve"))


def test_another_page_than_the_one_asked_for_is_a_failure() -> None:
    assert "the page is /settings/, and /project/" in fails(FakeDashboard(lands_on="/settings/"))


def test_a_page_that_says_no_is_a_failure_though_it_shows_the_name() -> None:
    """Without Nova the dashboard answers so: HTTP 403 in the usual frame, and no heading."""
    said = fails(FakeDashboard(status=403, heading=""))
    assert said == "the login worked, but /project/ is no page that admin may see: HTTP 403, 'Overview'"


@pytest.mark.parametrize("page", [{"status": 500}, {"heading": ""}])
def test_a_status_or_a_missing_heading_alone_is_a_failure(page: dict[str, Any]) -> None:
    assert "is no page that admin may see" in fails(FakeDashboard(**page))


def test_a_picture_is_taken_of_a_wrong_page_too() -> None:
    clock = ticks()
    one = Visit(FakeDashboard(shown_user="eve"), OPTIONS, lambda: next(clock), lambda: None)
    pictures: list[bytes] = []
    with pytest.raises(ProbeError):
        one.make(pictures.append)
    assert pictures == [b"PNG"]
    assert one.report["verdict"] == "failed"


def test_a_page_without_a_way_out_is_a_failure() -> None:
    assert "no link to log out" in fails(FakeDashboard(has_logout=False))


def test_a_session_that_outlives_the_logout_is_a_failure() -> None:
    assert "still open after the logout" in fails(FakeDashboard(logout_works=False))


def test_a_picture_is_for_root_only(tmp_path: Path) -> None:
    path = tmp_path / "horizon.png"
    keep_picture(path, b"one")
    keep_picture(path, b"two")
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["horizon.png"]


def test_the_browser_finds_its_pipe_at_3_and_4() -> None:
    words = ends_as_3_and_4(21, 22)
    assert words[:2] == ["/bin/bash", "-c"]
    assert words[2] == 'exec "$0" "$@" 3<&21 4>&22 21<&- 22>&-'


BROWSER = """#!/usr/bin/env python3
import json, os, sys
data = b""
while True:
    more = os.read(3, 65536)
    if not more or "--stops" in sys.argv:
        sys.exit("no more")
    data += more
    while b"\\0" in data:
        one, data = data.split(b"\\0", 1)
        asked = json.loads(one)
        results = {"Target.createTarget": {"targetId": "t"}, "Target.attachToTarget": {"sessionId": "s"},
                   "Browser.getVersion": {"product": "Fake/1"}, "Page.navigate": {"errorText": "net::ERR_REFUSED"},
                   "Runtime.evaluate": {"result": {"value": asked.get("sessionId")}}}
        if asked["method"] == "Input.insertText":
            answer = {"id": asked["id"], "error": {"message": "nothing has the focus"}}
        else:
            answer = {"id": asked["id"], "result": results.get(asked["method"], {})}
        os.write(4, json.dumps({"method": "Some.event"}).encode() + b"\\0" + json.dumps(answer).encode() + b"\\0")
"""


@pytest.fixture
def browser(tmp_path: Path) -> dict[str, Any]:
    program = tmp_path / "browser"
    program.write_text(BROWSER)
    program.chmod(0o755)
    return {"browser": str(program), "run_as": "root", "sandbox": True, "timeout": 20}


@pytest.mark.skipif(os.geteuid() != 0, reason="starting a program as another account needs root")
def test_a_browser_is_driven_through_its_pipe(browser: dict[str, Any]) -> None:
    with Chromium(browser) as page:
        assert page.version() == "Fake/1"
        assert page.evaluate("1") == "s"
        with pytest.raises(ProbeError, match="cannot open http://x/: net::ERR_REFUSED"):
            page.open("http://x/")
        profile = page._profile
        assert profile.exists()
    assert not profile.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="starting a program as another account needs root")
def test_a_browser_that_ends_is_quoted(browser: dict[str, Any]) -> None:
    Path(browser["browser"]).write_text("#!/bin/sh\necho no display >&2; exit 1\n")
    with pytest.raises(ProbeError, match="It said: no display"), Chromium(browser):
        pass
