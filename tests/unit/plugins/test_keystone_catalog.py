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

HEAT: dict[str, Any] = {
    "region": "regionOne",
    "roles": [],
    "domain": {"name": "heat", "description": "Users of stacks", "admin": "heat_domain_admin", "password": "deep"},
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
    catalog = open_catalog(cloud)
    cloud.one("domains", "Default")["name"] = "Other"  # renamed after the login
    with pytest.raises(ValueError, match="no domain 'Default'"):
        catalog.keep(GLANCE)


def test_dropping_leaves_project_and_roles(cloud: FakeCloud) -> None:
    keep(cloud)
    predicted = drop(cloud, write=False)
    assert predicted == ["service glance deleted", "user glance deleted"]
    assert drop(cloud) == predicted
    assert [service["name"] for service in cloud.data["services"]] == ["keystone"]
    assert len(cloud.data["endpoints"]) == 3
    assert cloud.one("projects", "service")
    assert drop(cloud) == []


def test_a_domain_gets_an_administrator_of_its_own(cloud: FakeCloud) -> None:
    predicted = keep(cloud, HEAT, write=False)
    assert cloud.writes() == []
    assert keep(cloud, HEAT) == predicted
    assert predicted == [
        "domain heat created",
        "user heat_domain_admin created",
        "role admin of user heat_domain_admin granted",
    ]
    admin = cloud.one("users", "heat_domain_admin")
    assert admin["domain_id"] == cloud.one("domains", "heat")["id"]
    assert (admin["domain_id"], admin["id"], cloud.one("roles", "admin")["id"]) in cloud.grants
    cloud.requests.clear()
    assert keep(cloud, HEAT) == []
    assert cloud.writes() == []


def test_a_user_of_the_same_name_in_another_domain_is_another_user(cloud: FakeCloud) -> None:
    cloud.add("users", name="heat_domain_admin", domain_id="1", enabled=True, password="other")
    assert "user heat_domain_admin created" in keep(cloud, HEAT)
    assert keep(cloud, HEAT) == []


def test_only_what_differs_in_a_domain_is_written(cloud: FakeCloud) -> None:
    keep(cloud, HEAT)
    cloud.one("users", "heat_domain_admin")["password"] = "another"
    cloud.one("domains", "heat")["description"] = ""
    assert keep(cloud, HEAT) == ["domain heat updated", "password of user heat_domain_admin updated"]
    assert keep(cloud, HEAT) == []


def test_the_domain_of_the_site_is_no_domain_of_a_service(cloud: FakeCloud) -> None:
    mixed_up = {**HEAT, "domain": {**HEAT["domain"], "name": "Default"}}
    with pytest.raises(ValueError, match="'Default' is that of the site's own users"):
        keep(cloud, mixed_up)
    with pytest.raises(ValueError, match="'Default' is that of the site's own users"):
        drop(cloud, mixed_up)
    assert cloud.writes() == []


def test_dropping_a_domain_takes_its_users_with_it(cloud: FakeCloud) -> None:
    keep(cloud, HEAT)
    predicted = drop(cloud, HEAT, write=False)
    assert predicted == ["domain heat updated", "domain heat deleted"]
    assert drop(cloud, HEAT) == predicted
    assert [user["name"] for user in cloud.data["users"]] == ["admin"]
    assert drop(cloud, HEAT) == []
