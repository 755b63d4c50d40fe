#!/usr/bin/python
# Copyright: the Halligan authors
# Apache License 2.0 (see LICENSE)
"""Prove with real requests that the services of a cloud work together."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.openstack_api import (
    AUTH_SPEC,
    HttpTransport,
    Session,
    Transport,
    issue_token,
    url_join,
)
from ansible.module_utils.openstack_cloud import Cloud
from ansible.module_utils.openstack_probes import CloudProbes
from ansible.module_utils.probe_graph import Probe, ProbeError, run, verdict

DOCUMENTATION = r"""
module: openstack_smoke
short_description: Prove with real requests that the services of a cloud work together
description:
  - Issues a token, reads the catalogue, asks each endpoint for its version document, carries an image there and back
    and asks the placement service for its resource providers.
  - With O(server_image), in a cloud that has compute and network services, it starts a server in a network of its own,
    reads its console, logs in over the router's namespace and a floating IP, attaches a volume and opens its screen.
    It makes a stack and an object where these services are.
  - Every probe has its own verdict. One that needs a failed one is skipped.
  - What it creates it deletes, also after a failed probe. Images that an interrupted run left behind are deleted when
    they are older than an hour.
  - It leaves nothing changed, so C(changed) is always false.
  - In check mode it makes the read-only probes. A Keystone that nobody has started yet is then C(unknown), no failure.
  - Needs nothing but Python on the target.
author: The Halligan authors
options:
  auth:
    description: How to log in.
    type: dict
    required: true
    suboptions:
      auth_url:
        description: URL of the identity API, with its version, as in C(http://10.0.0.11:5000/v3).
        type: str
        required: true
      username:
        description: User of the site.
        type: str
        required: true
      password:
        description: Password of that user.
        type: str
        required: true
      project:
        description: Project that the token is scoped to; images are created in it.
        type: str
      domain:
        description: Domain of user and project.
        type: str
        default: Default
  region:
    description: The one region that every service must be in.
    type: str
    required: true
  services:
    description: Types of services that the catalogue must have. Further ones are probed as well.
    type: list
    elements: str
    default: [identity, image, placement]
  interface:
    description: Interface over which image and placement services are used.
    type: str
    choices: [public, internal, admin]
    default: internal
  image_size:
    description: Size of the test image in bytes.
    type: int
    default: 4194304
  timeout:
    description: Seconds to wait for one answer, and for the image to become active.
    type: int
    default: 60
  server_image:
    description: Image of a server that is started and used. Empty for none.
    type: str
    default: ""
  server_user:
    description: User that the image lets log in with a key.
    type: str
    default: probe
  server_ram:
    description: Memory of the server in MB.
    type: int
    default: 128
  server_disk:
    description: Disk of the server in GB.
    type: int
    default: 1
  server_timeout:
    description: Seconds to wait for each state of a server, volume or stack.
    type: int
    default: 300
  external_network:
    description: Network for floating IPs. Empty for none, or for one made with O(external_physical_network).
    type: str
    default: ""
  external_physical_network:
    description: Physical network that a network for floating IPs is made on for the time of the test.
    type: str
    default: ""
  external_cidr:
    description: Addresses of that network.
    type: str
    default: ""
  external_gateway:
    description: Router of that network.
    type: str
    default: ""
  external_pools:
    description: Parts of it that may be given out, each with C(start) and C(end). Empty for all.
    type: list
    elements: dict
    default: []
attributes:
  check_mode:
    support: full
"""

EXAMPLES = r"""
- name: Prove that the services work together
  openstack_smoke:
    auth: {auth_url: "http://10.0.0.11:5000/v3", username: admin, password: "{{ secret }}", project: admin}
    region: regionOne
"""

RETURN = r"""
report:
  description: One line for each probe, and the verdict C(ok), C(failed) or (in check mode only) C(unknown).
  type: dict
  returned: always
  sample:
    verdict: ok
    token: "ok: admin, roles admin, member, reader"
    catalogue: "ok: identity, image, placement in regionOne"
    versions: "ok: 9 endpoints"
    image: "ok: 4194304 bytes there and back, sha512 and SHA-256 equal"
    placement: "ok: 0 resource providers"
seconds:
  description: How long each probe took.
  type: dict
  returned: always
"""

INTERFACES = ("admin", "internal", "public")
TAG = "halligan-smoke"
LEFTOVER_AGE = timedelta(hours=1)


def content(size: int) -> bytes:
    """The same incompressible bytes for the same size, on every host."""
    blocks = (hashlib.sha256(f"{TAG} {number}".encode()).digest() for number in range(size // 32 + 1))
    return b"".join(blocks)[:size]


def check_catalogue(
    catalog: tuple[Mapping[str, Any], ...], required: list[str], region: str
) -> dict[str, dict[str, str]]:
    """The URLs by type and interface; every service must have three interfaces in the one region."""
    urls: dict[str, dict[str, str]] = {service["type"]: {} for service in catalog}
    faults = [f"no service of type {kind}" for kind in required if kind not in urls]
    for service in sorted(catalog, key=lambda one: str(one["type"])):
        kind, endpoints = service["type"], service["endpoints"]
        elsewhere = sorted({str(endpoint["region_id"]) for endpoint in endpoints} - {region})
        if elsewhere:
            faults.append(f"{kind} has endpoints in region {', '.join(elsewhere)}, not only in {region}")
        urls[kind] = {one["interface"]: one["url"] for one in endpoints if one["region_id"] == region}
        missing = [interface for interface in INTERFACES if interface not in urls[kind]]
        if missing:
            faults.append(f"{kind} has no endpoint in {region} for {', '.join(missing)}")
    if faults:
        raise ProbeError("; ".join(faults))
    return urls


def version_urls(endpoint: str) -> Iterator[str]:
    """Where a version document may be: at the endpoint, or above it when its path names a version or a project."""
    parts = urlsplit(endpoint)
    path = parts.path.strip("/").split("/") if parts.path.strip("/") else []
    for length in range(len(path), -1, -1):
        yield "/".join([f"{parts.scheme}://{parts.netloc}", *path[:length], ""])


def has_versions(document: object) -> bool:
    return isinstance(document, dict) and bool({"version", "versions"} & set(document))


class Smoke:
    """Makes the probes one after the other and keeps what each came to."""

    def __init__(
        self,
        transport: Transport,
        options: Mapping[str, Any],
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        command: Callable[[Sequence[str]], tuple[int, str, str]] | None = None,
    ) -> None:
        self.report: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self._transport = transport
        self._options = options
        self._clock = clock
        self._sleep = sleep
        self._command = command
        self._urls: dict[str, dict[str, str]] = {}
        self._session: Session | None = None

    def run(self, *, write: bool) -> str:
        """Return the verdict. Without a token or a catalogue the rest cannot be asked."""
        apis = [
            Probe("token", self._token, must_answer=write),
            Probe("catalogue", self._catalogue, ("token",)),
            Probe("versions", self._versions, ("catalogue",)),
            Probe("image", self._image if write else self._image_list, ("catalogue",)),
            Probe("placement", self._placement, ("catalogue",)),
        ]
        report, seconds = run(apis, self._clock)
        self._note(report, seconds)
        if write and self._command and self.report["catalogue"].startswith("ok"):
            self._ask_the_cloud(report, self._command)
        self.report = {"verdict": verdict(self.report), **self.report}
        return self.report["verdict"]

    def _note(self, report: Mapping[str, str], seconds: Mapping[str, float]) -> None:
        self.report.update(report)
        self.seconds.update(seconds)

    def _ask_the_cloud(
        self, report: Mapping[str, str], command: Callable[[Sequence[str]], tuple[int, str, str]]
    ) -> None:
        """Make the probes that need more than APIs, and take away what they made."""
        cloud = Cloud(
            self._api,
            {kind: found[self._options["interface"]] for kind, found in self._urls.items()},
            f"{TAG}-{uuid.uuid4().hex[:8]}",
            clock=self._clock,
            sleep=self._sleep,
            timeout_s=self._options["server_timeout"],
        )
        beyond = CloudProbes(cloud, self._options, command)
        try:
            self._note(*run(beyond.probes(), self._clock, report))
        finally:
            left = cloud.undo()
        probe = Probe("clean", lambda: self._clean(beyond, left))
        self._note(*run([probe], self._clock))

    def _clean(self, beyond: CloudProbes, left: Sequence[str]) -> str:
        if left:
            raise ProbeError(f"could not be deleted: {'; '.join(left)}")
        if still := beyond.leftovers():
            raise ProbeError(f"of the deleted server there are still {still}")
        return "everything that was made is gone"

    @property
    def _api(self) -> Session:
        assert self._session is not None
        return self._session

    def _url(self, kind: str, path: str) -> str:
        return url_join(self._urls[kind][self._options["interface"]], path)

    def _token(self) -> str:
        token = issue_token(self._transport, self._options["auth"])
        self._session = Session(self._transport, token)
        return f"{self._options['auth']['username']}, roles {', '.join(token.roles)}"

    def _catalogue(self) -> str:
        region = self._options["region"]
        self._urls = check_catalogue(self._api.token.catalog, self._options["services"], region)
        return f"{', '.join(sorted(self._urls))} in {region}"

    def _versions(self) -> str:
        endpoints = sorted({url for found in self._urls.values() for url in found.values()})
        silent = [url for url in endpoints if not any(self._is_version_document(at) for at in version_urls(url))]
        if silent:
            raise ProbeError(f"no version document at {', '.join(silent)}")
        return f"{sum(len(found) for found in self._urls.values())} endpoints"

    def _is_version_document(self, url: str) -> bool:
        # 300: several versions to choose from, as Glance answers.
        answer = self._api.request("GET", url, expect=(200, 300, 400, 401, 404))
        try:
            return answer.status in (200, 300) and has_versions(answer.json())
        except ValueError:
            return False

    def _image_list(self) -> str:
        images = self._api.get(self._url("image", f"v2/images?tag={TAG}"))["images"]
        return f"listed (check mode: nothing uploaded; {len(images)} test images there)"

    def _image(self) -> str:
        self._sweep()
        data = content(self._options["image_size"])
        image = self._create_image()
        try:
            self._upload(image["id"], data)
            told = self._wait_until_active(image["id"])
            self._compare(image["id"], told, data)
        finally:
            url = self._url("image", f"v2/images/{image['id']}")
            self._api.request("DELETE", url, expect=(204, 404))
        if self._api.request("GET", url, expect=(200, 404)).status != 404:
            raise ProbeError(f"image {image['id']} is still there after it was deleted")
        return f"{len(data)} bytes there and back, {told['os_hash_algo']} and SHA-256 equal"

    def _sweep(self) -> None:
        """Delete what an interrupted run left; a young image may belong to a run elsewhere."""
        now = datetime.fromtimestamp(self._clock(), UTC)
        for image in self._api.get(self._url("image", f"v2/images?tag={TAG}"))["images"]:
            if now - datetime.fromisoformat(image["created_at"]) > LEFTOVER_AGE:
                self._api.request("DELETE", self._url("image", f"v2/images/{image['id']}"), expect=(204, 404))

    def _create_image(self) -> Mapping[str, Any]:
        wanted = {
            "name": f"{TAG}-{uuid.uuid4()}",
            "disk_format": "raw",
            "container_format": "bare",
            "visibility": "private",
            "tags": [TAG],
        }
        image: Mapping[str, Any] = self._api.request("POST", self._url("image", "v2/images"), json_body=wanted).json()
        return image

    def _upload(self, image_id: str, data: bytes) -> None:
        headers = {"Content-Type": "application/octet-stream"}
        self._api.request("PUT", self._url("image", f"v2/images/{image_id}/file"), body=data, headers=headers)

    def _wait_until_active(self, image_id: str) -> Mapping[str, Any]:
        deadline = self._clock() + self._options["timeout"]
        while True:
            image: Mapping[str, Any] = self._api.get(self._url("image", f"v2/images/{image_id}"))
            if image["status"] == "active":
                return image
            if image["status"] not in ("queued", "saving", "importing") or self._clock() > deadline:
                raise ProbeError(f"image {image_id} is {image['status']}, not active")
            self._sleep(1)

    def _compare(self, image_id: str, told: Mapping[str, Any], data: bytes) -> None:
        algorithm = told["os_hash_algo"]
        if told["os_hash_value"] != hashlib.new(algorithm, data).hexdigest():
            raise ProbeError(f"image {image_id}: the {algorithm} that Glance keeps is not that of the upload")
        url = self._url("image", f"v2/images/{image_id}/file")
        got = self._api.request("GET", url, headers={"Accept": "application/octet-stream"}).body
        if hashlib.sha256(got).digest() != hashlib.sha256(data).digest():
            raise ProbeError(f"image {image_id}: {len(got)} bytes came back that are not the {len(data)} uploaded")

    def _placement(self) -> str:
        providers = self._api.get(self._url("placement", "resource_providers"))["resource_providers"]
        return f"{len(providers)} resource providers"


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "auth": AUTH_SPEC,
            "region": {"type": "str", "required": True},
            "services": {"type": "list", "elements": "str", "default": ["identity", "image", "placement"]},
            "interface": {"type": "str", "choices": ["public", "internal", "admin"], "default": "internal"},
            "image_size": {"type": "int", "default": 4194304},
            "timeout": {"type": "int", "default": 60},
            "server_image": {"type": "str", "default": ""},
            "server_user": {"type": "str", "default": "probe"},
            "server_ram": {"type": "int", "default": 128},
            "server_disk": {"type": "int", "default": 1},
            "server_timeout": {"type": "int", "default": 300},
            "external_network": {"type": "str", "default": ""},
            "external_physical_network": {"type": "str", "default": ""},
            "external_cidr": {"type": "str", "default": ""},
            "external_gateway": {"type": "str", "default": ""},
            "external_pools": {"type": "list", "elements": "dict", "default": []},
        },
        supports_check_mode=True,
    )
    smoke = Smoke(
        HttpTransport(module.params["timeout"]),
        module.params,
        clock=time.time,
        sleep=time.sleep,
        command=lambda words: module.run_command(list(words)),
    )
    verdict = smoke.run(write=not module.check_mode)
    result = {"changed": False, "report": smoke.report, "seconds": smoke.seconds}
    if verdict == "unknown":
        module.warn(f"The smoke test cannot ask anything yet: {smoke.report['token']}")
    if verdict == "failed":
        faults = "; ".join(f"{name} {line}" for name, line in smoke.report.items() if line.startswith("failed: "))
        module.fail_json(msg=f"The smoke test failed: {faults}", **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
