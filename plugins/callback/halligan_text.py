"""Ansible's default output without what it lets slip: the error of a failed `no_log` task (seen with 2.19)."""

from __future__ import annotations

from ansible.plugins.callback.default import CallbackModule as Default

DOCUMENTATION = """
    name: halligan_text
    type: stdout
    short_description: the default output, with errors of no_log tasks hidden
    description:
        - Ansible censors the result of a task with C(no_log), and then prints its error as it is.
    extends_documentation_fragment:
        - default_callback
        - result_format_callback
    requirements:
        - set as stdout in configuration
"""


class CallbackModule(Default):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "halligan_text"

    def _handle_warnings_and_exception(self, result):
        if "censored" not in result.result:
            super()._handle_warnings_and_exception(result)
