"""How the program ends: exit codes, messages, the log of a bug, closed pipes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import pytest

from orchestrator.cli.app import app
from orchestrator.cli.ending import run
from orchestrator.errors import HalliganError, Problem, ProblemsError

PROGRAM = [sys.executable, "-c", "from orchestrator.cli import main; main()"]


def failing(error: BaseException) -> click.Command:
    @click.command()
    @click.argument("words", nargs=-1)
    def command(words: tuple[str, ...]) -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (HalliganError("no disk", detail=["sda"], hint="buy one"), 1, "error: no disk\n    sda\n    hint: buy one\n"),
        (ProblemsError([Problem(code="x", summary="bad")]), 1, "error: bad\n1 problem found\n"),
        (click.UsageError("which one?"), 1, "Error: which one?"),
        (click.Abort(), 130, "Aborted; nothing was done.\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_exit_codes(error: BaseException, code: int, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(failing(error), []) == code
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["pln", "lab"], "There is no command 'pln'. Did you mean \"plan\"?"),
        (["plan"], "Missing argument 'SITE'"),
        (["plan", "lab", "--format", "pdf"], "'pdf' is not one of"),
        (["--nonsense"], "No such option"),
    ],
)
def test_wrong_usage_exits_with_1(arguments: Sequence[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """2 means that changes are pending, so click's own code will not do."""
    assert run(app, arguments) == 1
    assert told in capsys.readouterr().err


def test_a_bug_is_logged_to_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert run(failing(ZeroDivisionError("oh")), ["a", "b"]) == 3
    err = capsys.readouterr().err
    assert "This is a bug in Halligan: ZeroDivisionError: oh" in err
    assert "Traceback" not in err
    (log,) = (tmp_path / "halligan").iterdir()
    assert str(log) in err
    assert "halligan a b" in log.read_text()
    assert "Traceback" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0


def test_a_bug_is_told_even_where_no_log_can_be_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError("full")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null/no")
    assert run(failing(ZeroDivisionError("oh")), []) == 3
    assert "ZeroDivisionError: oh" in capsys.readouterr().err


def test_a_closed_pipe_ends_quietly() -> None:
    """`halligan schema | head -0`: nobody reads, nothing is said."""
    process = subprocess.Popen([*PROGRAM, "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 1
    assert err == b""


def test_help_and_version_exit_with_0() -> None:
    for arguments in (["--help"], ["--version"], ["plan", "-h"], ["roles", "--help"], ["lab", "--help"]):
        done = subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_shells_can_complete() -> None:
    import os

    environ = {**os.environ, "_HALLIGAN_COMPLETE": "bash_complete", "COMP_WORDS": "halligan pl", "COMP_CWORD": "1"}
    done = subprocess.run(PROGRAM, env=environ, capture_output=True, text=True, check=False)
    assert done.stdout == "plain,plan\n"


def test_sites_complete_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.cli.door import SITE

    for name in ("lab", "lyon", "oslo"):
        (tmp_path / "inventories" / name).mkdir(parents=True)
        (tmp_path / "inventories" / name / "cluster.yml").touch()
    monkeypatch.chdir(tmp_path)
    context, parameter = click.Context(app), click.Argument(["site"])
    assert [item.value for item in SITE.shell_complete(context, parameter, "l")] == ["lab", "lyon"]
    assert [item.type for item in SITE.shell_complete(context, parameter, "./x")] == ["file"]
