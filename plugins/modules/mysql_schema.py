#!/usr/bin/python
# Copyright: the Halligan authors
# Apache License 2.0 (see LICENSE)
"""Keep one MariaDB database with the account that owns it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    import pymysql
except ImportError:
    pymysql = None

DOCUMENTATION = r"""
module: mysql_schema
short_description: Keep one MariaDB database with the account that owns it
description:
  - Creates a database, an account and the account's rights on that database, over TCP with an admin account.
  - Only what differs is written. A password is compared with the hash that the server keeps.
  - Passwords reach the server as hashes, so that no log of statements holds one.
  - In check mode a server that cannot be asked yet counts as a change, with a warning.
author: The Halligan authors
requirements:
  - PyMySQL on the target (Debian's C(python3-pymysql))
options:
  login_host:
    description: Address of the server.
    type: str
    required: true
  login_port:
    description: TCP port of the server.
    type: int
    default: 3306
  login_user:
    description: Account that may create databases and accounts.
    type: str
    required: true
  login_password:
    description: Password of that account.
    type: str
    required: true
  database:
    description: Name of the database.
    type: str
    required: true
  charset:
    description: Character set of the database.
    type: str
    default: utf8mb3
  collation:
    description: Collation of the database.
    type: str
    default: utf8mb3_general_ci
  user:
    description: Name of the account that gets all rights on the database.
    type: str
    required: true
  password:
    description: Password of that account. Needed unless O(state=absent).
    type: str
  user_host:
    description: From where the account may log in, as a MariaDB host pattern.
    type: str
    default: "%"
  state:
    description: V(absent) drops the database with all its data, and the account.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    support: full
"""

EXAMPLES = r"""
- name: Keep the database
  mysql_schema:
    login_host: 10.0.0.11
    login_user: halligan
    login_password: "{{ keystone_database_admin_password }}"
    database: keystone
    user: keystone
    password: "{{ keystone_database_password }}"
  no_log: true
"""

RETURN = r"""
changes:
  description: What was changed, or would be in check mode.
  type: list
  elements: str
  returned: always
"""


@dataclass(frozen=True)
class Wanted:
    database: str
    charset: str
    collation: str
    user: str
    host: str
    password: str | None  # None: database and account are to be absent


@dataclass(frozen=True)
class Seen:
    """What the server has. None: not there."""

    collation: str | None
    password_hash: str | None
    grants: tuple[str, ...] = ()


@dataclass(frozen=True)
class Statement:
    text: str
    values: tuple[str, ...]
    change: str


def plan(wanted: Wanted, seen: Seen) -> Iterator[Statement]:
    """The statements that lead from what is seen to what is wanted, in order."""
    account = (wanted.user, wanted.host)
    name = f"`{_word(wanted.database)}`"
    if wanted.password is None:
        if seen.collation is not None:
            yield Statement(f"DROP DATABASE {name}", (), f"database {wanted.database} dropped")
        if seen.password_hash is not None:
            yield Statement("DROP USER %s@%s", account, f"account {wanted.user} dropped")
        return
    charset = f"CHARACTER SET {_word(wanted.charset)} COLLATE {_word(wanted.collation)}"
    if seen.collation is None:
        yield Statement(f"CREATE DATABASE {name} {charset}", (), f"database {wanted.database} created")
    elif seen.collation != wanted.collation:
        yield Statement(f"ALTER DATABASE {name} {charset}", (), f"collation of {wanted.database} set")
    secret = native_hash(wanted.password)
    if seen.password_hash != secret:
        verb, done = ("CREATE", "created") if seen.password_hash is None else ("ALTER", "given its password")
        text = f"{verb} USER %s@%s IDENTIFIED BY PASSWORD %s"
        yield Statement(text, (*account, secret), f"account {wanted.user} {done}")
    if not any(covers(grant, wanted.database) for grant in seen.grants):
        scope = name.replace("_", r"\_")  # unescaped it is a wildcard, here only
        text = f"GRANT ALL PRIVILEGES ON {scope}.* TO %s@%s"
        yield Statement(text, account, f"account {wanted.user} given all rights on {wanted.database}")


def native_hash(password: str) -> str:
    """The form in which mysql_native_password keeps a password; the algorithm is the server's choice, not ours."""
    inner = hashlib.sha1(password.encode()).digest()  # noqa: S324
    return "*" + hashlib.sha1(inner).hexdigest().upper()  # noqa: S324


def covers(grant: str, database: str) -> bool:
    """Whether a line of SHOW GRANTS gives all rights on the database."""
    match = re.match(r"GRANT ALL PRIVILEGES ON (`[^`]+`|\*)\.\* TO ", grant)
    return match is not None and match[1].replace(r"\_", "_") in ("*", f"`{database}`")


def _word(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_]+", text):
        raise ValueError(f"{text!r} is not a plain name of letters, digits and underscores")
    return text


def look(connection: Any, wanted: Wanted) -> Seen:
    """Ask the server what it has of the wanted."""
    account = (wanted.user, wanted.host)
    collation = "SELECT default_collation_name FROM information_schema.schemata WHERE schema_name = %s"
    login = "SELECT plugin, authentication_string FROM mysql.user WHERE user = %s AND host = %s"
    with connection.cursor() as cursor:
        cursor.execute(collation, (wanted.database,))
        database = cursor.fetchone()
        cursor.execute(login, account)
        found = cursor.fetchone()
        grants: Iterable[tuple[str]] = ()
        if found is not None:
            cursor.execute("SHOW GRANTS FOR %s@%s", account)
            grants = cursor.fetchall()
    native = found is not None and found[0] == "mysql_native_password"
    return Seen(
        collation=database[0] if database else None,
        password_hash=None if found is None else found[1] if native else "other plugin",
        grants=tuple(line for (line,) in grants),
    )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "login_host": {"type": "str", "required": True},
            "login_port": {"type": "int", "default": 3306},
            "login_user": {"type": "str", "required": True},
            "login_password": {"type": "str", "required": True, "no_log": True},
            "database": {"type": "str", "required": True},
            "charset": {"type": "str", "default": "utf8mb3"},
            "collation": {"type": "str", "default": "utf8mb3_general_ci"},
            "user": {"type": "str", "required": True},
            "password": {"type": "str", "no_log": True},
            "user_host": {"type": "str", "default": "%"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ["password"])],
        supports_check_mode=True,
    )
    options = module.params
    wanted = Wanted(
        database=options["database"],
        charset=options["charset"],
        collation=options["collation"],
        user=options["user"],
        host=options["user_host"],
        password=options["password"] if options["state"] == "present" else None,
    )
    if pymysql is None:
        _cannot_ask(module, missing_required_lib("PyMySQL"))
    try:
        connection = pymysql.connect(
            host=options["login_host"],
            port=options["login_port"],
            user=options["login_user"],
            password=options["login_password"],
            charset="utf8mb4",
            connect_timeout=10,
            autocommit=True,
        )
    except pymysql.err.MySQLError as error:
        where = f"{options['login_user']}@{options['login_host']}:{options['login_port']}"
        _cannot_ask(module, f"Cannot log in to MariaDB as {where}: {_reason(error)}")
    changes: list[str] = []
    try:
        with connection:
            for statement in list(plan(wanted, look(connection, wanted))):
                if not module.check_mode:
                    with connection.cursor() as cursor:
                        cursor.execute(statement.text, statement.values)
                changes.append(statement.change)
    except (pymysql.err.MySQLError, ValueError) as error:
        module.fail_json(msg=f"Database {wanted.database}: {_reason(error)}", changes=changes)
    module.exit_json(changed=bool(changes), changes=changes)


def _cannot_ask(module: AnsibleModule, problem: str) -> None:
    if not module.check_mode:
        module.fail_json(msg=problem, changes=[])
    module.warn(f"{problem} In check mode this counts as a change.")
    module.exit_json(changed=True, changes=["database and account (the server cannot be asked yet)"])


def _reason(error: Exception) -> str:
    return str(error.args[-1]) if error.args else str(error)


if __name__ == "__main__":
    main()
