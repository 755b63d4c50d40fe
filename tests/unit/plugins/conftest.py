"""Lets the modules find their shared code where Ansible puts it on the target."""

from __future__ import annotations

from pathlib import Path

import ansible.module_utils

ansible.module_utils.__path__.append(str(Path(__file__).parents[3] / "plugins" / "module_utils"))
