#!/usr/bin/python
# Copyright: the Halligan authors
# Apache License 2.0 (see LICENSE)
"""Tell whether a running service is older than its configuration."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.unit_state import newer_files, parse_properties, started_at

DOCUMENTATION = r"""
module: unit_stale
short_description: Tell whether a running service is older than its configuration
description:
  - Reports C(changed) when a file that a running systemd service reads was modified after the service started, so that
    C(notify) can restart it.
  - A handler that was notified and never ran (the run was interrupted, a later task failed) is thus made up for
    by the next run.
  - It changes nothing itself and does the same in check mode.
author: The Halligan authors
options:
  unit:
    description: Name of the systemd unit.
    type: str
    required: true
  files:
    description: Files the service reads when it starts. Missing ones are ignored.
    type: list
    elements: str
    required: true
attributes:
  check_mode:
    support: full
"""

EXAMPLES = r"""
- name: Notice a configuration newer than the running service
  unit_stale:
    unit: keystone.service
    files: [/etc/keystone/keystone.conf, /etc/keystone/keystone-uwsgi.ini]
  notify: Restart keystone
"""

RETURN = r"""
newer:
  description: The files that changed since the service started.
  type: list
  elements: str
  returned: always
"""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "unit": {"type": "str", "required": True},
            "files": {"type": "list", "elements": "str", "required": True},
        },
        supports_check_mode=True,
    )
    properties = "--property=ActiveState,ExecMainStartTimestamp"
    command = ["systemctl", "show", module.params["unit"], properties, "--timestamp=us+utc"]
    _, output, _ = module.run_command(command, check_rc=True)
    newer = newer_files(module.params["files"], started_at(parse_properties(output)))
    module.exit_json(changed=bool(newer), newer=newer)


if __name__ == "__main__":
    main()
