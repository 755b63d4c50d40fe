"""Each role on real machines: applied, applied again, checked, used, interrupted, removed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

REPO = Path(__file__).parents[2]
SCENARIOS = sorted(path.parents[2] for path in REPO.glob("roles/*/molecule/default/molecule.yml"))
TIMEOUT_S = 1500  # ten times what the slowest scenario takes on an idle machine of two cores


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("role", SCENARIOS, ids=[role.name for role in SCENARIOS])
def test_scenario(role: Path):
    """The sequence of tests/roles/molecule.yml passes, and none of its steps was left out."""
    with TemporaryDirectory(prefix="mol-") as folder:  # a short path: SSH keeps sockets in it
        code, output = None, ""
        try:
            code, output = molecule("test", role, folder)
        finally:
            if code != 0:
                molecule("destroy", role, folder)
    assert code == 0, f"molecule ended with {code}; the end of its output:\n{tail(output)}"
    assert "Missing playbook" not in output


def molecule(action: str, role: Path, folder: str) -> tuple[int | None, str]:
    """Run molecule on one role; no exit code when it takes too long."""
    tools = Path(sys.executable).parent
    environment = {
        **os.environ,
        "MOLECULE_EPHEMERAL_DIRECTORY": folder,
        "NO_COLOR": "1",
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
    }
    process = subprocess.Popen(
        [tools / "molecule", "--base-config", REPO / "tests/roles/molecule.yml", action],
        cwd=role,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        return None, output
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    return process.returncode, output


def tail(output: str, lines: int = 120) -> str:
    """Return what an engineer reads first, without colours."""
    return "\n".join(re.sub(r"\x1b\[[0-9;]*m", "", output).splitlines()[-lines:])
