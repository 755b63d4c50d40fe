"""Domains of directories, and what their people may do."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.module_utils.openstack_api import Answer, Session, issue_token

from plugins.modules.keystone_domains import Directory
from tests.unit.plugins.fake_openstack import ADMIN, IDENTITY, FakeCloud

MEMBER: dict[str, Any] = {"role": "member", "domain": "corp", "project": "admin", "project_domain": "Default"}


@pytest.fixture
def cloud() -> FakeCloud:
    made = FakeCloud()
    made.data["groups"] = []
    made.add("domains", name="corp", description="Staff", enabled=True)
    made.add("groups", name="Developers", domain_id=made.one("domains", "corp")["id"])
    made.add("users", name="erin", domain_id=made.one("domains", "corp")["id"], enabled=True)
    return made


def directory(cloud: FakeCloud, *, write: bool = True) -> Directory:
    return Directory(Session(cloud, issue_token(cloud, ADMIN)), IDENTITY, write=write)


def test_a_domain_is_made_once(cloud: FakeCloud) -> None:
    for expected in (["domain lab created"], []):
        seen = directory(cloud)
        seen.keep_domain("lab", "Laboratory")
        assert seen.changes == expected


def test_a_disabled_domain_is_enabled(cloud: FakeCloud) -> None:
    cloud.one("domains", "corp")["enabled"] = False
    seen = directory(cloud)
    seen.keep_domain("corp", "Staff")
    assert seen.changes == ["domain corp updated"]
    assert cloud.one("domains", "corp")["enabled"]


def test_looking_writes_nothing(cloud: FakeCloud) -> None:
    seen = directory(cloud, write=False)
    seen.keep_domain("lab", "")
    seen.keep_assignment({**MEMBER, "group": "developers"})
    seen.keep_assignment({**MEMBER, "group": "x", "domain": "lab"})
    assert len(seen.changes) == 4
    assert cloud.writes() == []


@pytest.mark.parametrize("who", [{"group": "developers"}, {"user": "erin"}])
@pytest.mark.parametrize("project", ["admin", None])
def test_a_role_is_given_once(cloud: FakeCloud, who: dict[str, str], project: str | None) -> None:
    ((kind, name),) = who.items()
    for expected in (["role member created", f"role member of {kind} {name} of corp given"], []):
        seen = directory(cloud)
        seen.keep_assignment({**MEMBER, **who, "project": project})
        assert seen.changes == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user": "nobody"}, "no user 'nobody' in domain corp"),
        ({"group": "nobody"}, "no group 'nobody' in domain corp"),
        ({"user": "erin", "domain": "other"}, "no domain 'other'"),
        ({"user": "erin", "project": "other"}, "no project 'other' in domain Default"),
        ({"user": "erin", "project_domain": "other"}, "no domain 'other'"),
    ],
)
def test_who_is_missing_is_named(cloud: FakeCloud, change: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        directory(cloud).keep_assignment({**MEMBER, **change})


def test_a_directory_that_is_down_is_named(cloud: FakeCloud) -> None:
    seen = directory(cloud)
    asked = cloud._identity
    cloud._identity = lambda method, path, *rest: (  # type: ignore[method-assign]
        Answer(500, {}) if path == ["groups"] else asked(method, path, *rest)
    )
    with pytest.raises(ValueError, match="cannot ask for group developers of domain corp: its directory"):
        seen.keep_assignment({**MEMBER, "group": "developers"})
