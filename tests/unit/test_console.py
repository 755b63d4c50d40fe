"""Consoles: a step's log gets what came during the step, and never more than fits."""

from __future__ import annotations

from orchestrator.executors.metal.console import Console


def test_what_came_during_a_step(tmp_path):
    file = tmp_path / "console"
    file.write_bytes(b"before\r\n")
    console = Console.at_its_end(file)
    assert console.since() == ""
    with file.open("ab") as more:
        more.write(b"kernel\r\nlogin: \xff\r\n")
    assert console.since() == "--- console ---\nkernel\nlogin: \ufffd\n"


def test_a_console_that_was_begun_anew_is_told_from_its_start(tmp_path):
    file = tmp_path / "console"
    file.write_bytes(b"a long boot of before\n")
    console = Console.at_its_end(file)
    file.write_bytes(b"new\n")
    assert console.since() == "--- console ---\nnew\n"


def test_much_is_cut_to_its_end(tmp_path):
    file = tmp_path / "console"
    console = Console.at_its_end(file)
    file.write_bytes(b"x" * 100_000 + b"the end\n")
    told = console.since()
    assert "(34472 bytes left out)" in told
    assert told.endswith("the end\n")
    assert len(told) < 70_000


def test_without_a_console_nothing_is_said(tmp_path):
    assert Console.at_its_end(None).since() == ""
    assert Console.at_its_end(tmp_path / "none").since() == ""
