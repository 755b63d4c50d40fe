"""Probes that need each other."""

from __future__ import annotations

from itertools import count

from ansible.module_utils.openstack_api import ApiError, UnreachableError
from ansible.module_utils.probe_graph import Probe, ProbeError, SkipError, run, verdict


def fails(error: Exception):
    def ask() -> str:
        raise error

    return ask


def test_a_probe_without_its_ground_is_skipped_and_the_others_go_on() -> None:
    report, seconds = run(
        [
            Probe("token", lambda: "admin"),
            Probe("server", fails(ProbeError("no host")), ("token",)),
            Probe("console", lambda: "prompt", ("server",)),
            Probe("ssh", lambda: "in", ("console",)),
            Probe("object", lambda: "put", ("token",)),
        ],
        count().__next__,
    )
    assert report == {
        "token": "ok: admin",
        "server": "failed: no host",
        "console": "skipped: needs server",
        "ssh": "skipped: needs console",
        "object": "ok: put",
    }
    assert set(seconds) == {"token", "server", "object"}
    assert verdict(report) == "failed"


def test_what_was_asked_before_counts() -> None:
    report, _ = run([Probe("b", lambda: "yes", ("a",))], count().__next__, {"a": "ok: yes"})
    assert report == {"b": "ok: yes"}


def test_every_kind_of_trouble_has_its_word() -> None:
    report, _ = run(
        [
            Probe("refused", fails(ApiError("HTTP 500", 500))),
            Probe("silent", fails(UnreachableError("nobody"))),
            Probe("not yet", fails(UnreachableError("nobody")), must_answer=False),
            Probe("odd", fails(KeyError("id"))),
            Probe("elsewhere", fails(SkipError("not on this node"))),
        ],
        count().__next__,
    )
    assert [line.partition(":")[0] for line in report.values()] == ["failed", "failed", "unknown", "failed", "skipped"]


def test_a_skipped_probe_alone_is_no_fault() -> None:
    assert verdict({"a": "ok: x", "b": "skipped: y"}) == "ok"
    assert verdict({"a": "ok: x", "b": "unknown: y"}) == "unknown"
