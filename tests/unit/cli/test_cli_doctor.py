"""The look at this machine."""

from __future__ import annotations

import pytest

from orchestrator.cli.prerequisites import look_around


def test_doctor_looks_for_everything_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    findings = {finding.name: finding for finding in look_around()}
    assert len(findings) == len(look_around())
    assert not findings["ssh"].good
    assert findings["ssh"].hint == "apt install openssh-client"
    assert not findings["lab tools"].required
    assert all(finding.hint for finding in findings.values() if not finding.good)
