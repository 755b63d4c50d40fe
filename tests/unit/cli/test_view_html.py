"""The page: it stands alone, it holds every step, and nothing in a plan becomes markup or script."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser

from orchestrator.cli.views.html import html
from orchestrator.model import Plan, Step
from orchestrator.plan import summarize


def page(plan: Plan) -> str:
    return html(plan, summarize(plan))


def data(text: str) -> dict[str, list[object]]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return dict(json.loads(found[1]))


class Elements(HTMLParser):
    """Collects (tag, attributes)."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_says_what_matters_without_script(small_plan: Plan) -> None:
    text = page(small_plan)
    for words in ("Plan for lab", "6 to create", "1 to remove", "Erases data", "Every database under /var/lib/mysql."):
        assert words in text


def test_it_loads_nothing(big_plan: Plan) -> None:
    text = page(big_plan)
    assert not [tag for tag, attributes in Elements(text).found if {"src", "href", "srcset"} & attributes.keys()]
    assert "default-src 'none'" in text
    assert "@import" not in text
    assert "url(http" not in text


def test_every_step_is_in_its_data(big_plan: Plan) -> None:
    found = data(page(big_plan))
    assert len(found["steps"]) == len(big_plan.steps)
    assert len(found["words"]) == len(set(found["words"]))


def test_the_first_step_can_be_read_back(small_plan: Plan) -> None:
    found = data(page(small_plan))
    words = found["words"]
    action, role, node, wave, groups, reasons, needs, after, erases, expected = found["steps"][-1]  # type: ignore[misc]
    assert (action, role, node, wave, expected) == ("create", "nova", "kvm-2", 4, "")
    assert [words[number] for number in groups] == ["all", "compute", "kvm"]
    assert [words[number] for number in reasons] == ["new node"]
    assert [words[number] for number in needs] == ["base@kvm-2", "identity.keystone from keystone@ctl-1"]
    assert (after, erases) == ([], -1)


def test_hostile_names_stay_text(plan_of: Callable[..., Plan], step: Callable[..., Step]) -> None:
    hostile = '</script><img src=x onerror="alert(1)">'
    plan = plan_of(
        [step(f"base@{hostile}", reasons=(hostile,), destroys=hostile)], groups={hostile: (hostile,)}, site=hostile
    )
    text = page(plan)
    assert "<img" not in text
    assert [tag for tag, _ in Elements(text).found].count("script") == 2
    assert hostile in data(text)["words"]


def test_every_control_has_a_name(small_plan: Plan) -> None:
    elements = Elements(page(small_plan)).found
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all("aria-label" in attributes for tag, attributes in elements if tag == "input")
    assert ("html", {"lang": "en", "class": "hg"}) in elements


def test_an_empty_plan_has_a_page_too(plan_of: Callable[..., Plan]) -> None:
    text = page(plan_of([], unchanged=3))
    assert "Nothing to do" in text
    assert "<svg" not in text
