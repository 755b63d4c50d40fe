"""Which statements postgresql_schema plans."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest

from plugins.modules.postgresql_schema import Seen, Wanted, identifier, parse_seen, plan, scram

WANTED = Wanted("placement", "placement", "secret")
CONVERGED = Seen(role=True, login=True, owner="placement", password=True)
SALT = b"0123456789abcdef"


def changes(wanted: Wanted, seen: Seen) -> list[str]:
    return [statement.change for statement in plan(wanted, seen, SALT) if statement.change]


def test_the_verifier_is_the_one_of_rfc_7677() -> None:
    """Its example: user "user", password "pencil", the salt below, 4096 rounds; the server key signs the exchange."""
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    form, salted, keys = scram("pencil", salt).split("$")
    assert (form, salted) == ("SCRAM-SHA-256", "4096:W22ZaJ0SNY7soEsUEjb6gQ==")
    stored, server = keys.split(":")
    assert stored == "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY="
    assert server == "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="


def test_a_new_database_gets_its_owner_first() -> None:
    texts = [statement.text for statement in plan(WANTED, Seen(), SALT)]
    assert [text.split('"')[0] for text in texts] == ["CREATE ROLE ", "GRANT ", "CREATE DATABASE "]
    assert "ENCODING 'UTF8'" in texts[2]


def test_nothing_is_planned_for_what_is_there() -> None:
    assert list(plan(WANTED, CONVERGED, SALT)) == []


@pytest.mark.parametrize(
    ("seen", "change"),
    [
        (replace(CONVERGED, password=False), "role placement given its password"),
        (replace(CONVERGED, login=False), "role placement given its password"),
        (replace(CONVERGED, owner=None), "database placement created"),
        (replace(CONVERGED, owner="halligan"), "database placement given to placement"),
    ],
)
def test_only_what_differs_is_planned(seen: Seen, change: str) -> None:
    assert changes(WANTED, seen) == [change]


def test_absence() -> None:
    gone = replace(WANTED, password=None)
    assert changes(gone, CONVERGED) == ["database placement dropped", "role placement dropped"]
    assert changes(gone, Seen()) == []
    assert changes(gone, replace(CONVERGED, owner=None)) == ["role placement dropped"]


def test_no_statement_holds_the_password() -> None:
    assert "secret" not in " ".join(statement.text for statement in plan(WANTED, Seen(), SALT))


@pytest.mark.parametrize("name", ["Nova", "a-b", "a b", 'a"b', "", "1a", "x" * 64])
def test_names_that_would_have_to_be_quoted_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="plain name"):
        identifier(name)


def test_passwords_beyond_ascii_are_refused() -> None:
    with pytest.raises(ValueError, match="ASCII"):
        scram("pä", SALT)


def test_what_the_server_tells() -> None:
    assert parse_seen("role|t\ndatabase|placement\n", password=True) == CONVERGED
    assert parse_seen("role|f\n", password=True) == Seen(role=True, password=True)
    assert parse_seen("", password=False) == Seen()
