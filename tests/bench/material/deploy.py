"""The work of section.yml in pyinfra's words; pyinfra reads it, nothing imports it.

What Ansible looks up on a host is a fact here, what it only says or remembers is Python on the controller.
"""

from __future__ import annotations

from io import StringIO
from itertools import chain, islice
from pathlib import Path

from pyinfra import host, logger
from pyinfra.facts.files import File
from pyinfra.facts.server import Users
from pyinfra.operations import files, python, server

HERE = Path(__file__).parent
BLOCK = ["192.0.2.1 first.example", "192.0.2.2 second.example"]


def head():
    yield files.directory(name="Create the folder", path=host.data.bench_home, mode="755")


def section(number):
    """Yield after each of the twenty, so that a role of any number of tasks can be cut from it."""
    part = f"{host.data.bench_home}/part-{number}"
    settings, initialised = f"{part}/settings.ini", f"{part}/initialised"
    yield files.directory(name=f"Create the folder of part {number}", path=part, mode="755")
    yield files.directory(name=f"Create the folder of snippets of part {number}", path=f"{part}/conf.d", mode="750")
    yield host.get_fact(Users)["root"]
    yield _put(f"Write the release of part {number}", f"{part}/release", f"release 4 of part {number}\n")
    yield _template(f"Write the configuration of part {number}", number, "main.conf.j2", f"{part}/main.conf", "640")
    yield _template(f"Write the unit of part {number}", number, "unit.service.j2", f"{part}/bench.service", "644")
    for key, value in (("workers", "4"), ("timeout", "30"), ("level", "normal")):
        name = f"Set the {key} of part {number}"
        yield files.line(name=name, path=settings, line=f"^{key} =.*$", replace=f"{key} = {value}")
    yield files.block(name=f"Write the block of names of part {number}", path=f"{part}/names", content=BLOCK)
    found = host.get_fact(File, path=initialised)
    copy = f"cp {part}/release {initialised}"
    yield server.shell(name=f"Initialise part {number}", commands=[copy], _if=lambda: not found)
    yield files.file(name=f"Close part {number} to others", path=initialised, mode="600")
    yield python.call(name=f"Look at what initialising left of part {number}", function=_insist, path=initialised)
    yield  # to insist on it
    mode = "0600"
    yield  # to remember it
    yield logger.debug("mode %s", mode)
    yield _put(f"Note the mode of part {number}", f"{part}/mode", f"{mode}\n")
    yield files.link(name=f"Link the current release of part {number}", path=f"{part}/current", target="release")
    name = f"Say in which release part {number} began"
    yield files.replace(name=name, path=initialised, text="^release", replace="began with release")
    yield server.shell(name=f"Ask part {number} how it is set", commands=[f"grep --count = {settings}"])


def _put(name, path, content):
    return files.put(name=name, src=StringIO(content), dest=path, mode="644")


def _template(name, number, source, path, mode):
    values = {"node_name": host.data.node_name, "bench_port": host.data.bench_ports[number]}
    return files.template(name=name, src=str(HERE / source), dest=path, mode=mode, **values)


def _insist(path):
    assert host.get_fact(File, path=path), f"{path} is missing"


for _ in islice(chain(head(), *(section(number) for number in range(5))), host.data.bench_tasks):
    pass
