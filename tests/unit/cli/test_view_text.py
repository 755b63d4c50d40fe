"""The plan as text: whole texts, because an operator reads the whole."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from orchestrator.cli.views.text import plan_text
from orchestrator.cli.views.words import Look
from orchestrator.model import Action, Plan, Step
from orchestrator.plan import summarize

SMALL = """\
Plan for lab: 6 to create, 1 to update and 1 to remove; 4 unchanged
  4 of 4 nodes, base revision 7, plan {id}

ERASES DATA: 1 step, each needs your consent
  - remove mariadb on old-1: Every database under /var/lib/mysql.

By group       create  update  remove
  compute           4       .       .
  kvm               4       .       .
  controllers       2       1       .

By role     create  update  remove
  base           3       .       .
  mariadb        1       .       1
  nova           2       .       .
  keystone       .       1       .

Expected    about 2 min 5 s; unknown for keystone, mariadb and nova: no history
Waves       4
Longest     4 steps, 2 min 5 s: base@ctl-1 > mariadb@ctl-1 > keystone@ctl-1 > nova@kvm-2
Executors   by carry: 6 steps; by push: 2 steps (1 Windows, 1 role keystone: its contract)

Steps, in order
  Wave 1  4 steps
    + create  base@ctl-1
          because   new node
          expected  30 s
          executor  carry
    + create  base@kvm-1
          because   new node
          expected  30 s
          executor  carry
    + create  base@kvm-2
          because   new node
          expected  30 s
          executor  carry
    - remove  mariadb@old-1
          because   no longer placed here
          erases    Every database under /var/lib/mysql.
          executor  carry
  Wave 2  1 step
    + create  mariadb@ctl-1
          because   new node
          needs     base@ctl-1
          expected  1 min 35 s
          executor  carry
  Wave 3  1 step
    ~ update  keystone@ctl-1
          because   input keystone_admin_url changed
                    role files changed
          needs     database.mysql from mariadb@ctl-1
          after     base@ctl-1
          executor  push: role keystone: its contract
  Wave 4  2 steps
    + create  nova@kvm-1
          because   new node
          needs     base@kvm-1
                    identity.keystone from keystone@ctl-1
          executor  carry
    + create  nova@kvm-2
          because   new node
          needs     base@kvm-2
                    identity.keystone from keystone@ctl-1
          executor  push: Windows
"""


def shown(plan: Plan, **options: object) -> str:
    return plan_text(plan, summarize(plan), **options)  # type: ignore[arg-type]  # a test may give any option


def test_a_small_plan_shows_every_step(small_plan: Plan) -> None:
    assert shown(small_plan) == SMALL.format(id=small_plan.id[:12])


def test_colour_adds_nothing_but_colour(small_plan: Plan) -> None:
    coloured = shown(small_plan, look=Look(colour=True))
    assert "\x1b[32m" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == shown(small_plan)


def test_a_big_plan_fits_on_two_screens(big_plan: Plan) -> None:
    text = shown(big_plan)
    assert len(text.splitlines()) < 80
    assert "    + create  libvirt       997  hv-[01:95], kvm-[001:900], net-[1:2]\n" in text
    assert "Steps, in order (every one: new node)" in text
    assert max(len(line) for line in text.splitlines()) <= 100


def test_verbose_shows_every_step_of_a_big_plan(big_plan: Plan) -> None:
    assert shown(big_plan, verbose=True).count("because   new node") == len(big_plan.steps)


def test_reasons_that_differ_are_told_per_kind(plan_of: Callable[..., Plan], step: Callable[..., Step]) -> None:
    steps = [step(f"base@kvm-{n:02d}") for n in range(1, 15)]
    steps += [step(f"base@kvm-{n:02d}", Action.UPDATE, ("role files changed",)) for n in range(15, 21)]
    assert shown(plan_of(steps)).partition("Steps, in order")[2] == (
        "\n"
        "  Wave 1  20 steps\n"
        "    + create  base      14  kvm-[01:14]  (new node)\n"
        "    ~ update  base       6  kvm-[15:20]  (role files changed)\n"
    )


def test_more_kinds_of_steps_than_fit_are_counted(plan_of: Callable[..., Plan], step: Callable[..., Step]) -> None:
    text = shown(plan_of([step(f"role{n:02d}@ctl-1") for n in range(60)]))
    assert "  and 20 more kinds of steps (--verbose shows every step)" in text
    assert "  and 45 more with fewer steps" in text


def test_nothing_to_do_is_one_glance(plan_of: Callable[..., Plan]) -> None:
    text = shown(plan_of([], unchanged=40, selection=("--role base",)))
    assert text == (
        "Nothing to do for lab among --role base.\n  40 placements already as the spec wants, base revision 7\n"
    )


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"complete": False}, "  Incomplete: some nodes are chosen among discovered machines;"),
        ({"selection": ("--node kvm-*", "--role nova")}, "  Only --node kvm-* --role nova, and what these need"),
    ],
)
def test_the_headline_tells_what_limits_the_plan(
    plan_of: Callable[..., Plan], step: Callable[..., Step], changes: dict[str, object], line: str
) -> None:
    assert line in shown(plan_of([step("base@ctl-1")], **changes))


def test_a_long_chain_loses_its_middle(plan_of: Callable[..., Plan], step: Callable[..., Step]) -> None:
    steps = [step("r00@n"), *(step(f"r{n:02d}@n", needs=(f"r{n - 1:02d}@n",)) for n in range(1, 20))]
    assert "r00@n > r01@n > r02@n > r03@n > (14 more) > r18@n > r19@n" in shown(plan_of(steps))
