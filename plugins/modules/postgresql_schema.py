#!/usr/bin/python
# Copyright: the Halligan authors
# Apache License 2.0 (see LICENSE)
"""Keep one PostgreSQL database with the role that owns it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: postgresql_schema
short_description: Keep one PostgreSQL database with the role that owns it
description:
  - Creates a login role and a database that belongs to it, over TCP with an administering role that may create both.
  - Only what differs is written. A password is compared by logging in with it.
  - A new password reaches the server as a SCRAM verifier, so that no log of statements holds it.
  - In check mode a server that cannot be asked yet counts as a change, with a warning.
author: The Halligan authors
requirements:
  - psql on the target (Debian's C(postgresql-client))
options:
  login_host:
    description: Address of the server.
    type: str
    required: true
  login_port:
    description: TCP port of the server.
    type: int
    default: 5432
  login_user:
    description: Role that may create databases and roles.
    type: str
    required: true
  login_password:
    description: Password of that role.
    type: str
    required: true
  database:
    description: Name of the database.
    type: str
    required: true
  user:
    description: Name of the role that owns the database.
    type: str
    required: true
  password:
    description: Password of that role. Needed unless O(state=absent).
    type: str
  state:
    description: V(absent) drops the database with all its data, and the role.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    support: full
"""

EXAMPLES = r"""
- name: Keep the database
  postgresql_schema:
    login_host: 10.0.0.11
    login_user: halligan
    login_password: "{{ placement_database_admin_password }}"
    database: placement
    user: placement
    password: "{{ placement_database_password }}"
"""

RETURN = r"""
changes:
  description: What was changed, or would be in check mode.
  type: list
  elements: str
  returned: always
"""

MAINTENANCE = "postgres"  # the database that every cluster has, for those who have none of their own yet
ROUNDS = 4096  # as the server itself hashes
LOOK = """
SELECT 'role', rolcanlogin FROM pg_catalog.pg_roles WHERE rolname = {user};
SELECT 'database', pg_catalog.pg_get_userbyid(datdba) FROM pg_catalog.pg_database WHERE datname = {database};
"""


class ServerError(Exception):
    """What the server answered, or why it cannot be asked."""


@dataclass(frozen=True)
class Wanted:
    database: str
    user: str
    password: str | None  # None: database and role are to be absent


@dataclass(frozen=True)
class Seen:
    """What the server has."""

    role: bool = False
    login: bool = False  # the role may log in
    owner: str | None = None  # of the database; None: there is none
    password: bool = False  # the password is the wanted one


@dataclass(frozen=True)
class Statement:
    text: str
    change: str = ""  # empty: part of the change before it


def plan(wanted: Wanted, seen: Seen, salt: bytes) -> Iterator[Statement]:
    """The statements that lead from what is seen to what is wanted, in order."""
    name, owner = identifier(wanted.database), identifier(wanted.user)
    if wanted.password is None:
        if seen.owner is not None:
            # FORCE ends the connections that services still have open.
            yield Statement(f"DROP DATABASE {name} WITH (FORCE)", f"database {wanted.database} dropped")
        if seen.role:
            yield Statement(f"DROP ROLE {owner}", f"role {wanted.user} dropped")
        return
    verifier = scram(wanted.password, salt)
    if not seen.role:
        yield Statement(f"CREATE ROLE {owner} LOGIN PASSWORD '{verifier}'", f"role {wanted.user} created")
    elif not (seen.password and seen.login):
        yield Statement(f"ALTER ROLE {owner} LOGIN PASSWORD '{verifier}'", f"role {wanted.user} given its password")
    if seen.owner == wanted.user:
        return
    # Who gives a database to a role has to be a member of it.
    yield Statement(f"GRANT {owner} TO CURRENT_USER")
    if seen.owner is None:
        # Debian's template may have the encoding of whatever locale the host was installed in.
        text = f"CREATE DATABASE {name} OWNER {owner} TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C.UTF-8'"
        yield Statement(text, f"database {wanted.database} created")
    else:
        yield Statement(f"ALTER DATABASE {name} OWNER TO {owner}", f"database {wanted.database} given to {wanted.user}")


def scram(password: str, salt: bytes) -> str:
    """Return what the server keeps of a password (RFC 5802, in PostgreSQL's form).

    Passwords beyond ASCII would have to be normalised first (SASLprep); they are refused.
    """
    if not password.isascii():
        raise ValueError("a password for PostgreSQL may hold ASCII characters only")
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, ROUNDS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    parts = [base64.b64encode(part).decode() for part in (salt, stored, server)]
    return f"SCRAM-SHA-256${ROUNDS}:{parts[0]}${parts[1]}:{parts[2]}"


def identifier(text: str) -> str:
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", text):
        raise ValueError(f"{text!r} is not a plain name of small letters, digits and underscores")
    return f'"{text}"'


def parse_seen(output: str, *, password: bool) -> Seen:
    """Read what LOOK printed, unaligned and without headings."""
    found = dict(line.split("|", 1) for line in output.splitlines() if "|" in line)
    return Seen(
        role="role" in found,
        login=found.get("role") == "t",
        owner=found.get("database"),
        password=password and "role" in found,
    )


class Server:
    """The server, as psql reaches it."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module
        self._options = module.params

    def ask(self, text: str) -> str:
        """Run statements as the administering role."""
        code, output, error = self._psql(self._options["login_user"], self._options["login_password"], text)
        if code:
            raise ServerError(_reason(error))
        return output

    def lets_in(self, user: str, password: str) -> bool:
        """Whether a role may log in with a password. Every role may connect to the maintenance database."""
        return self._psql(user, password, "SELECT 1")[0] == 0

    def _psql(self, user: str, password: str, text: str) -> tuple[int, str, str]:
        # In the environment, which only root and the same user can read; a command line is for everybody.
        environment = {"PGPASSWORD": password, "PGCONNECT_TIMEOUT": "10", "PGSSLMODE": "prefer", "LC_ALL": "C.UTF-8"}
        command = ["psql", "--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1"]
        command += [f"--host={self._options['login_host']}", f"--port={self._options['login_port']}"]
        command += [f"--username={user}", f"--dbname={MAINTENANCE}", "--no-password", "--file=-"]
        code, output, error = self._module.run_command(command, data=text, environ_update=environment)
        return code, output, error


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "login_host": {"type": "str", "required": True},
            "login_port": {"type": "int", "default": 5432},
            "login_user": {"type": "str", "required": True},
            "login_password": {"type": "str", "required": True, "no_log": True},
            "database": {"type": "str", "required": True},
            "user": {"type": "str", "required": True},
            "password": {"type": "str", "no_log": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ["password"])],
        supports_check_mode=True,
    )
    options = module.params
    wanted = Wanted(
        options["database"], options["user"], options["password"] if options["state"] == "present" else None
    )
    if module.get_bin_path("psql") is None:
        _cannot_ask(module, "There is no psql on this node (Debian's postgresql-client).")
    seen = Seen()
    try:
        seen = look(Server(module), wanted)
    except ValueError as error:
        module.fail_json(msg=str(error), changes=[])
    except ServerError as error:
        _cannot_ask(module, f"Cannot ask PostgreSQL at {options['login_host']}:{options['login_port']}: {error}")
    changes = []
    try:
        for statement in plan(wanted, seen, os.urandom(16)):
            if not module.check_mode:
                Server(module).ask(statement.text)
            changes += [statement.change] if statement.change else []
    except (ServerError, ValueError) as error:
        module.fail_json(msg=f"Database {wanted.database}: {error}", changes=changes)
    module.exit_json(changed=bool(changes), changes=changes)


def look(server: Server, wanted: Wanted) -> Seen:
    """Ask the server what it has of the wanted. Names are plain, so quotes suffice."""
    for name in (wanted.user, wanted.database):
        identifier(name)
    told = server.ask(LOOK.format(user=f"'{wanted.user}'", database=f"'{wanted.database}'"))
    known = wanted.password is not None and "role|" in told
    return parse_seen(told, password=known and server.lets_in(wanted.user, wanted.password or ""))


def _cannot_ask(module: AnsibleModule, problem: str) -> None:
    if not module.check_mode:
        module.fail_json(msg=problem, changes=[])
    module.warn(f"{problem} In check mode this counts as a change.")
    module.exit_json(changed=True, changes=["database and role (the server cannot be asked yet)"])


def _reason(error: str) -> str:
    """Return what went wrong, without the statement, which may hold a verifier."""
    lines = [line for line in error.splitlines() if "ERROR:" in line or "FATAL:" in line or "failed" in line]
    return (lines or error.splitlines() or ["no reason given"])[0].strip()


if __name__ == "__main__":
    main()
