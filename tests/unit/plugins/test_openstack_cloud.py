"""A cloud as a test uses it: nothing stays behind, and waiting ends."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from ansible.module_utils.openstack_api import Answer, Session, Token
from ansible.module_utils.openstack_cloud import Cloud
from ansible.module_utils.probe_graph import ProbeError

TOKEN = Token(id="t", user_id="u", project_id="p", roles=(), expires_at="", catalog=())


class Wire:
    """Answers what it was told to; remembers what was asked."""

    def __init__(self, *answers: tuple[int, object]) -> None:
        self.asked: list[str] = []
        self._answers = list(answers)

    def __call__(self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None) -> Answer:
        self.asked.append(f"{method} {url}")
        status, said = self._answers.pop(0) if self._answers else (204, None)
        return Answer(status, {}, json.dumps(said).encode() if said is not None else b"")


def cloud(wire: Wire) -> Cloud:
    ticks = iter(range(1000))
    return Cloud(
        Session(wire, TOKEN),
        {"network": "http://net"},
        "name",
        clock=lambda: float(next(ticks)),
        sleep=lambda _: None,
        timeout_s=5,
    )


def test_what_was_made_is_unmade_the_last_first() -> None:
    wire = Wire((201, {"network": {"id": "n"}}), (201, {"subnet": {"id": "s"}}))
    made = cloud(wire)
    made.make("network", "v2.0/networks", {"network": {}})
    made.make("network", "v2.0/subnets", {"subnet": {}})
    assert made.undo() == []
    assert wire.asked[2:] == ["DELETE http://net/v2.0/subnets/s", "DELETE http://net/v2.0/networks/n"]
    assert made.undo() == []
    assert len(wire.asked) == 4


def test_what_cannot_be_unmade_is_told_and_the_rest_goes() -> None:
    wire = Wire((201, {"network": {"id": "n", "name": "x"}}), (201, {"subnet": {"id": "s"}}), (409, None))
    made = cloud(wire)
    made.make("network", "v2.0/networks", {"network": {}})
    made.make("network", "v2.0/subnets", {"subnet": {}})
    (left,) = made.undo()
    assert left.startswith("subnet s (")
    assert wire.asked[-1] == "DELETE http://net/v2.0/networks/n"


def test_waiting_ends_with_the_state_a_bad_state_or_the_time() -> None:
    states = iter(["BUILD", "BUILD", "ACTIVE"])
    assert cloud(Wire()).wait("it", lambda: next(states), ("ACTIVE",)) == "ACTIVE"
    with pytest.raises(ProbeError, match="it is ERROR"):
        cloud(Wire()).wait("it", lambda: "ERROR", ("ACTIVE",))
    with pytest.raises(ProbeError, match="it is BUILD after 5 s, not ACTIVE"):
        cloud(Wire()).wait("it", lambda: "BUILD", ("ACTIVE",))
