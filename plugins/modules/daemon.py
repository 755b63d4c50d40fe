#!/usr/bin/python
# Copyright: the Halligan authors
# Apache License 2.0 (see LICENSE)
"""Keep a systemd service running as its files say, with a process that is not older than they are."""

from __future__ import annotations

import grp
import json
import os
import pwd
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.unit_state import newer_files, parse_properties, started_at

DOCUMENTATION = r"""
module: daemon
short_description: Keep a systemd service running as its files say
description:
  - Writes the files that a service reads, says how it is started, and keeps it enabled and running.
  - Restarts it when a file changed, or is newer than its process because an earlier run was interrupted in between.
  - One call for what would be six tasks in every role of a service.
author: The Halligan authors
options:
  unit:
    description: Name of the systemd unit, with its suffix.
    type: str
    required: true
  command:
    description: The command line that replaces the unit's own (C(ExecStart)). Without it the unit's own is left.
    type: list
    elements: str
  directives:
    description: Further directives for the unit's section C([Service]). A list repeats the directive.
    type: dict
    default: {}
  files:
    description: The files that the service reads. Each is written as a whole.
    type: list
    elements: dict
    default: []
    suboptions:
      path: {description: Where the file is., type: path, required: true}
      settings:
        description:
          - Content as JSON, section to name to value, written as an INI file as oslo.config reads it.
          - A list repeats the name.
          - Given as text (filter C(to_json)), so that Ansible can keep all of it out of its logs.
        type: str
      content: {description: Content as it is., type: str}
      owner: {description: Owner., type: str, default: root}
      group: {description: Group., type: str, default: root}
      mode: {description: Permissions in octal., type: str, default: "0644"}
  watch:
    description: Files of others that the service reads when it starts; one that is newer restarts it.
    type: list
    elements: path
    default: []
  state:
    description:
      - C(written) only writes the files, for what has to be done before the service may start.
      - C(absent) stops and disables the service, and removes the files and the drop-in.
    type: str
    choices: [started, written, absent]
    default: started
attributes:
  check_mode:
    support: full
"""

EXAMPLES = r"""
- name: Run the scheduler
  daemon:
    unit: nova-scheduler.service
    command: [/usr/bin/nova-scheduler, --config-file, /etc/nova/nova-scheduler.conf]
    files:
      - {path: /etc/nova/nova-scheduler.conf, settings: "{{ all_settings | to_json }}", group: nova, mode: "0640"}
"""

RETURN = r"""
did:
  description: What was done, or would be in check mode.
  type: list
  elements: str
  returned: always
"""

DROP_IN = "halligan.conf"
UNITS = Path("/etc/systemd/system")
SETTLE_S = 3  # a service that ends by itself ends within this time of its start, or its own health check must tell


@dataclass(frozen=True)
class File:
    """What a file shall be."""

    path: Path
    content: str
    owner: str = "root"
    group: str = "root"
    mode: int = 0o644


def ini(settings: Mapping[str, Mapping[str, Any]], note: str) -> str:
    """Return settings as an INI file, sorted. A value that spans lines would begin a new setting: it is folded."""
    lines = [f"# {note}"]
    for section in sorted(settings):
        lines += ["", f"[{section}]"]
        for name in sorted(settings[section]):
            value = settings[section][name]
            for one in value if isinstance(value, list) else [value]:
                lines.append(f"{name} = {' '.join(text(one).splitlines())}".rstrip())
    return "\n".join([*lines, ""])


def text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def drop_in(command: Sequence[str] | None, directives: Mapping[str, Any]) -> str:
    """Return the drop-in of a unit (systemd.unit(5)); an empty text when the unit is right as it is."""
    lines: list[str] = []
    if command:
        lines += ["ExecStart=", f"ExecStart={' '.join(quoted(word) for word in command)}"]
    for name in sorted(directives):
        value = directives[name]
        lines += [f"{name}={text(one)}" for one in (value if isinstance(value, list) else [value])]
    return "\n".join(["# Written by Halligan; changes made here are lost.", "[Service]", *lines, ""]) if lines else ""


def quoted(word: str) -> str:
    """Return a word of a command line as systemd.service(5) reads it."""
    word = word.replace("%", "%%").replace("$", "$$")
    if word and not set(word) & set(" \t\"'\\;"):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def wanted_files(unit: str, options: Mapping[str, Any]) -> list[File]:
    """Return the files that the options ask for, the drop-in last."""
    note = "Written by Halligan; changes made here are lost."
    files = [
        File(
            path=Path(one["path"]),
            content=ini(json.loads(one["settings"]), note) if one.get("settings") is not None else one["content"],
            owner=one["owner"],
            group=one["group"],
            mode=int(one["mode"], 8),
        )
        for one in options["files"]
    ]
    return [*files, File(UNITS / f"{unit}.d" / DROP_IN, drop_in(options["command"], options["directives"]))]


def differs(file: File) -> str:
    """Return what of a file is not as it shall be: "content", "owner or mode", or nothing."""
    if not file.content:
        return "content" if file.path.exists() else ""
    try:
        told = file.path.stat()
        if file.path.read_text(errors="replace") != file.content:
            return "content"
    except FileNotFoundError:
        return "content"
    held = (pwd.getpwuid(told.st_uid).pw_name, grp.getgrgid(told.st_gid).gr_name, told.st_mode & 0o7777)
    return "" if held == (file.owner, file.group, file.mode) else "owner or mode"


def write(file: File) -> None:
    """Put a file in place at once: a reader finds the old one or the new one."""
    if not file.content:
        file.path.unlink(missing_ok=True)
        return
    file.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=file.path.parent, prefix=f".{file.path.name}.")
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(file.content)
            os.fchmod(stream.fileno(), file.mode)
            os.fchown(stream.fileno(), pwd.getpwnam(file.owner).pw_uid, grp.getgrnam(file.group).gr_gid)
        Path(name).replace(file.path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def hand_over(file: File) -> None:
    """Give a file its owner and mode. It stays as old as its content: nobody has to read it again."""
    os.chown(file.path, pwd.getpwnam(file.owner).pw_uid, grp.getgrnam(file.group).gr_gid)
    file.path.chmod(file.mode)


class Service:
    """One unit, as systemctl tells of it and changes it."""

    def __init__(self, module: AnsibleModule, unit: str) -> None:
        self._module = module
        self._unit = unit

    def properties(self) -> dict[str, str]:
        names = "ActiveState,SubState,ExecMainStartTimestamp,UnitFileState,LoadState,NeedDaemonReload,NRestarts"
        return parse_properties(self._run("show", self._unit, f"--property={names}", "--timestamp=us+utc"))

    def call(self, *words: str) -> None:
        """Change something; nothing in check mode."""
        if not self._module.check_mode:
            self._run(*words)

    def stays(self) -> None:
        """Fail when the service ends again at once. systemd calls a simple service started as soon as it is forked."""
        if self._module.check_mode:
            return
        restarts = self.properties().get("NRestarts", "0")
        deadline = time.monotonic() + SETTLE_S
        while time.monotonic() < deadline:
            told = self.properties()
            alive = told.get("ActiveState") in ("active", "activating", "reloading")
            if not alive or told.get("NRestarts") != restarts:
                self._module.fail_json(msg=f"{self._unit} ended again right after its start. It said: {self.log()}")
            time.sleep(0.5)

    def log(self) -> str:
        """Return the last lines that the service itself wrote."""
        command = ["journalctl", "--unit", self._unit, "--lines=8", "--no-pager", "--output=cat"]
        return str(self._module.run_command(command)[1]).strip()

    def _run(self, *words: str) -> str:
        code, output, error = self._module.run_command(["systemctl", *words])
        if code:
            self._module.fail_json(msg=f"systemctl {' '.join(words)}: {error.strip()}. {self._unit} said: {self.log()}")
        return str(output)


def put(module: AnsibleModule, _service: Service) -> list[str]:
    """Write the files alone."""
    return _written(module, wanted_files(module.params["unit"], module.params)[:-1])[0]


def _written(module: AnsibleModule, files: list[File]) -> tuple[list[str], list[File]]:
    """Write what differs; return what was done, and the files whose content was another."""
    stale = {file: what for file in files if (what := differs(file))}
    if not module.check_mode:
        for file, what in stale.items():
            (write if what == "content" else hand_over)(file)
    did = [f"wrote {file.path}" if file.content else f"removed {file.path}" for file in stale]
    return did, [file for file, what in stale.items() if what == "content"]


def keep(module: AnsibleModule, service: Service) -> list[str]:
    """Bring files and service to what the options say; return what was done."""
    unit = module.params["unit"]
    files = wanted_files(unit, module.params)
    did, rewritten = _written(module, files)
    told = service.properties()
    if told.get("NeedDaemonReload") == "yes" or files[-1] in rewritten:
        service.call("daemon-reload")
    if told.get("UnitFileState") != "enabled":
        did.append("enabled")
        service.call("enable", "--quiet", unit)
    start = started_at(told)
    watched = [*(file.path for file in files), *map(Path, module.params["watch"])]
    if start is None or rewritten or newer_files(watched, start):
        did.append("started" if start is None else "restarted")
        service.call("restart", unit)
        service.stays()
    return did


def drop(module: AnsibleModule, service: Service) -> list[str]:
    """Stop and disable the service and remove what was written for it."""
    unit, did = module.params["unit"], []
    told = service.properties()
    # A service that systemd is just about to start once more is not "active", and would be back.
    running = told.get("ActiveState") not in ("inactive", "failed") or told.get("UnitFileState") == "enabled"
    if told.get("LoadState") == "loaded" and running:
        did.append("stopped and disabled")
        service.call("disable", "--quiet", "--now", unit)
    for file in wanted_files(unit, module.params):
        if file.path.exists():
            did.append(f"removed {file.path}")
            if not module.check_mode:
                file.path.unlink()
    if did:
        service.call("daemon-reload")
    return did


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "unit": {"type": "str", "required": True},
            "command": {"type": "list", "elements": "str"},
            "directives": {"type": "dict", "default": {}},
            "files": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "path": {"type": "path", "required": True},
                    "settings": {"type": "str", "no_log": True},
                    "content": {"type": "str", "no_log": True},
                    "owner": {"type": "str", "default": "root"},
                    "group": {"type": "str", "default": "root"},
                    "mode": {"type": "str", "default": "0644"},
                },
                "mutually_exclusive": [("settings", "content")],
                "required_one_of": [("settings", "content")],
            },
            "watch": {"type": "list", "elements": "path", "default": []},
            "state": {"type": "str", "choices": ["started", "written", "absent"], "default": "started"},
        },
        supports_check_mode=True,
    )
    service = Service(module, module.params["unit"])
    actions = {"started": keep, "written": put, "absent": drop}
    did = actions[module.params["state"]](module, service)
    module.exit_json(changed=bool(did), did=did)


if __name__ == "__main__":
    main()
