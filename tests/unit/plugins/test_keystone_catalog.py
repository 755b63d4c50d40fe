"""What keystone_catalog writes, and what it leaves alone."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.module_utils.openstack_api import Session, issue_token

from plugins.modules.keystone_catalog import Catalog
from tests.unit.plugins.fake_openstack import ADMIN, IMAGE, FakeCloud

GLANCE: dict[str, Any] = {
    "region": "regionOne",
    "project": "service",
    "roles": [],
    "user": {"name": "glance", "password": "secret", "roles": ["service"]},
    "service": {"type": "image", "name": "glance", "description": "Image service"},
    "endpoints": {"public": IMAGE, "internal": IMAGE, "admin": IMAGE},
}


@pytest.fixture
def cloud() -> FakeCloud:
    return FakeCloud()


def open_catalog(cloud: FakeCloud, *, write: bool = True) -> Catalog:
    return Catalog(Session(cloud, issue_token(cloud, ADMIN)), cloud, ADMIN, write=write)


def keep(cloud: FakeCloud, wanted: dict[str, Any] = GLANCE, *, write: bool = True) -> list[str]:
    catalog = open_catalog(cloud, write=write)
    catalog.keep(wanted)
    return catalog.changes


def drop(cloud: FakeCloud, wanted: dict[str, Any] = GLANCE, *, write: bool = True) -> list[str]:
    catalog = open_catalog(cloud, write=write)
    catalog.drop(wanted)
    return catalog.changes


def test_a_new_service_gets_all_it_needs(cloud: FakeCloud) -> None:
    assert keep(cloud) == [
        "project service created",
        "user glance created",
        "role service created",
        "role service of user glance granted",
        "service glance created",
        f"endpoint public {IMAGE} created",
        f"endpoint internal {IMAGE} created",
        f"endpoint admin {IMAGE} created",
    ]
    assert cloud.roles_of("glance", "service") == {"service"}
    assert cloud.urls("glance") == GLANCE["endpoints"]


def test_a_second_run_writes_nothing(cloud: FakeCloud) -> None:
    keep(cloud)
    cloud.requests.clear()
    assert keep(cloud) == []
    assert cloud.writes() == []


def test_looking_predicts_the_same_changes_and_writes_nothing(cloud: FakeCloud) -> None:
    predicted = keep(cloud, write=False)
    assert cloud.writes() == []
    assert predicted == keep(cloud)


def test_only_what_differs_is_written(cloud: FakeCloud) -> None:
    keep(cloud)
    cloud.one("users", "glance")["password"] = "another"
    cloud.one("projects", "service")["enabled"] = False
    cloud.grants.clear()
    cloud.grants.add(("2", "3", "4"))
    moved = {**GLANCE, "endpoints": {**GLANCE["endpoints"], "public": "https://cloud:9292"}}
    assert keep(cloud, moved) == [
        "project service updated",
        "password of user glance updated",
        "role service of user glance granted",
        "endpoint public https://cloud:9292 updated",
    ]
    assert cloud.urls("glance")["public"] == "https://cloud:9292"
    assert keep(cloud, moved) == []


def test_a_second_endpoint_of_an_interface_goes(cloud: FakeCloud) -> None:
    keep(cloud)
    service = cloud.one("services", "glance")
    cloud.add(
        "endpoints", service_id=service["id"], interface="admin", url="http://old", region_id="regionOne", enabled=True
    )
    assert keep(cloud) == ["second endpoint admin http://old deleted"]
    assert cloud.urls("glance") == GLANCE["endpoints"]


def test_a_service_of_the_type_is_taken_over(cloud: FakeCloud) -> None:
    cloud.add_service("image", "old-glance", IMAGE)
    assert "service glance updated" in keep(cloud)
    assert [service["name"] for service in cloud.data["services"]] == ["keystone", "glance"]


def test_a_name_that_differs_in_case_only_is_another_name(cloud: FakeCloud) -> None:
    cloud.add("projects", name="Service", domain_id="1", enabled=True)
    assert "project service created" in keep(cloud)


def test_a_region_that_differs_in_case_only_is_refused(cloud: FakeCloud) -> None:
    with pytest.raises(ValueError, match="has a region 'regionOne', and 'RegionOne' is wanted"):
        keep(cloud, {**GLANCE, "region": "RegionOne"})
    assert cloud.writes() == []


def test_two_services_of_one_type_are_refused(cloud: FakeCloud) -> None:
    cloud.add_service("image", "one", IMAGE)
    cloud.add_service("image", "two", IMAGE)
    with pytest.raises(ValueError, match=r"several services of type image \(one, two\)"):
        keep(cloud)


def test_an_unknown_domain_is_refused(cloud: FakeCloud) -> None:
    cloud.one("domains", "Default")["name"] = "Other"
    with pytest.raises(ValueError, match="no domain 'Default'"):
        keep(cloud)


def test_dropping_leaves_project_and_roles(cloud: FakeCloud) -> None:
    keep(cloud)
    predicted = drop(cloud, write=False)
    assert predicted == ["service glance deleted", "user glance deleted"]
    assert drop(cloud) == predicted
    assert [service["name"] for service in cloud.data["services"]] == ["keystone"]
    assert len(cloud.data["endpoints"]) == 3
    assert cloud.one("projects", "service")
    assert drop(cloud) == []
