"""The main job itself: `make demo` on a lab of real hosts, then what an operator does next.

One test function per thing seen, in order, on one lab: building it takes minutes. The lab is a copy of inventories/lab
under a name and in folders of its own, so a demo that somebody looks at is left alone.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from support.shell import REPO, halligan, run
from support.site import on

from orchestrator.lab import REQUIRED_COMMANDS

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="the lab needs root"),
    pytest.mark.skipif(
        any(not shutil.which(command) for command in REQUIRED_COMMANDS), reason="the lab's packages are not installed"
    ),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A copy of the example site called `demotest`, taken down at the end."""
    folder = tmp_path_factory.mktemp("demo") / "demotest"
    shutil.copytree(REPO / "inventories/lab", folder, ignore=shutil.ignore_patterns(".*", "secrets.yml"))
    yield folder
    halligan("lab", "down", folder)


def test_make_demo_ends_with_the_proof(site):
    """From nothing to a working control plane, and from an empty disk to a configured host.

    Token, catalogue and image checksum are the smoke role's own words.
    """
    done = run("make", "demo", f"SITE={site}")
    assert done.returncode == 0, done.stdout[-6000:]
    assert "22 to create" in done.stdout
    assert "by metal: 5 steps; by carry: 17 steps" in done.stdout  # the molecule scenarios push the same roles
    assert "install on bare-1" in done.stdout
    assert re.search(r"^bare-1 base changed", done.stdout, re.M)
    assert re.search(r"^bare-1 +m-\w+ +ready", done.stdout, re.M)
    assert re.search(r"smoke_report:", done.stdout)
    assert "What to look at next" in done.stdout


def test_a_second_demo_changes_nothing(site):
    done = run("make", "demo", f"SITE={site}")
    assert done.returncode == 0
    assert "Nothing to do" in done.stdout
    assert "step.started" not in done.stdout


def test_a_hand_made_change_is_drift_and_named(site):
    on("sto-1", site, "sh", "-c", "'echo >> /etc/memcached.conf -v'")
    drift = halligan("check", site, "--role", "memcached", expect=2)
    assert "sto-1" in drift
    assert "memcached" in drift


def test_one_changed_variable_reaches_one_host(site):
    file = site / "host_vars" / "sto-1.yml"
    file.parent.mkdir()
    file.write_text("---\nmemcached_memory_mb: 96\n")
    planned = halligan("plan", site, expect=2)
    assert "1 to update" in planned
    assert "input memcached_memory_mb newly set" in planned
    assert "memcached@sto-1" in planned or "sto-1" in planned
    halligan("apply", site, "--yes")
    halligan("plan", site)
    halligan("check", site, "--role", "memcached")  # the same apply repaired the drift


def test_plain_ansible_agrees_that_nothing_changes(site):
    """The same folders with ansible-playbook alone."""
    tools = Path(sys.executable).parent
    done = run(
        "env",
        f"ANSIBLE_CONFIG={REPO / 'ansible.cfg'}",
        tools / "ansible-playbook",
        "-i",
        site / "cluster.yml",
        "--vault-password-file",
        site / ".vault-password",
        REPO / "playbooks/site.yml",
    )
    recap = re.findall(r"^(\S+)\s+: ok=\d+\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", done.stdout, re.M)
    assert sorted(recap) == [(node, "0", "0", "0") for node in ("bare-1", "ctl-1", "prb-1", "sto-1")]


def test_a_wrong_host_key_is_refused_and_said(site):
    """Somebody else answers at the address: nothing is sent there, and the message says what to compare."""
    known = site / ".halligan" / "known_hosts"
    kept = known.read_text()
    keys = {line.split()[0].split(",")[0]: line.split(maxsplit=1)[1] for line in kept.splitlines()}
    names = sorted(keys)
    swapped = {name: keys[names[(number + 1) % len(names)]] for number, name in enumerate(names)}
    known.write_text("".join(f"{name} {key}\n" for name, key in swapped.items()))
    (site / "host_vars" / "sto-1.yml").write_text("---\nmemcached_memory_mb: 128\n")
    try:
        told = halligan("apply", site, "--yes", expect=1)
        assert "host key" in told.lower()
        assert "Traceback" not in told
    finally:
        known.write_text(kept)
    halligan("apply", site, "--yes")


def test_removal_is_planned_confirmed_and_done(site):
    """Glance and smoke leave the spec: refused without consent, then gone from the host."""
    spec = site / "cluster.yml"
    text = spec.read_text()
    spec.write_text(
        text.replace("[memcached, rabbitmq, glance]", "[memcached, rabbitmq]").replace("roles: [smoke]", "roles: []")
    )
    assert "ERASES DATA" in halligan("plan", site, expect=2)
    assert "--allow-destroy" in halligan("apply", site, "--yes", expect=1)
    halligan("apply", site, "--yes", "--allow-destroy", "glance@sto-1")
    assert on("sto-1", site, "test", "-e", "/etc/glance/glance-api.conf").returncode == 1
    halligan("plan", site)


def test_the_lab_goes_without_a_trace(site):
    halligan("lab", "down", site)
    assert not Path("/run/halligan-lab/demotest").exists()
    assert "demotest" not in Path("/proc/self/mountinfo").read_text()
    assert "to create" in halligan("plan", site, expect=2)  # the next lab's machines are new
