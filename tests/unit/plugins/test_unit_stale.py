"""Whether a service is older than its configuration."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible.module_utils.unit_state import newer_files, parse_properties, started_at

RUNNING = "ActiveState=active\nExecMainStartTimestamp=Sat 2025-11-22 18:36:11.250000 UTC\n"
START = 1763836571.25


def test_the_start_is_read_to_the_microsecond() -> None:
    assert started_at(parse_properties(RUNNING)) == START


@pytest.mark.parametrize(
    "properties",
    [
        RUNNING.replace("active", "inactive"),
        RUNNING.replace("active", "failed"),
        "ActiveState=inactive\nExecMainStartTimestamp=\n",
        "ActiveState=active\nExecMainStartTimestamp=\n",  # a unit without a process of its own
        "",
    ],
)
def test_a_unit_that_does_not_run_has_no_start(properties: str) -> None:
    assert started_at(parse_properties(properties)) is None


def test_files_written_after_the_start_are_newer(tmp_path: Path) -> None:
    for name, offset in (("old", -0.5), ("new", 0.5)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (START + offset, START + offset))
    files = [str(tmp_path / name) for name in ("old", "new", "missing")]
    assert newer_files(files, START) == [str(tmp_path / "new")]
    assert newer_files(files, None) == []
