#!/usr/bin/python
# Copyright: the Halligan authors
# Apache License 2.0 (see LICENSE)
"""Keep a file whose content is not text."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: binary_file
short_description: Keep a file whose content is not text
description:
  - Writes a file from base64, at once, so that a reader finds the old one or the new one.
  - M(ansible.builtin.copy) takes text only; what is no UTF-8 would be spoilt on its way.
author: The Halligan authors
options:
  path:
    description: Where the file is. Its folder must be there.
    type: path
    required: true
  content:
    description: Content in base64.
    type: str
    required: true
extends_documentation_fragment: [files]
attributes:
  check_mode:
    support: full
"""

EXAMPLES = r"""
- name: Keep the ring
  binary_file: {path: /etc/swift/account.ring.gz, content: "{{ ring }}", owner: root, group: swift, mode: "0640"}
"""

RETURN = r"""
sha256:
  description: Checksum of the content.
  type: str
  returned: always
"""


def decoded(content: str) -> bytes:
    """Return what base64 stands for; no character is overlooked."""
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error as error:
        raise ValueError(f"the content is not base64: {error}") from error


def differs(path: Path, content: bytes) -> bool:
    return not path.is_file() or path.read_bytes() != content


def write(module: AnsibleModule, path: Path, content: bytes) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
    module.atomic_move(name, str(path))


def main() -> None:
    module = AnsibleModule(
        argument_spec={"path": {"type": "path", "required": True}, "content": {"type": "str", "required": True}},
        add_file_common_args=True,
        supports_check_mode=True,
    )
    path = Path(module.params["path"])
    try:
        content = decoded(module.params["content"])
    except ValueError as error:
        module.fail_json(msg=f"{path}: {error}")
    changed = differs(path, content)
    if changed and not module.check_mode:
        write(module, path, content)
    if path.exists():
        changed = module.set_fs_attributes_if_different(module.load_file_common_arguments(module.params), changed)
    module.exit_json(changed=changed, sha256=hashlib.sha256(content).hexdigest())


if __name__ == "__main__":
    main()
