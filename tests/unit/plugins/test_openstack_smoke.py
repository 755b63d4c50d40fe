"""What openstack_smoke proves, and what it leaves behind."""

from __future__ import annotations

from typing import Any

import pytest

from plugins.modules.openstack_smoke import Smoke, content, version_urls
from tests.unit.plugins.fake_openstack import ADMIN, IMAGE, PLACEMENT, FakeCloud, ticks

OPTIONS: dict[str, Any] = {
    "auth": ADMIN,
    "region": "regionOne",
    "services": ["identity", "image", "placement"],
    "interface": "internal",
    "image_size": 1000,
    "timeout": 60,
}


@pytest.fixture
def cloud() -> FakeCloud:
    cloud = FakeCloud()
    cloud.add_service("image", "glance", IMAGE)
    cloud.add_service("placement", "placement", PLACEMENT)
    return cloud


def probe(cloud: FakeCloud, *, write: bool = True, **options: object) -> dict[str, str]:
    clock = ticks()
    smoke = Smoke(cloud, {**OPTIONS, **options}, clock=lambda: next(clock), sleep=lambda _: None)
    assert smoke.run(write=write) == smoke.report["verdict"]
    return smoke.report


def test_a_working_cloud_is_reported_probe_by_probe(cloud: FakeCloud) -> None:
    assert probe(cloud) == {
        "verdict": "ok",
        "token": "ok: admin, roles admin",
        "catalogue": "ok: identity, image, placement in regionOne",
        "versions": "ok: 9 endpoints",
        "image": "ok: 1000 bytes there and back, sha512 and SHA-256 equal",
        "placement": "ok: 0 resource providers",
    }
    assert cloud.images == {}


def test_check_mode_writes_nothing(cloud: FakeCloud) -> None:
    assert probe(cloud, write=False)["image"] == "ok: listed (check mode: nothing uploaded; 0 test images there)"
    assert cloud.writes() == []


def test_without_a_token_nothing_else_is_asked(cloud: FakeCloud) -> None:
    cloud.down = True
    report = probe(cloud)
    assert report.pop("verdict") == "failed"
    assert report.pop("token").endswith("Connection refused")
    assert {line.partition(":")[0] for line in report.values()} == {"skipped"}


def test_before_the_cloud_is_there_check_mode_does_not_fail(cloud: FakeCloud) -> None:
    cloud.down = True
    assert probe(cloud, write=False)["verdict"] == "unknown"


def test_a_refused_login_fails_in_check_mode_too(cloud: FakeCloud) -> None:
    cloud.one("users", "admin")["password"] = "another"
    assert probe(cloud, write=False)["verdict"] == "failed"


def test_a_missing_service_and_a_missing_interface_are_named(cloud: FakeCloud) -> None:
    cloud.data["endpoints"] = [
        end for end in cloud.data["endpoints"] if not (end["url"] == IMAGE and end["interface"] == "admin")
    ]
    report = probe(cloud, services=["identity", "image", "placement", "compute"])
    assert report["catalogue"] == "failed: no service of type compute; image has no endpoint in regionOne for admin"


def test_an_endpoint_in_another_region_is_named(cloud: FakeCloud) -> None:
    cloud.add(
        "endpoints",
        service_id=cloud.one("services", "glance")["id"],
        interface="public",
        url="x",
        region_id="RegionOne",
        enabled=True,
    )
    assert probe(cloud)["catalogue"] == "failed: image has endpoints in region RegionOne, not only in regionOne"


def test_an_endpoint_without_a_version_document_is_named(cloud: FakeCloud) -> None:
    for endpoint in cloud.data["endpoints"]:
        if endpoint["url"] == PLACEMENT and endpoint["interface"] == "public":
            endpoint["url"] = "http://ctl-1:5000/nothing"
    assert probe(cloud)["versions"] == "failed: no version document at http://ctl-1:5000/nothing"


def test_changed_content_fails_and_is_cleaned_up(cloud: FakeCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    store = cloud.store

    def damage(image_id: str, data: bytes) -> None:
        store(image_id, data)
        cloud.files[image_id] = data[:-1]

    monkeypatch.setattr(cloud, "store", damage)
    report = probe(cloud)
    assert "999 bytes came back that are not the 1000 uploaded" in report["image"]
    assert report["placement"].startswith("ok")
    assert report["verdict"] == "failed"
    assert cloud.images == {}


def test_a_hash_that_is_not_the_uploads_fails(cloud: FakeCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    store = cloud.store
    monkeypatch.setattr(cloud, "store", lambda image_id, data: store(image_id, data + b"x"))
    assert "the sha512 that Glance keeps is not that of the upload" in probe(cloud)["image"]


@pytest.mark.parametrize(("status", "waited"), [("killed", False), ("saving", True)])
def test_an_image_that_never_becomes_active_fails(
    cloud: FakeCloud, monkeypatch: pytest.MonkeyPatch, status: str, waited: bool
) -> None:
    monkeypatch.setattr(cloud, "store", lambda image_id, _: cloud.images[image_id].update(status=status))
    assert f"is {status}, not active" in probe(cloud)["image"]
    asked = [path for method, path in cloud.requests if method == "GET" and path.startswith("/v2/images/")]
    assert (len(asked) > 10) is waited
    assert cloud.images == {}


def test_only_old_leftovers_are_swept(cloud: FakeCloud) -> None:
    # The clock starts on 2027-01-15T08:00:00Z.
    cloud.images["old"] = {"id": "old", "created_at": "2027-01-15T06:59:00Z"}
    cloud.images["young"] = {"id": "young", "created_at": "2027-01-15T07:30:00Z"}
    probe(cloud)
    assert list(cloud.images) == ["young"]


def test_an_answer_of_another_shape_fails_the_probe(cloud: FakeCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud, "store", lambda image_id, _: cloud.images[image_id].update(status="active"))
    assert "the answer is not as documented (KeyError" in probe(cloud)["image"]


def test_the_content_is_the_same_everywhere() -> None:
    assert content(70) == content(100)[:70]
    assert len(content(32)) == 32
    assert content(0) == b""


@pytest.mark.parametrize(
    ("endpoint", "urls"),
    [
        ("http://a:1", ["http://a:1/"]),
        ("http://a:1/v3", ["http://a:1/v3/", "http://a:1/"]),
        (
            "http://a/volume/v3/4711",
            ["http://a/volume/v3/4711/", "http://a/volume/v3/", "http://a/volume/", "http://a/"],
        ),
    ],
)
def test_version_documents_are_looked_for_upwards(endpoint: str, urls: list[str]) -> None:
    assert list(version_urls(endpoint)) == urls
