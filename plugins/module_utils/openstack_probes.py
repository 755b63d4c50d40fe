"""What is asked of a whole cloud: a server that boots, is reached, and uses every other service."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ansible.module_utils.openstack_cloud import Cloud
from ansible.module_utils.probe_graph import Probe, ProbeError, SkipError
from ansible.module_utils.websocket_hello import first_bytes

__all__ = ["CloudProbes"]

Run = Callable[[Sequence[str]], tuple[int, str, str]]
_NET = "192.168.251.0/24"
_WAIT_TEMPLATE = {
    "heat_template_version": "2018-08-31",
    "resources": {
        "word": {"type": "OS::Heat::RandomString", "properties": {"length": 16}},
        "handle": {"type": "OS::Heat::WaitConditionHandle"},
        "signal": {
            "type": "OS::Heat::WaitCondition",
            "properties": {"handle": {"get_resource": "handle"}, "count": 1, "timeout": 300},
        },
    },
    "outputs": {
        "word": {"value": {"get_attr": ["word", "value"]}},
        "endpoint": {"value": {"get_attr": ["handle", "endpoint"]}},
        "token": {"value": {"get_attr": ["handle", "token"]}},
    },
}


class CloudProbes:
    """The probes beyond the APIs. What one makes the next ones use; `Cloud.undo` takes it away."""

    def __init__(self, cloud: Cloud, options: Mapping[str, Any], run: Run) -> None:
        self._cloud = cloud
        self._options = options
        self._run = run
        self._key = ""
        self._network: Mapping[str, Any] = {}
        self._router = ""
        self._external = ""
        self._server: Mapping[str, Any] = {}
        self._port: Mapping[str, Any] = {}

    def probes(self) -> Iterator[Probe]:
        """Yield what the services of the catalogue allow to be asked, in the order of its needs."""
        if self._cloud.has("compute"):
            yield Probe("computes", self._computes, ("placement",))
        if self._cloud.has("network"):
            yield Probe("agents", self._agents, ("catalogue",))
            yield Probe("network", self._make_network, ("agents",))
        if self._cloud.has("compute") and self._cloud.has("network") and self._options["server_image"]:
            yield Probe("server", self._boot, ("computes", "network", "image"))
            yield Probe("console", self._console, ("server",))
            yield Probe("ssh", self._ssh, ("console",))
            yield Probe("floating_ip", self._floating_ip, ("ssh",))
            if self._cloud.has("volumev3"):
                yield Probe("volume", self._volume, ("server",))
            yield Probe("screen", self._screen, ("server",))
        if self._cloud.has("orchestration"):
            yield Probe("stack", self._stack, ("catalogue",))
        if self._cloud.has("object-store"):
            yield Probe("object", self._object, ("catalogue",))

    def leftovers(self) -> str:
        """Return what is still there of the server after everything was undone."""
        if not self._server:
            return ""
        allocations = self._cloud.get("placement", f"allocations/{self._server['id']}")["allocations"]
        ports = self._cloud.get("network", f"v2.0/ports?device_id={self._server['id']}")["ports"]
        return ", ".join(
            word for word, found in (("allocations in Placement", allocations), ("ports in Neutron", ports)) if found
        )

    # --- what is there

    def _computes(self) -> str:
        services = self._cloud.get("compute", "os-services?binary=nova-compute")["services"]
        down = sorted(one["host"] for one in services if one["status"] == "enabled" and one["state"] != "up")
        if down:
            raise ProbeError(f"nova-compute is down on {', '.join(down)}")
        hosts = [one["host"] for one in services if one["status"] == "enabled"]
        if not hosts:
            raise ProbeError("no compute host is enabled")
        providers = self._cloud.get("placement", "resource_providers")["resource_providers"]
        for provider in providers:
            inventories = self._cloud.get("placement", f"resource_providers/{provider['uuid']}/inventories")
            lacking = {"VCPU", "MEMORY_MB", "DISK_GB"} - set(inventories["inventories"])
            if lacking and provider["name"].split(".")[0] in hosts:
                raise ProbeError(f"{provider['name']} offers no {', '.join(sorted(lacking))} in Placement")
        missing = sorted(set(hosts) - {one["name"].split(".")[0] for one in providers} - {p["name"] for p in providers})
        if missing:
            raise ProbeError(f"Placement has no resource provider for {', '.join(missing)}")
        return f"{len(hosts)} up, each with VCPU, MEMORY_MB and DISK_GB in Placement"

    def _agents(self) -> str:
        agents = self._cloud.get("network", "v2.0/agents")["agents"]
        dead = sorted(f"{one['agent_type']} on {one['host']}" for one in agents if not one["alive"])
        if dead:
            raise ProbeError(f"no sign of life from {', '.join(dead)}")
        if not agents:
            raise ProbeError("no agent has reported")
        return f"{len(agents)} alive"

    # --- a server and what it needs

    def _make_network(self) -> str:
        cloud, name = self._cloud, self._cloud.name
        self._network = cloud.make("network", "v2.0/networks", {"network": {"name": name}})
        subnet = cloud.make(
            "network",
            "v2.0/subnets",
            {"subnet": {"name": name, "network_id": self._network["id"], "ip_version": 4, "cidr": _NET}},
        )
        router = cloud.make("network", "v2.0/routers", {"router": {"name": name}})
        self._router = router["id"]
        path = f"v2.0/routers/{self._router}"
        cloud.put("network", f"{path}/add_router_interface", {"subnet_id": subnet["id"]})
        cloud.later(
            "router interface",
            lambda: cloud.put("network", f"{path}/remove_router_interface", {"subnet_id": subnet["id"]}),
        )
        self._external = self._external_network()
        if self._external:
            gateway = {"external_gateway_info": {"network_id": self._external}}
            cloud.put("network", path, {"router": gateway})
            cloud.later("router gateway", lambda: cloud.put("network", path, {"router": {"external_gateway_info": {}}}))
        kind = self._network.get("provider:network_type", "")
        return f"{kind} network {_NET} with a router{' to the outside' if self._external else ''}"

    def _external_network(self) -> str:
        """Return the id of the outside: the named one, or one made for the time being on a physical network."""
        options = self._options
        if options["external_network"]:
            found = self._cloud.get("network", f"v2.0/networks?name={options['external_network']}")["networks"]
            if not found:
                raise ProbeError(f"there is no network {options['external_network']}")
            return str(found[0]["id"])
        if not options["external_physical_network"]:
            return ""
        network = self._cloud.make(
            "network",
            "v2.0/networks",
            {
                "network": {
                    "name": f"{self._cloud.name}-outside",
                    "router:external": True,
                    "provider:network_type": "flat",
                    "provider:physical_network": options["external_physical_network"],
                }
            },
        )
        self._cloud.make(
            "network",
            "v2.0/subnets",
            {
                "subnet": {
                    "network_id": network["id"],
                    "ip_version": 4,
                    "cidr": options["external_cidr"],
                    "gateway_ip": options["external_gateway"] or None,
                    "enable_dhcp": False,
                    **({"allocation_pools": options["external_pools"]} if options["external_pools"] else {}),
                }
            },
        )
        return str(network["id"])

    def _boot(self) -> str:
        cloud, name = self._cloud, self._cloud.name
        images = cloud.get("image", f"v2/images?name={self._options['server_image']}&status=active")["images"]
        if not images:
            raise ProbeError(f"there is no active image {self._options['server_image']}")
        flavor = cloud.make(
            "compute",
            "flavors",
            {
                "flavor": {
                    "name": name,
                    "vcpus": 1,
                    "ram": self._options["server_ram"],
                    "disk": self._options["server_disk"],
                }
            },
        )
        self._key = cloud.make("compute", "os-keypairs", {"keypair": {"name": name}})["private_key"]
        group = cloud.make("network", "v2.0/security-groups", {"security_group": {"name": name}})
        for protocol, port in (("icmp", None), ("tcp", 22)):
            rule = {"direction": "ingress", "protocol": protocol, "security_group_id": group["id"]}
            ports = {"port_range_min": port, "port_range_max": port} if port else {}
            cloud.post("network", "v2.0/security-group-rules", {"security_group_rule": {**rule, **ports}})
        self._port = cloud.make(
            "network",
            "v2.0/ports",
            {"port": {"name": name, "network_id": self._network["id"], "security_groups": [group["id"]]}},
        )
        wanted = {
            "name": name,
            "imageRef": images[0]["id"],
            "flavorRef": flavor["id"],
            "key_name": name,
            "networks": [{"port": self._port["id"]}],
        }
        self._server = cloud.post("compute", "servers", {"server": wanted})["server"]
        cloud.later("server", self._unboot)
        cloud.wait("the server", self._status, ("ACTIVE",), bad=())
        told = cloud.get("compute", f"servers/{self._server['id']}")["server"]
        port = cloud.get("network", f"v2.0/ports/{self._port['id']}")["port"]
        cloud.wait(
            "its port",
            lambda: cloud.get("network", f"v2.0/ports/{self._port['id']}")["port"]["status"],
            ("ACTIVE",),
        )
        dhcp = cloud.get("network", f"v2.0/ports?network_id={self._network['id']}&device_owner=network:dhcp")["ports"]
        silent = [one["id"] for one in dhcp if one["status"] != "ACTIVE"]
        if not dhcp or silent:
            raise ProbeError("no DHCP port of the network is ACTIVE")
        self._port = port
        return (
            f"ACTIVE on {told.get('OS-EXT-SRV-ATTR:host', '?')}, {self._address()}, "
            f"port bound as {port.get('binding:vif_type', '?')}"
        )

    def _status(self) -> str:
        told = self._cloud.get("compute", f"servers/{self._server['id']}")["server"]
        if told["status"] == "ERROR":
            raise ProbeError(f"the server is in error: {told.get('fault', {}).get('message', 'no reason given')}")
        return str(told["status"])

    def _unboot(self) -> None:
        self._cloud.delete("compute", f"servers/{self._server['id']}")
        self._cloud.wait_gone("the server", "compute", f"servers/{self._server['id']}")

    def _address(self) -> str:
        return str(self._port["fixed_ips"][0]["ip_address"])

    def _console(self) -> str:
        """The log-in prompt with the server's name: it can have the name from the metadata service only."""
        prompt = f"{self._cloud.name} login:"

        def shown() -> bool:
            return prompt in self._console_log()

        try:
            self._cloud.wait("the log-in prompt in the console", shown, (True,))
        except ProbeError as error:
            last = " / ".join(line for line in self._console_log().splitlines()[-4:] if line.strip())
            raise ProbeError(f'no "{prompt}" in the console log ({error}); its end: {last or "empty"}') from error
        return f'"{prompt}" after {len(self._console_log().splitlines())} lines, named by the metadata service'

    def _console_log(self) -> str:
        path = f"servers/{self._server['id']}/action"
        return str(self._cloud.post("compute", path, {"os-getConsoleOutput": {"length": 400}})["output"])

    def _ssh(self) -> str:
        before = self._in_router()
        if not before:
            raise SkipError("the router is not on this node; place smoke on a network node to have this asked")
        return self._log_in(before, self._address())

    def _in_router(self) -> list[str]:
        """Return what to put before a command so that it runs in the router's namespace; nothing if it is elsewhere."""
        space = f"qrouter-{self._router}"
        return ["ip", "netns", "exec", space] if space in self._run(["ip", "netns", "list"])[1] else []

    def _log_in(self, before: Sequence[str], address: str) -> str:
        """Log in with the key and let the server tell its name."""
        said = ""

        def named() -> bool:
            nonlocal said
            code, output, error = self._ssh_run(before, address, "hostname")
            said = output.strip() or error.strip().splitlines()[-1:][0] if output or error.strip() else f"code {code}"
            return code == 0

        self._cloud.wait(f"SSH at {address}", named, (True,))
        if said != self._cloud.name:
            raise ProbeError(f"the host at {address} calls itself {said}, not {self._cloud.name}")
        return f"{address} calls itself {said}"

    def _ssh_run(self, before: Sequence[str], address: str, command: str) -> tuple[int, str, str]:
        # The server was made a minute ago and has shown nobody its key: there is nothing to compare it with.
        options = ["BatchMode=yes", "ConnectTimeout=5", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null"]
        with tempfile.TemporaryDirectory() as folder:
            key = Path(folder) / "key"
            descriptor = os.open(key, os.O_WRONLY | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(self._key)
            words = [word for option in options for word in ("-o", option)]
            who = f"{self._options['server_user']}@{address}"
            return self._run([*before, "ssh", "-q", "-i", str(key), *words, who, command])

    def _floating_ip(self) -> str:
        if not self._external:
            raise SkipError("no external network was named")
        wanted = {"floating_network_id": self._external, "port_id": self._port["id"]}
        floating = self._cloud.make("network", "v2.0/floatingips", {"floatingip": wanted})
        return self._log_in([], floating["floating_ip_address"])

    def _volume(self) -> str:
        cloud = self._cloud
        volume = cloud.make("volumev3", "volumes", {"volume": {"name": cloud.name, "size": 1}})
        path = f"volumes/{volume['id']}"

        def status() -> Any:
            return cloud.get("volumev3", path)["volume"]["status"]

        cloud.wait("the volume", status, ("available",))
        attachments = f"servers/{self._server['id']}/os-volume_attachments"
        attached = cloud.post("compute", attachments, {"volumeAttachment": {"volumeId": volume["id"]}})[
            "volumeAttachment"
        ]
        cloud.wait("the volume", status, ("in-use",))
        seen = self._seen_by_server(Path(attached["device"]).name)
        cloud.delete("compute", f"{attachments}/{volume['id']}")
        cloud.wait("the volume", status, ("available",))
        cloud.delete("volumev3", path)
        cloud.wait_gone("the volume", "volumev3", path)
        return f"1 GB attached as {attached['device']}{seen}, detached, deleted"

    def _seen_by_server(self, device: str) -> str:
        before = self._in_router()
        if not before:
            return ""

        def there() -> bool:
            return f" {device}\n" in self._ssh_run(before, self._address(), "cat /proc/partitions")[1]

        self._cloud.wait(f"{device} in the server", there, (True,))
        return " and seen by the server"

    def _screen(self) -> str:
        wanted = {"remote_console": {"protocol": "vnc", "type": "novnc"}}
        path = f"servers/{self._server['id']}/remote-consoles"
        url = str(self._cloud.post("compute", path, wanted, version="2.6")["remote_console"]["url"])
        page = self._cloud.session.request("GET", url, expect=(200,)).body
        if b"noVNC" not in page:
            raise ProbeError(f"the page at {url.partition('?')[0]} is not noVNC's")
        hello = first_bytes(url, 12)
        if not hello.startswith(b"RFB "):
            raise ProbeError(f"the console proxy says {hello!r}, not the version of the RFB protocol")
        return f"{urlsplit(url).netloc} serves noVNC, and the screen says {hello.decode(errors='replace').strip()}"

    # --- other services

    def _stack(self) -> str:
        cloud = self._cloud
        made = cloud.post(
            "orchestration",
            "stacks",
            {"stack_name": cloud.name, "template": _WAIT_TEMPLATE, "timeout_mins": 10},
        )["stack"]
        path = f"stacks/{cloud.name}/{made['id']}"

        def gone() -> None:
            cloud.delete("orchestration", path)
            cloud.wait("the stack", status, ("DELETE_COMPLETE", None), bad=("DELETE_FAILED",))

        def told() -> Mapping[str, Any]:
            answer = cloud.session.request("GET", cloud.url("orchestration", path), expect=(200, 404))
            found: Mapping[str, Any] = answer.json()["stack"] if answer.status == 200 else {}
            return found

        def status() -> Any:
            return told().get("stack_status")

        def outputs() -> dict[str, Any]:
            return {one["output_key"]: one.get("output_value") for one in told().get("outputs", [])}

        cloud.later("stack", gone)
        cloud.wait("the signal's address", lambda: bool(outputs().get("endpoint")), (True,))
        found = outputs()
        cloud.session.request(
            "POST",
            found["endpoint"],
            body=json.dumps({"status": "SUCCESS", "reason": "smoke", "id": "1", "data": "1"}).encode(),
            headers={"X-Auth-Token": found["token"], "Content-Type": "application/json"},
        )
        cloud.wait("the stack", status, ("CREATE_COMPLETE",), bad=("CREATE_FAILED",))
        word = outputs().get("word") or ""
        if len(word) != 16:
            raise ProbeError("the stack's output is not the word that it made")
        return "created, signalled through its wait condition, complete"

    def _object(self) -> str:
        cloud, data = self._cloud, os.urandom(65536)
        base = cloud.url("object-store", cloud.name)
        request = cloud.session.request
        request("PUT", base, expect=(201, 202))
        cloud.later("container", lambda: request("DELETE", base, expect=(204, 404)))
        where = f"{base}/object"
        request("PUT", where, body=data, headers={"Content-Type": "application/octet-stream"}, expect=(201,))
        cloud.later("object", lambda: request("DELETE", where, expect=(204, 404)))
        if request("GET", where, expect=(200,)).body != data:
            raise ProbeError("the object that came back is not the one that was put")
        return f"{len(data)} bytes put and got"
