#!/usr/bin/python
# Copyright: the Halligan authors
# Apache License 2.0 (see LICENSE)
"""Keep a bridge of Open vSwitch and the port that leads to a wire."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: ovs_bridge
short_description: Keep a bridge of Open vSwitch and the port that leads to a wire
description:
  - Keeps a bridge with a datapath, and a network interface of the host as its port.
  - Other ports of the bridge are left alone; the agents of the cloud have theirs there.
author: The Halligan authors
options:
  name: {description: Name of the bridge., type: str, required: true}
  port: {description: Network interface of the host; empty for none., type: str, default: ""}
  datapath:
    description: C(system) is the kernel's datapath, C(netdev) runs in user space.
    type: str
    choices: [system, netdev]
    default: system
  state:
    description: Whether the bridge shall be there.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    support: full
"""

EXAMPLES = r"""
- name: Keep the bridge to the outside
  ovs_bridge:
    name: br-ex
    port: eth1
"""

RETURN = r"""
did:
  description: What was done, or would be in check mode.
  type: list
  elements: str
  returned: always
"""

Tell = Callable[..., tuple[int, str]]


def steps(tell: Tell, name: str, port: str, datapath: str) -> list[tuple[str, list[str]]]:
    """Return what is missing: a few words about it, and the arguments of ovs-vsctl that bring it."""
    todo: list[tuple[str, list[str]]] = []
    there = tell("br-exists", name)[0] == 0
    if not there:
        todo.append((f"added {name}", ["add-br", name, "--", "set", "bridge", name, f"datapath_type={datapath}"]))
    elif (tell("get", "bridge", name, "datapath_type")[1].strip().strip('"') or "system") != datapath:
        todo.append((f"set the datapath of {name}", ["set", "bridge", name, f"datapath_type={datapath}"]))
    if port and (not there or port not in tell("list-ports", name)[1].split()):
        todo.append((f"added port {port}", ["add-port", name, port]))
    return todo


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "port": {"type": "str", "default": ""},
            "datapath": {"type": "str", "choices": ["system", "netdev"], "default": "system"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    name, port = module.params["name"], module.params["port"]

    def tell(*words: str) -> tuple[int, str]:
        code, output, error = module.run_command(["ovs-vsctl", "--timeout=30", *words])
        if code and words[0] != "br-exists":
            module.fail_json(msg=f"ovs-vsctl {' '.join(words)}: {error.strip()}")
        return code, output

    if port and module.params["state"] == "present" and not (Path("/sys/class/net") / port).exists():
        found = ", ".join(sorted(path.name for path in Path("/sys/class/net").iterdir()))
        module.fail_json(msg=f"This host has no network interface {port} for the bridge {name}; it has {found}.")
    if module.params["state"] == "absent":
        todo = [(f"removed {name}", ["del-br", name])] if tell("br-exists", name)[0] == 0 else []
    else:
        todo = steps(tell, name, port, module.params["datapath"])
    if not module.check_mode:
        for _, words in todo:
            tell(*words)
    module.exit_json(changed=bool(todo), did=[words for words, _ in todo])


if __name__ == "__main__":
    main()
