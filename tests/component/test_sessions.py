"""How often hosts are logged in to: once per host and run, and not at all where nothing is to be done."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import yaml
from support import sshd
from support.folders import write, write_role

from orchestrator import files
from orchestrator.executors.carry import CarryExecutor
from orchestrator.executors.carry.session import Link
from orchestrator.plan import Selection
from orchestrator.service import Site, open_site

HOSTS = {f"node-{number}": address for number, address in enumerate(sshd.ADDRESSES, 1)}


class World:
    """A site of three hosts with three roles in a chain, applied for real; every log-in is counted by sshd."""

    def __init__(self, project: Path, server: sshd.Sshd) -> None:
        self.project = project
        self.folder = project / "inventories" / "counted"
        self._log = project / "sshd.log"
        self._seen = 0
        before: list[dict[str, str]] = []
        for name in ("first", "second", "third"):
            line = {"path": f"{project}/{name}@{{{{ node_name }}}}", "line": f"{{{{ {name}_word }}}}", "create": True}
            tasks = [{"name": "Write", "ansible.builtin.lineinfile": {**line, "mode": "0644"}}]
            options = {f"{name}_word": {"type": "str", "default": "hello"}}
            contract = {"provides": [name], "requires": before}
            defaults = {f"{name}_word": "hello"}
            write_role(project / "roles", name, contract, options=options, tasks=tasks, defaults=defaults)
            before = [{"capability": name, "scope": "node"}]
        connection = {
            "port": server.port,
            "private_key": str(server.key),
            "known_hosts": str(server.known_hosts),
        }
        self.cluster = {
            "spec": 1,
            "connection": connection,
            "groups": {"hosts": {"roles": ["first", "second", "third"]}},
            "nodes": {name: {"groups": ["hosts"], "address": address} for name, address in HOSTS.items()},
        }
        self.write()

    def write(self) -> None:
        write(self.folder / "cluster.yml", yaml.safe_dump(self.cluster, sort_keys=False))

    def site(self) -> Site:
        def executor(site: Site, run: str) -> CarryExecutor:
            return CarryExecutor(
                home=files.HOME,
                site=site.name,
                runs=site.runs_dir / run,
                secret=site.vault.resolve,
                roles=site.role_paths,
                owner="test",
                link=Link(place=f"{self.project}/{{node}}"),
            )

        return open_site(str(self.folder), executor=executor)

    def apply(self, *, check: bool = False) -> Counter[str]:
        """Apply what has to be; return what came of it."""
        site = self.site()
        made = site.plan(Selection(), check=check)
        if not made.steps:
            return Counter()
        result = site.apply(made, on_event=lambda _: None, check=check)
        return Counter({status.value: count for status, count in result.counts.items()})

    def logins(self) -> int:
        """Return how many there were since this was asked last."""
        count = self._log.read_text().count("Accepted publickey")
        self._seen, before = count, self._seen
        return count - before


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory):
    project = tmp_path_factory.mktemp("counted")
    with sshd.running(project) as server:
        yield World(project, server)


def test_a_first_apply_logs_in_once_per_host_for_all_its_roles(world):
    assert world.apply() == {"changed": 9}
    assert world.logins() == 3


def test_nothing_to_do_is_no_connection(world):
    assert world.apply() == {}
    assert world.logins() == 0


def test_verifying_takes_one_session_per_host(world):
    assert world.apply(check=True) == {"ok": 9}
    assert world.logins() == 3


def test_one_changed_variable_reaches_one_host(world):
    write(world.folder / "host_vars" / "node-2.yml", {"second_word": "other"})
    assert world.apply() == {"changed": 1}
    assert world.logins() == 1


def test_a_changed_role_file_reaches_its_hosts_once(world):
    tasks = world.project / "roles" / "third" / "tasks" / "main.yml"
    tasks.write_text(tasks.read_text() + "\n# changed\n")
    assert world.apply() == {"ok": 3}
    assert world.logins() == 3


def test_a_node_that_is_gone_leaves_the_others_alone(world):
    del world.cluster["nodes"]["node-3"]
    world.write()
    world.apply()  # its roles have no removal, so it is only forgotten
    assert world.logins() == 0
