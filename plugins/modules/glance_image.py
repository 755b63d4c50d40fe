#!/usr/bin/python
# Copyright: the Halligan authors
# Apache License 2.0 (see LICENSE)
"""Keep an image in Glance that equals a file of this host."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.openstack_api import (
    AUTH_SPEC,
    ApiError,
    HttpTransport,
    Session,
    UnreachableError,
    issue_token,
    url_join,
)

DOCUMENTATION = r"""
module: glance_image
short_description: Keep an image in Glance that equals a file of this host
description:
  - Uploads the file when no active image of the name has its checksum, and keeps the image's properties.
  - Images are compared by the hash that Glance made of what it stored, so an equal file is never sent twice.
  - A new content is a new image. The old one is hidden, not deleted, since servers may have been made from it.
  - Needs nothing but Python on the target.
  - In check mode a Glance that cannot be asked yet counts as a change, with a warning.
author: The Halligan authors
options:
  auth:
    description: How to log in.
    type: dict
    required: true
    suboptions:
      auth_url: {description: URL of the identity API with its version., type: str, required: true}
      username: {description: User that may publish images., type: str, required: true}
      password: {description: Password of that user., type: str, required: true}
      project: {description: Project that owns the image., type: str}
      domain: {description: Domain of user and project., type: str, default: Default}
  url:
    description: URL of the image API, without a version.
    type: str
    required: true
  name:
    description: Name of the image.
    type: str
    required: true
  path:
    description: File with the image. Not needed with O(state=absent).
    type: path
  disk_format:
    description: Format of the file.
    type: str
    choices: [raw, qcow2, vhd, vhdx, vmdk, iso]
    default: qcow2
  visibility:
    description: Who may use it.
    type: str
    choices: [public, private, shared, community]
    default: public
  min_disk:
    description: Least size of a server's disk, in GB.
    type: int
    default: 0
  min_ram:
    description: Least memory of a server, in MB.
    type: int
    default: 0
  properties:
    description: Further properties, for example C(hw_disk_bus). A property that is not named here is left alone.
    type: dict
    default: {}
  timeout:
    description: Seconds for the upload, and to wait until the image is active.
    type: int
    default: 1800
  state:
    description: Whether the image shall be there.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    support: full
"""

EXAMPLES = r"""
- name: Keep the image of Debian
  glance_image:
    auth: {auth_url: "http://10.0.0.11:5000/v3", username: admin, password: "{{ secret }}", project: admin}
    url: http://10.0.0.11:9292
    name: debian-12
    path: /var/lib/images/debian-12.qcow2
"""

RETURN = r"""
id:
  description: The image's id; empty when there is none.
  type: str
  returned: always
done:
  description: What was done, or would be in check mode.
  type: list
  elements: str
  returned: always
"""

JSON_PATCH = {"Content-Type": "application/openstack-images-v2.1-json-patch"}  # of Glance's API, version 2


class ImageError(Exception):
    """Glance took the image, but did not make of it what was asked for."""


def file_hash(path: str, algorithm: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def pick(images: list[Mapping[str, Any]], digest: Callable[[str], str]) -> Mapping[str, Any] | None:
    """Return the active image whose content is the file's; of several the oldest. `digest` maps algorithm to hash."""
    for image in sorted(images, key=lambda one: str(one["created_at"])):
        algorithm = image.get("os_hash_algo")
        if image["status"] == "active" and algorithm and image["os_hash_value"] == digest(str(algorithm)):
            return image
    return None


def patch_of(image: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the JSON patch (RFC 6902) that gives the image the wanted values."""
    return [
        {"op": "replace" if name in image else "add", "path": "/" + name, "value": value}
        for name, value in sorted(wanted.items())
        if image.get(name) != value
    ]


class Images:
    """The images of one name; `write` false only says what would be done."""

    def __init__(self, session: Session, url: str, *, write: bool, sleep: Callable[[float], None]) -> None:
        self.done: list[str] = []
        self._session = session
        self._url = url_join(url, "v2/images")
        self._write = write
        self._sleep = sleep

    def keep(self, options: Mapping[str, Any]) -> str:
        """Upload what is missing, set properties, hide older images of the name; return the id."""
        found = [*self._named(options["name"]), *self._named(options["name"], hidden=True)]
        image = pick(found, lambda algorithm: file_hash(options["path"], algorithm))
        wanted = {
            "min_disk": options["min_disk"],
            "min_ram": options["min_ram"],
            "visibility": options["visibility"],
            **{name: str(value) for name, value in options["properties"].items()},
        }
        if image is None:
            self.done.append(f"uploaded {options['name']}")
            if not self._write:
                return ""
            image = self._upload(options, wanted)
        elif patch := patch_of(image, {"os_hidden": False, **wanted}):
            self.done.append("changed " + ", ".join(str(one["path"])[1:] for one in patch))
            self._patch(image["id"], patch)
        for other in found:
            if other["id"] != image["id"] and not other.get("os_hidden"):
                self.done.append(f"hid {other['id']}")
                self._patch(other["id"], [{"op": "replace", "path": "/os_hidden", "value": True}])
        return str(image["id"])

    def drop(self, name: str) -> str:
        """Delete every image of the name."""
        for image in [*self._named(name), *self._named(name, hidden=True)]:
            self.done.append(f"deleted {image['id']}")
            if self._write:
                patch = [{"op": "replace", "path": "/protected", "value": False}]
                if image.get("protected"):
                    self._patch(image["id"], patch)
                self._session.request("DELETE", url_join(self._url, image["id"]), expect=(204, 404))
        return ""

    def _named(self, name: str, *, hidden: bool = False) -> list[Mapping[str, Any]]:
        found = self._session.get(f"{self._url}?name={name}&limit=1000" + ("&os_hidden=true" if hidden else ""))
        images: list[Mapping[str, Any]] = found["images"]
        return images

    def _patch(self, image_id: str, patch: list[dict[str, Any]]) -> None:
        if self._write:
            self._session.request("PATCH", url_join(self._url, image_id), json_body=patch, headers=JSON_PATCH)

    def _upload(self, options: Mapping[str, Any], wanted: Mapping[str, Any]) -> Mapping[str, Any]:
        body = {"name": options["name"], "disk_format": options["disk_format"], "container_format": "bare", **wanted}
        image: Mapping[str, Any] = self._session.request("POST", self._url, json_body=body).json()
        where = url_join(self._url, image["id"])
        try:
            told = self._send(where, options["path"], options["timeout"])
        except BaseException:
            self._session.request("DELETE", where, expect=(204, 404))  # half an image helps nobody
            raise
        return told

    def _send(self, where: str, path: str, tries: int) -> Mapping[str, Any]:
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(Path(path).stat().st_size)}
        with Path(path).open("rb") as file:
            self._session.request("PUT", url_join(where, "file"), body=file, headers=headers)
        for _ in range(tries):
            told: Mapping[str, Any] = self._session.get(where)
            if told["status"] not in ("queued", "saving", "importing"):
                break
            self._sleep(1)
        if told["status"] != "active" or told["os_hash_value"] != file_hash(path, told["os_hash_algo"]):
            raise ImageError(f"image {told['id']} is {told['status']}, and not what was sent")
        return told


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "auth": AUTH_SPEC,
            "url": {"type": "str", "required": True},
            "name": {"type": "str", "required": True},
            "path": {"type": "path"},
            "disk_format": {
                "type": "str",
                "choices": ["raw", "qcow2", "vhd", "vhdx", "vmdk", "iso"],
                "default": "qcow2",
            },
            "visibility": {
                "type": "str",
                "choices": ["public", "private", "shared", "community"],
                "default": "public",
            },
            "min_disk": {"type": "int", "default": 0},
            "min_ram": {"type": "int", "default": 0},
            "properties": {"type": "dict", "default": {}},
            "timeout": {"type": "int", "default": 1800},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ["path"])],
        supports_check_mode=True,
    )
    options = module.params
    if options["state"] == "present" and not Path(options["path"]).is_file():
        module.fail_json(msg=f"There is no file {options['path']} to make the image {options['name']} of.")
    try:
        transport = HttpTransport(options["timeout"])
        session = Session(transport, issue_token(transport, options["auth"]))
        images = Images(session, options["url"], write=not module.check_mode, sleep=time.sleep)
        found = images.keep(options) if options["state"] == "present" else images.drop(options["name"])
    except UnreachableError as error:
        if module.check_mode:
            module.warn(f"Nobody answers yet: {error}")
            module.exit_json(changed=True, id="", done=[])
        module.fail_json(msg=str(error))
    except (ApiError, ImageError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(images.done), id=found, done=images.done)


if __name__ == "__main__":
    main()
