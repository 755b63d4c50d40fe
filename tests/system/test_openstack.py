"""A whole cloud on this machine: from nothing to a server that is reached, and what an operator does with it next.

One test function per thing seen, in order, on one lab: building it takes minutes. The lab is a copy of
inventories/lab-openstack under a name and in folders of its own.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path

import pytest
import yaml
from support.shell import REPO, halligan, run
from support.site import on, secrets_of

from orchestrator.lab import REQUIRED_COMMANDS

pytestmark = [
    pytest.mark.skipif(
        not os.environ.get("HALLIGAN_CLOUD"),
        reason="a quarter of an hour, and not seen to pass as a whole yet: set HALLIGAN_CLOUD=1",
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="the lab needs root"),
    pytest.mark.skipif(
        any(not shutil.which(command) for command in REQUIRED_COMMANDS), reason="the lab's packages are not installed"
    ),
]

PROBES = (
    "token",
    "catalogue",
    "versions",
    "image",
    "placement",
    "computes",
    "agents",
    "network",
    "server",
    "console",
    "ssh",
    "floating_ip",
    "volume",
    "screen",
    "stack",
    "clean",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A copy of the example site called `cloudtest`, taken down at the end."""
    folder = tmp_path_factory.mktemp("cloud") / "cloudtest"
    shutil.copytree(
        REPO / "inventories/lab-openstack", folder, ignore=shutil.ignore_patterns(".*", "secrets.yml", "group_vars")
    )
    yield folder
    halligan("lab", "down", folder)


def variable(site, group, **values):
    """Set variables of a group as an operator does, beside those that are set."""
    file = site / "group_vars" / group / "test.yml"
    file.parent.mkdir(parents=True, exist_ok=True)
    held = yaml.safe_load(file.read_text()) if file.exists() else {}
    file.write_text(yaml.safe_dump({**held, **values}, explicit_start=True))


def steps_run(output):
    """Return which placements an apply ran, from its lines of progress."""
    lines = re.findall(r"^(\S+) (\w+) (?:ok|changed)(?! not run)\b", output, re.M)
    return {f"{role}@{node}" for node, role in lines}


def test_from_nothing_to_a_server_that_is_reached(site):
    """Every probe of the smoke test has its verdict: a server booted, has its metadata, is reached, uses a volume."""
    halligan("secrets", "init", site)
    halligan("lab", "up", site)
    start = time.process_time(), time.monotonic()
    halligan("apply", site, "--yes")
    print(f"from nothing: {time.monotonic() - start[1]:.0f} s")
    report = halligan("log", site, "--step", "smoke@net-1")
    verdicts = dict(re.findall(r"^ +(\w+): (ok|failed|skipped|unknown)\b", report, re.M))
    assert {name: verdicts.get(name) for name in PROBES} == dict.fromkeys(PROBES, "ok")
    assert re.search(r"console: ok: \"halligan-smoke-\w+ login:\"", report)


def test_a_second_apply_changes_nothing(site):
    done = halligan("apply", site, "--yes")
    assert "Nothing to do" in done
    assert steps_run(done) == set()


def test_no_host_has_drifted(site):
    """Check mode of every role, on hosts that were just built, predicts no change."""
    assert "rift" not in halligan("check", site).replace("No drift", "")


def test_what_was_removed_by_hand_is_drift_and_repaired(site):
    on("ctl-1", site, "rm", "/etc/nova/nova-scheduler.conf")
    drift = halligan("check", site, "--role", "nova_scheduler", expect=2)
    assert "ctl-1: nova_scheduler" in drift
    halligan("apply", site, "--yes", "--verify", "--role", "nova_scheduler")
    assert on("ctl-1", site, "test", "-s", "/etc/nova/nova-scheduler.conf").returncode == 0
    assert on("ctl-1", site, "systemctl", "is-active", "nova-scheduler").stdout.strip().endswith("active")


def test_one_changed_option_runs_what_consumes_it(site):
    variable(site, "controller", nova_scheduler_workers=2)
    planned = halligan("plan", site, expect=2)
    assert "input nova_scheduler_workers newly set" in planned
    done = halligan("apply", site, "--yes")
    assert steps_run(done) <= {"nova_scheduler@ctl-1", "smoke@net-1"}
    assert "nova_scheduler@ctl-1" in steps_run(done)


def test_a_database_that_is_away_fails_what_needs_it_and_nothing_is_lost(site):
    """The step that needs the database says so; when it is back the same command completes the work."""
    variable(site, "controller", keystone_token_lifetime=7200)
    on("ctl-1", site, "systemctl", "stop", "mariadb")
    try:
        failed = halligan("apply", site, "--yes", expect=1)
        assert re.search(r"keystone@?\S* ?(on ctl-1 )?failed", failed)
        assert "Traceback" not in failed
    finally:
        on("ctl-1", site, "systemctl", "start", "mariadb")
    halligan("apply", site, "--yes")
    halligan("plan", site)


def test_mistakes_are_refused_before_the_first_change(site):
    """Each with its place in the file, all at once."""
    spec = site / "cluster.yml"
    text = spec.read_text()
    wrong = text.replace("neutron_ovs_agent_local_ip: 10.82.0.13", "neutron_ovs_agent_local_ip: 10.99.0.13").replace(
        '["data:100:199"]', '["data:100:199", "data:150:250"]'
    )
    assert wrong != text
    spec.write_text(wrong)
    try:
        told = halligan("apply", site, "--yes", expect=1)
    finally:
        spec.write_text(text)
    assert re.search(r"cluster.yml:\d+:\d+: error: .*10\.99\.0\.13", told)
    assert "overlap" in told
    assert "2 problems" in told


def test_no_secret_is_in_records_and_logs(site):
    kept = [path for path in (site / ".halligan").rglob("*") if path.is_file() and path.name != "id_ed25519"]
    for name, value in secrets_of(site).items():
        found = [path.name for path in kept if value.encode() in path.read_bytes()]
        assert found == [], f"{name} is in {found}"


def test_the_lab_goes_without_a_trace(site):
    halligan("lab", "down", site)
    assert not Path("/run/halligan-lab/cloudtest").exists()
    assert run("grep", "-c", "cloudtest", "/proc/self/mountinfo").stdout.strip() == "0"
