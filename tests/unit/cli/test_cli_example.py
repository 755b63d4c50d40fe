"""The example site of any size, and the look at this machine."""

from __future__ import annotations

import pytest

from orchestrator.cli import example
from orchestrator.cli.prerequisites import look_around


def test_the_folded_names_fit_the_size() -> None:
    text = example.site(controllers=3, network=2, kvm=900, hyperv=1)["cluster.yml"]
    for name in ("  ctl-[1:3]:", "  net-[1:2]:", "  kvm-[001:900]:", "  hv-1:"):
        assert name in text.splitlines()


def test_unused_roles_are_left_out() -> None:
    files = example.site(controllers=1, network=0, kvm=0, hyperv=0)
    assert "roles/keystone/meta/contract.yml" in files
    assert "roles/libvirt/meta/contract.yml" not in files
    assert "nodes:\n  ctl-1:\n" in files["cluster.yml"]


@pytest.mark.parametrize("role", ["libvirt", "hyperv", "gateway", "keystone"])
def test_every_role_is_a_whole_role(role: str) -> None:
    files = example.site(controllers=1, network=1, kvm=1, hyperv=1)
    for path in ("meta/contract.yml", "meta/argument_specs.yml", "tasks/main.yml"):
        assert files[f"roles/{role}/{path}"].startswith("---\n")


def test_doctor_looks_for_everything_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    findings = {finding.name: finding for finding in look_around()}
    assert len(findings) == len(look_around())
    assert not findings["ssh"].good
    assert findings["ssh"].hint == "apt install openssh-client"
    assert not findings["lab tools"].required
    assert all(finding.hint for finding in findings.values() if not finding.good)
