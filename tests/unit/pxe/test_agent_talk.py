"""How the discovery agent reads its site, keeps its memory, sets its clock, and waits."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.agents import load_agent

agent = load_agent()
SITE = {"server": "https://192.0.2.1:8443", "files": "http://192.0.2.1:8090", "token": "secret"}


def site(root: Path, said: Any) -> Any:
    path = root / "etc/halligan/site.json"
    path.parent.mkdir(parents=True)
    path.write_text(said if isinstance(said, str) else json.dumps(said))
    return agent.Site.read(agent.Machine(root))


def test_a_site_is_read_with_its_defaults(tmp_path: Path) -> None:
    read = site(tmp_path, SITE)
    assert (read.mode, read.lldp_s, read.restart_s) == ("discover", 35.0, 300.0)
    assert "secret" not in repr(read)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("no json", "'server' must be a URL"),
        ({**SITE, "server": "http://192.0.2.1"}, "must be https"),
        ({**SITE, "files": ""}, "'files' must be a URL"),
    ],
)
def test_a_wrong_site_says_what_is_wrong(tmp_path: Path, said: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        site(tmp_path, said)


def test_a_missing_site_says_where_it_comes_from(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the boot service adds it to each boot"):
        agent.Site.read(agent.Machine(tmp_path))


def test_memory_tells_new_begun_and_finished_tasks_apart(tmp_path: Path) -> None:
    memory = agent.Memory(agent.Machine(tmp_path))
    assert memory.task("a/../b") is None
    memory.began("a/../b")
    assert memory.task("a/../b") == {}
    memory.finished("a/../b", {"ok": True})
    assert agent.Memory(agent.Machine(tmp_path)).task("a/../b") == {"result": {"ok": True}}
    assert memory.task("another") is None
    assert {path.parent.name for path in tmp_path.rglob("*.json")} == {"agent"}


def test_waits_grow_to_a_limit_and_start_again() -> None:
    back_off = agent.BackOff()
    waits = [back_off.next() for _ in range(8)]
    for wait, middle in zip(waits, [1, 2, 4, 8, 15, 15, 15, 15], strict=True):
        assert 0.75 * middle <= wait <= 1.25 * middle
    back_off.reset()
    assert back_off.next() <= 1.25


class _Quiet(agent.Console):  # type: ignore[name-defined,misc]
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.mark.parametrize(
    ("now", "server", "set_to", "words"),
    [
        (0.0, 1_800_000_000.0, [1_800_000_000.0], "20833.3 days slow; set it from the server"),
        (1_800_000_000.0, 1_700_000_000.0, [1_700_000_000.0], "1157.4 days fast"),
        (1_800_000_000.0, 1_800_003_600.0, [], ""),
    ],
)
def test_a_clock_that_is_days_off_is_set(now: float, server: float, set_to: list[float], words: str) -> None:
    console = _Quiet()
    was_set: list[float] = []
    agent.Clock(now=lambda: now, set=was_set.append).adjust(server, "the server", console, agent.DAY)
    assert was_set == set_to
    assert words in " ".join(console.said)


def test_a_clock_that_cannot_be_set_is_said_and_no_end() -> None:
    def refuse(now: float) -> None:
        raise PermissionError(1, "Operation not permitted")

    console = _Quiet()
    agent.Clock(now=lambda: 0.0, set=refuse).adjust(1e9, "the server", console, agent.DAY)
    assert "cannot be set: Operation not permitted" in console.said[0]


@pytest.mark.parametrize(
    ("date", "wanted"),
    [("Wed, 25 Nov 2026 11:00:00 GMT", 1795604400.0), ("yesterday", None), ("", None)],
)
def test_the_time_is_taken_from_the_file_server(date: str, wanted: float | None) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response_only(404)
            if date:
                self.send_header("Date", date)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert agent.server_date(f"http://127.0.0.1:{server.server_address[1]}") == wanted
        thread.join()


def test_no_server_has_no_time() -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        port = server.server_address[1]
    assert agent.server_date(f"http://127.0.0.1:{port}", 2) is None
    assert agent.server_date("https://127.0.0.1:1") is None


def test_a_log_keeps_its_end() -> None:
    work = agent.Work(agent.Machine(), agent.Site("https://x", "http://x"), _Quiet())
    for number in range(20_000):
        work.note(f"line {number}")
    log = work.log()
    assert len(log.encode()) <= agent.LOG_LIMIT
    assert log.endswith("line 19999\n")
    work.note("é" * 100_000)
    assert len(work.log().encode()) <= agent.LOG_LIMIT


def test_every_task_of_the_protocol_is_known() -> None:
    assert set(agent.TASKS) == {"install", "erase", "reboot", "poweroff", "rescue"}
