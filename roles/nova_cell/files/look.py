"""look.py CONFIG CELL [keep_cell0 | use]: tell what is to be done to Nova's schemas and cells; keep cell0; or tell who uses a cell.

Without an action it prints {"todo": [...], "uuid": "..."}: names of steps in their order (api_schema; or cell0, create_cell or
update_cell, schema) and the cell's id if it has one. With "use" it prints {"there": ..., "alive": [...], "others": [...], "uuid": "..."}:
whether there are databases, services that reported lately, the names of other cells.

It prints no URL, since they hold passwords. For the same reason it enters cell0 itself: nova-manage would take the URL from its
command line, which everybody on the host can read.
"""

import json
import re
import sys
import time
from datetime import timedelta

from alembic.script import ScriptDirectory
from nova import config, context, objects
from nova.db import migration
from oslo_config import cfg
from oslo_utils import timeutils

CONF = config.CONF
CELL0 = "00000000-0000-0000-0000-000000000000"  # objects.CellMapping.CELL0_UUID, once that is registered
SILENT = timedelta(seconds=60)  # services report every ten seconds; after this time Nova itself takes them for dead
GONE = re.compile(r"\((1044|1045|1049), ")  # MariaDB: no right on it, no such account, no such database
NO_BROKER = "none:///"  # what Nova itself says for cell0, where no service runs


def head(database):
    return ScriptDirectory.from_config(migration._find_alembic_conf(database)).get_current_head()


def version(database, where=None):
    try:
        return migration.db_version(database, where)
    except Exception:  # no tables yet, or ones of another program: the migration itself says what is wrong
        return None


def cells():
    return list(objects.CellMappingList.get_all(context.get_admin_context()))


def cell0_step(known):
    """Return the step that cell0 needs, if any. Its URL holds the password, too, and ages with it."""
    same = any(cell.uuid == CELL0 and cell.database_connection == CONF.halligan.cell0_connection for cell in known)
    return [] if same else ["cell0"]


def cell_step(known, name):
    """Return the step that the cell needs, if any, and its id."""
    for cell in known:
        if cell.name == name:
            same = cell.transport_url == CONF.transport_url and cell.database_connection == CONF.database.connection
            return [] if same else ["update_cell"], cell.uuid
    return ["create_cell"], ""


def cell0_version(known):
    (cell0,) = [cell for cell in known if cell.uuid == CELL0]
    with context.target_cell(context.get_admin_context(), cell0) as where:
        return version("main", where)


def look(name):
    if version("api") != head("api"):
        return {"todo": ["api_schema"], "uuid": ""}  # what holds the cells; look again for the rest
    known = cells()
    todo = cell0_step(known)
    step, uuid = cell_step(known, name)
    todo += step
    if todo or version("main") != head("main") or cell0_version(known) != head("main"):
        todo.append("schema")
    return {"todo": todo, "uuid": uuid}


def keep_cell0():
    """Enter cell0, or its new database."""
    for cell in cells():
        if cell.uuid == CELL0:
            cell.database_connection = CONF.halligan.cell0_connection
            cell.save()
            return
    cell = objects.CellMapping(
        context.get_admin_context(),
        uuid=CELL0,
        name="cell0",
        transport_url=NO_BROKER,
        database_connection=CONF.halligan.cell0_connection,
    )
    cell.create()


def use(name):
    try:
        migration.db_version("api")
    except Exception as error:
        if GONE.search(str(error)):
            return {"there": False, "alive": [], "others": [], "uuid": ""}
        raise
    known = {cell.name: cell for cell in cells() if cell.uuid != CELL0}
    others = sorted(known.keys() - {name})
    if name not in known:
        return {"there": True, "alive": [], "others": others, "uuid": ""}
    uuid = known[name].uuid
    deadline = time.monotonic() + SILENT.total_seconds() + 15
    while (alive := alive_in(known[name])) and time.monotonic() < deadline:
        time.sleep(5)
    return {"there": True, "alive": alive, "others": others, "uuid": uuid}


def alive_in(cell):
    """Return the services of a cell that reported lately. One that was stopped just now is among them for a minute."""
    with context.target_cell(context.get_admin_context(), cell) as where:
        services = objects.ServiceList.get_all(where)
    since = timeutils.utcnow(with_timezone=True) - SILENT
    return sorted({f"{one.binary} on {one.host}" for one in services if one.last_seen_up and one.last_seen_up > since})


def main(path, name, *action):
    objects.register_all()
    CONF.register_opts([cfg.StrOpt("cell0_connection", secret=True)], group="halligan")
    config.parse_args(["look", "--config-file", path], default_config_files=[path])
    if action == ("keep_cell0",):
        keep_cell0()
    else:
        print(json.dumps(use(name) if action == ("use",) else look(name)))


main(*sys.argv[1:])
