"""A service runs as its files say, whatever happened before."""

from __future__ import annotations

import grp
import json
import os
import pwd
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.unit_state import newer_files

from plugins.modules import daemon
from plugins.modules.daemon import File, Service, differs, drop, drop_in, ini, keep, put, quoted, write

USER = pwd.getpwuid(os.getuid()).pw_name
GROUP = grp.getgrgid(os.getgid()).gr_name
OWNED = {"owner": USER, "group": GROUP, "mode": "0640"}


class FailedError(Exception):
    """What fail_json comes to."""


class FakeModule:
    """AnsibleModule on a machine with one unit."""

    def __init__(self, **options: Any) -> None:
        self.params = {"command": None, "directives": {}, "files": [], "watch": [], "state": "started", **options}
        self.check_mode = False
        self.calls: list[str] = []
        self.state = "inactive"
        self.enabled = "disabled"
        self.started = 0.0
        self.restarts = 0
        self.dies = False
        self.reload = "no"

    def run_command(self, words: Iterable[str]) -> tuple[int, str, str]:
        program, verb, *_ = words
        if program == "journalctl":
            return 0, "no such database\n", ""
        if verb == "show":
            return 0, self._show(), ""
        self.calls.append(verb)
        if verb == "enable":
            self.enabled = "enabled"
        if verb == "daemon-reload":
            self.reload = "no"
        if verb == "restart":
            self.state, self.started = ("failed" if self.dies else "active"), time.time()
        if verb == "disable":
            self.state, self.enabled = "inactive", "disabled"
        return 0, "", ""

    def _show(self) -> str:
        when = datetime.fromtimestamp(self.started, UTC).strftime("Wed %Y-%m-%d %H:%M:%S.%f UTC")
        return (
            f"ActiveState={self.state}\nExecMainStartTimestamp={when if self.state == 'active' else ''}\n"
            f"LoadState=loaded\nUnitFileState={self.enabled}\nNeedDaemonReload={self.reload}\nNRestarts={self.restarts}\n"
        )

    def fail_json(self, msg: str) -> None:
        raise FailedError(msg)


@pytest.fixture(autouse=True)
def units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of units is one of the test, whoever runs it owns the drop-ins, and nothing has to settle."""
    folder = tmp_path / "units"
    monkeypatch.setattr(daemon, "UNITS", folder)
    monkeypatch.setattr(daemon, "SETTLE_S", 0.01)
    monkeypatch.setattr(daemon.time, "sleep", lambda _seconds: None)
    whole = daemon.wanted_files
    monkeypatch.setattr(
        daemon,
        "wanted_files",
        lambda *told: [File(one.path, one.content, USER, GROUP, one.mode) for one in whole(*told)],
    )
    return folder


def module(tmp_path: Path, *, host: str = "a", **options: Any) -> FakeModule:
    settings = json.dumps({"DEFAULT": {"host": host}})
    files = [{"path": tmp_path / "one.conf", "settings": settings, "content": None, **OWNED}]
    return FakeModule(unit="one.service", command=["/usr/bin/one"], files=files, **options)


def run(told: FakeModule, action: Any = keep) -> list[str]:
    done: list[str] = action(told, Service(told, told.params["unit"]))
    return done


def test_settings_become_a_sorted_file() -> None:
    settings = {"b": {"on": True, "many": [1, 2]}, "DEFAULT": {"empty": "", "lines": "one\ntwo"}}
    assert ini(settings, "note") == (
        "# note\n\n[DEFAULT]\nempty =\nlines = one two\n\n[b]\nmany = 1\nmany = 2\non = true\n"
    )


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("/usr/bin/one", "/usr/bin/one"),
        ("", '""'),
        ("two words", '"two words"'),
        ('a "quote" \\', '"a \\"quote\\" \\\\"'),
        ("100%$HOME", "100%%$$HOME"),
    ],
)
def test_words_are_quoted_as_systemd_reads_them(word: str, told: str) -> None:
    assert quoted(word) == told


def test_a_unit_that_is_right_gets_no_drop_in() -> None:
    assert drop_in(None, {}) == ""
    assert drop_in(["/one", "x y"], {"Environment": ["A=1", "B=2"]}).splitlines()[1:] == [
        "[Service]",
        "ExecStart=",
        'ExecStart=/one "x y"',
        "Environment=A=1",
        "Environment=B=2",
    ]


def test_a_file_is_as_wanted_after_it_was_written(tmp_path: Path) -> None:
    file = File(tmp_path / "deep" / "file", "text\n", USER, GROUP, 0o600)
    assert differs(file) == "content"
    write(file)
    assert not differs(file)
    file.path.chmod(0o644)
    assert differs(file) == "owner or mode"
    assert [one.name for one in file.path.parent.iterdir()] == ["file"]
    gone = File(file.path, "", USER, GROUP)
    assert differs(gone) == "content"
    write(gone)
    assert not file.path.exists()
    assert not differs(gone)


def test_files_that_changed_since_the_start_are_newer(tmp_path: Path) -> None:
    for name, when in (("old", 99), ("new", 101)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (when, when))
    assert newer_files([tmp_path / "old", tmp_path / "new", tmp_path / "missing"], 100) == [str(tmp_path / "new")]


def test_a_new_service_is_enabled_and_started_and_then_left_alone(tmp_path: Path, units: Path) -> None:
    told = module(tmp_path)
    assert run(told) == [
        f"wrote {tmp_path / 'one.conf'}",
        f"wrote {units / 'one.service.d' / 'halligan.conf'}",
        "enabled",
        "started",
    ]
    assert told.calls == ["daemon-reload", "enable", "restart"]
    told.calls.clear()
    assert run(told) == []
    assert told.calls == []


def test_another_setting_restarts_without_a_reload(tmp_path: Path) -> None:
    run(told := module(tmp_path))
    told.params = module(tmp_path, host="b").params
    told.calls.clear()
    assert run(told) == [f"wrote {tmp_path / 'one.conf'}", "restarted"]
    assert told.calls == ["restart"]


def test_another_mode_alone_restarts_nothing(tmp_path: Path) -> None:
    run(told := module(tmp_path))
    (tmp_path / "one.conf").chmod(0o644)
    told.calls.clear()
    assert run(told) == [f"wrote {tmp_path / 'one.conf'}"]
    assert told.calls == []
    assert (tmp_path / "one.conf").stat().st_mode & 0o777 == 0o640


def test_a_run_that_ended_between_file_and_restart_is_completed(tmp_path: Path) -> None:
    run(told := module(tmp_path))
    told.params = module(tmp_path, host="b").params
    run(told, put)
    told.started -= 10
    told.reload = "yes"
    told.calls.clear()
    assert run(told) == ["restarted"]
    assert told.calls == ["daemon-reload", "restart"]


def test_a_watched_file_of_others_restarts(tmp_path: Path) -> None:
    told = module(tmp_path, watch=[str(tmp_path / "key")])
    run(told)
    (tmp_path / "key").touch()
    os.utime(tmp_path / "key", (told.started + 1, told.started + 1))
    assert run(told) == ["restarted"]


def test_check_mode_predicts_and_writes_nothing(tmp_path: Path) -> None:
    told = module(tmp_path)
    told.check_mode = True
    predicted = run(told)
    assert told.calls == []
    assert not (tmp_path / "one.conf").exists()
    told.check_mode = False
    assert run(told) == predicted


def test_a_service_that_ends_at_once_fails_with_its_own_words(tmp_path: Path) -> None:
    told = module(tmp_path)
    told.dies = True
    with pytest.raises(FailedError, match=r"one\.service ended again.*no such database"):
        run(told)


def test_removal_leaves_nothing_and_a_second_one_does_nothing(tmp_path: Path, units: Path) -> None:
    run(told := module(tmp_path))
    told.params["state"] = "absent"
    assert run(told, drop) == [
        "stopped and disabled",
        f"removed {tmp_path / 'one.conf'}",
        f"removed {units / 'one.service.d' / 'halligan.conf'}",
    ]
    assert told.state == "inactive"
    told.calls.clear()
    assert run(told, drop) == []
    assert told.calls == []


@pytest.mark.parametrize("state", ["activating", "deactivating"])
def test_removal_stops_a_service_that_keeps_failing(tmp_path: Path, state: str) -> None:
    told = module(tmp_path)
    told.state, told.enabled = state, "disabled"
    assert run(told, drop) == ["stopped and disabled"]
