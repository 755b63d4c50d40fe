"""An image that equals a file."""

from __future__ import annotations

import hashlib
from typing import Any

from plugins.modules.glance_image import file_hash, patch_of, pick


def image(content: bytes, **values: Any) -> dict[str, Any]:
    digest = hashlib.sha512(content).hexdigest()
    return {"status": "active", "os_hash_algo": "sha512", "os_hash_value": digest, "created_at": "2026-01-02", **values}


def test_the_image_with_the_files_content_is_picked(tmp_path) -> None:
    file = tmp_path / "disk"
    file.write_bytes(b"new")
    images = [image(b"old", id="1"), image(b"new", id="2"), image(b"new", id="3", created_at="2026-01-01")]
    found = pick(images, lambda algorithm: file_hash(str(file), algorithm))
    assert found is not None
    assert found["id"] == "3"  # the oldest of equal ones


def test_an_image_that_is_still_queued_is_none(tmp_path) -> None:
    queued = image(b"", status="queued", os_hash_algo=None, os_hash_value=None)
    assert pick([queued], lambda algorithm: "x") is None


def test_only_what_differs_is_patched() -> None:
    held = {"min_ram": 96, "visibility": "public", "hw_disk_bus": "ide"}
    wanted = {"min_ram": 96, "visibility": "private", "os_distro": "debian"}
    assert patch_of(held, wanted) == [
        {"op": "add", "path": "/os_distro", "value": "debian"},
        {"op": "replace", "path": "/visibility", "value": "private"},
    ]
