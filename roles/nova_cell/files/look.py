"""look.py CONFIG CELL: print as JSON what is to be done to Nova's schemas and to the entry of one cell.

Prints {"todo": [...], "uuid": "..."}: names of steps in their order (api_schema, map_cell0, create_cell or update_cell, schema)
and the cell's id if it has one. Prints no URL, since they hold passwords.
"""

import json
import sys

from alembic.script import ScriptDirectory
from nova import config, context, objects
from nova.db import migration

CELL0 = "00000000-0000-0000-0000-000000000000"  # objects.CellMapping.CELL0_UUID


def head(database):
    return ScriptDirectory.from_config(migration._find_alembic_conf(database)).get_current_head()


def version(database, where=None):
    try:
        return migration.db_version(database, where)
    except Exception:  # no tables yet, or ones of another program: the migration itself says what is wrong
        return None


def cell_step(cells, name):
    """Return the step that the cell needs, and its id."""
    CONF = config.CONF
    for cell in cells:
        if cell.name == name:
            same = cell.transport_url == CONF.transport_url and cell.database_connection == CONF.database.connection
            return ("" if same else "update_cell"), cell.uuid
    return "create_cell", ""


def main(path, name):
    objects.register_all()
    config.parse_args(["look", "--config-file", path], default_config_files=[path])
    if version("api") != head("api"):
        return {"todo": ["api_schema", "map_cell0", "create_cell", "schema"] if version("api") is None else ["api_schema", "schema"], "uuid": ""}
    cells = objects.CellMappingList.get_all(context.get_admin_context())
    todo = [] if any(cell.uuid == CELL0 for cell in cells) else ["map_cell0"]
    step, uuid = cell_step(cells, name)
    if step:
        todo.append(step)
    if todo or version("main") != head("main"):
        todo.append("schema")
    return {"todo": todo, "uuid": uuid}


print(json.dumps(main(*sys.argv[1:])))
