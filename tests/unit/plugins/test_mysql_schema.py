"""Which statements mysql_schema plans."""

from __future__ import annotations

from dataclasses import replace

import pytest

from plugins.modules.mysql_schema import Seen, Wanted, covers, native_hash, plan

WANTED = Wanted("nova_api", "utf8mb3", "utf8mb3_general_ci", "nova", "%", "secret")
HASH = "*14E65567ABDB5135D0CFD9A70B3032C179A49EE7"
NOTHING = Seen(collation=None, password_hash=None)
CONVERGED = Seen(
    "utf8mb3_general_ci",
    HASH,
    (
        f"GRANT USAGE ON *.* TO `nova`@`%` IDENTIFIED BY PASSWORD '{HASH}'",
        r"GRANT ALL PRIVILEGES ON `nova\_api`.* TO `nova`@`%`",
    ),
)


def statements(wanted: Wanted, seen: Seen) -> list[tuple[str, tuple[str, ...]]]:
    return [(statement.text, statement.values) for statement in plan(wanted, seen)]


def test_passwords_are_compared_as_the_server_keeps_them() -> None:
    """The hash of MariaDB's own SELECT PASSWORD('secret')."""
    assert native_hash("secret") == HASH


def test_a_new_database_gets_an_account_with_all_rights() -> None:
    assert statements(WANTED, NOTHING) == [
        ("CREATE DATABASE `nova_api` CHARACTER SET utf8mb3 COLLATE utf8mb3_general_ci", ()),
        ("CREATE USER %s@%s IDENTIFIED BY PASSWORD %s", ("nova", "%", HASH)),
        (r"GRANT ALL PRIVILEGES ON `nova\_api`.* TO %s@%s", ("nova", "%")),
    ]


def test_nothing_is_planned_for_what_is_there() -> None:
    assert statements(WANTED, CONVERGED) == []


@pytest.mark.parametrize(
    ("seen", "change"),
    [
        (replace(CONVERGED, collation="utf8mb4_general_ci"), "collation of nova_api set"),
        (replace(CONVERGED, password_hash="*00"), "account nova given its password"),
        (replace(CONVERGED, password_hash="other plugin"), "account nova given its password"),
        (replace(CONVERGED, grants=CONVERGED.grants[:1]), "account nova given all rights on nova_api"),
        (replace(CONVERGED, collation=None), "database nova_api created"),
    ],
)
def test_only_what_differs_is_planned(seen: Seen, change: str) -> None:
    assert [statement.change for statement in plan(WANTED, seen)] == [change]


def test_no_statement_and_no_change_holds_the_password() -> None:
    text = " ".join(f"{one.text} {one.values} {one.change}" for one in plan(WANTED, NOTHING))
    assert "secret" not in text


@pytest.mark.parametrize(
    ("grant", "covered"),
    [
        (r"GRANT ALL PRIVILEGES ON `nova\_api`.* TO `nova`@`%`", True),
        ("GRANT ALL PRIVILEGES ON `nova_api`.* TO `nova`@`%` WITH GRANT OPTION", True),
        ("GRANT ALL PRIVILEGES ON *.* TO `nova`@`%`", True),
        ("GRANT ALL PRIVILEGES ON `nova`.* TO `nova`@`%`", False),
        ("GRANT ALL PRIVILEGES ON `nova_api`.`instances` TO `nova`@`%`", False),
        ("GRANT SELECT, INSERT ON `nova_api`.* TO `nova`@`%`", False),
        ("GRANT USAGE ON *.* TO `nova`@`%`", False),
    ],
)
def test_which_grants_are_enough(grant: str, covered: bool) -> None:
    assert covers(grant, "nova_api") is covered


def test_absent_drops_what_is_there() -> None:
    absent = replace(WANTED, password=None)
    assert statements(absent, CONVERGED) == [("DROP DATABASE `nova_api`", ()), ("DROP USER %s@%s", ("nova", "%"))]
    assert statements(absent, NOTHING) == []


@pytest.mark.parametrize("name", ["a`b", "a b", "", "a%s", "a;drop"])
def test_a_name_that_would_need_quoting_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a plain name"):
        statements(replace(WANTED, database=name), NOTHING)
