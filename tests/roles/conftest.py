"""What the tests of the roles know about this tree and this machine."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from orchestrator.lab import REQUIRED_COMMANDS

REPO = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def machine() -> None:
    """Skip, and say why, where the lab cannot make machines."""
    if os.geteuid() != 0:
        pytest.skip("molecule needs the lab, and the lab needs root")
    missing = sorted({package for command, package in REQUIRED_COMMANDS.items() if not shutil.which(command)})
    if missing:
        pytest.skip(f"molecule needs the lab, and the lab needs the packages {', '.join(missing)}")
