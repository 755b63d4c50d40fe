"""The tables, the same on SQLite and PostgreSQL, and how older stores become like them.

`events` and `plans` and `logs` are facts, only added to. The other tables hold the fold of the events, kept in the same
transaction, so that nobody has to read all events to know what is believed. Imports sqlalchemy: load this room lazily.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Connection,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    text,
)

__all__ = [
    "UPGRADES",
    "durations",
    "events",
    "facts",
    "fingerprints",
    "head",
    "holders",
    "latest_version",
    "logs",
    "machine_keys",
    "machines",
    "meta",
    "metadata",
    "nodes",
    "placements",
    "plans",
    "runs",
]

metadata = MetaData()

_Id = Text().with_variant(Text(collation="C"), "postgresql")  # sorts by code point on both
_Number = BigInteger().with_variant(Integer, "sqlite")  # SQLite makes only INTEGER keys the row's own number


def _key(name: str) -> Column[str]:
    return Column(name, _Id, primary_key=True)


def _text(name: str) -> Column[str]:
    return Column(name, _Id, nullable=False)


def _time(name: str) -> Column[float]:
    return Column(name, Double, nullable=False)


def _count(name: str) -> Column[int]:
    return Column(name, _Number, nullable=False)


meta = Table("meta", metadata, _key("name"), _text("value"))

head = Table(  # one row: the number of the last event, and the last one after which plans may be wrong
    "head",
    metadata,
    Column("id", Integer, CheckConstraint("id = 1"), primary_key=True, autoincrement=False),
    _count("seq"),
    _count("revision"),
)

events = Table(
    "events",
    metadata,
    # Numbers are given under the writer's lock, not by a sequence: readers that follow them must never miss a late one.
    Column("seq", _Number, primary_key=True, autoincrement=False),
    _text("kind"),
    _time("at"),
    _text("run"),
    _text("node"),
    _text("step"),
    _text("data"),
    Index("events_run", "run", "seq"),
    Index("events_node", "node", "seq"),  # serves a step too: its id ends with its node
)

placements = Table(
    "placements",
    metadata,
    _key("id"),
    _text("role"),
    _text("node"),
    _text("status"),
    _text("digest"),
    _text("outputs"),
    _time("at"),
    _time("seconds"),
    _text("run"),
    _time("drifted_at"),
    sqlite_with_rowid=False,
)

nodes = Table("nodes", metadata, _key("name"), _text("data"))

durations = Table("durations", metadata, _key("role"), _count("count"), _time("total_s"))

fingerprints = Table(
    "fingerprints", metadata, _key("digest"), _text("role"), _text("platform"), _text("inputs"), sqlite_with_rowid=False
)

plans = Table("plans", metadata, _key("id"), Column("document", LargeBinary, nullable=False))

runs = Table(
    "runs",
    metadata,
    _key("id"),
    Column("plan_id", _Id, ForeignKey("plans.id")),  # a run without its plan could not be resumed
    _text("command"),
    _text("status"),
    _time("started"),
    _time("finished"),
    _text("host"),
    _count("pid"),
    _count("steps"),
    _text("counts"),
)

logs = Table(
    "logs",
    metadata,
    Column("id", _Number, primary_key=True),
    _text("run"),
    _text("step"),
    _text("node"),
    _count("attempt"),
    _time("at"),
    Column("text", LargeBinary, nullable=False),
    Index("logs_node", "node", "id"),
    Index("logs_run", "run", "id"),
)

machines = Table(
    "machines",
    metadata,
    _key("id"),
    _text("node"),
    _text("phase"),
    _text("data"),
    Index("machines_node", "node"),
)

machine_keys = Table(  # "mac:…", "uuid:…", "serial:…" -> the machines that have it: boot answers must not read them all
    "machine_keys",
    metadata,
    Column("key", _Id, primary_key=True),
    Column("machine", _Id, primary_key=True),
    Index("machine_keys_machine", "machine"),
    sqlite_with_rowid=False,
)

facts = Table("facts", metadata, _key("digest"), Column("document", LargeBinary, nullable=False))

holders = Table("holders", metadata, _key("site"), _text("holder"))  # who holds the advisory lock; PostgreSQL only


def _machines(connection: Connection) -> None:
    """Version 2: what is known of bare metal."""
    server = connection.dialect.name == "postgresql"
    text_, blob = ('TEXT COLLATE "C"', "BYTEA") if server else ("TEXT", "BLOB")
    rowid = "" if server else " WITHOUT ROWID"
    connection.execute(
        text(
            f"CREATE TABLE machines (id {text_} NOT NULL PRIMARY KEY, node {text_} NOT NULL, phase {text_} NOT NULL, "
            f"data {text_} NOT NULL)"
        )
    )
    connection.execute(text("CREATE INDEX machines_node ON machines (node)"))
    connection.execute(
        text(
            f"CREATE TABLE machine_keys (key {text_} NOT NULL, machine {text_} NOT NULL, "
            f"PRIMARY KEY (key, machine)){rowid}"
        )
    )
    connection.execute(text("CREATE INDEX machine_keys_machine ON machine_keys (machine)"))
    connection.execute(text(f"CREATE TABLE facts (digest {text_} NOT NULL PRIMARY KEY, document {blob} NOT NULL)"))


UPGRADES: tuple[Callable[[Connection], None], ...] = (_machines,)
"""Item i turns a store of version i + 1 into version i + 2, inside a transaction that also records the new version.

New stores get the tables above at once. A change of the tables comes with an item here that does the same to an old
store, written in plain SQL: it must still mean the same after the next change.
"""


def latest_version() -> int:
    return 1 + len(UPGRADES)
