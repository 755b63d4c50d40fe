"""Writes what happens on a host as lines of JSON in the form of ansible-runner's events, cut to what Halligan reads.

Used where ansible-runner is not: on a host that runs its own play (the carry executor).
"""

from __future__ import annotations

import json
import os
import shutil

from ansible.plugins.callback.default import CallbackModule as Default

DOCUMENTATION = """
    name: halligan_events
    type: stdout
    short_description: events of a carried play, line by line
    description:
        - Appends a line of JSON per event of a host to the file named by the environment variable HALLIGAN_EVENTS.
        - Long texts are cut, so that no task can flood the controller.
    extends_documentation_fragment:
        - default_callback
        - result_format_callback
    requirements:
        - set as stdout in configuration
"""

LONGEST_TEXT = 16 * 1024  # of one task
LONGEST_ANSWER = 4 * 1024  # of a failed task, each part of it
LONGEST_LOG = 1024 * 1024  # of a play
_TELLING = ("msg", "stderr", "module_stderr", "exception", "stdout", "rc", "censored", "failed")


class _Page:
    """Stands for Ansible's display and keeps what is shown, as text."""

    verbosity = 0
    columns = 79

    def __init__(self, real):
        self._real = real
        self._lines = []

    def display(self, msg, *_args, screen_only=False, **_kwargs):
        if not screen_only:
            self._lines.append(str(msg))

    def banner(self, msg, *_args, **_kwargs):
        self._lines.append(str(msg))

    def _drop(self, *_args, **_kwargs):
        """Stand for what tells a task's own errors and warnings: its result says them, and these know no `no_log`."""

    _error = _warning = _deprecated = _drop

    def has_text(self):
        return bool(self._lines)

    def take(self):
        lines, self._lines = self._lines, []
        return "\n".join(lines)

    def __getattr__(self, name):
        return getattr(self._real, name)


class CallbackModule(Default):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "halligan_events"

    def __init__(self):
        super().__init__()
        self._display = _Page(self._display)
        self._events = os.open(os.environ["HALLIGAN_EVENTS"], os.O_WRONLY | os.O_APPEND)
        self._room = LONGEST_LOG

    def _tell(self, kind, result, **more):
        text = _cut(self._display.take(), LONGEST_TEXT)
        if len(text) > self._room:
            cut = f"\n... the rest is left out: this play printed more than {LONGEST_LOG} characters"
            text = text[: self._room] + cut if self._room else ""
            self._room = len(text)
        self._room -= len(text)
        task = result.task
        role = task._role.get_name() if task._role else ""  # noqa: SLF001 - as ansible-runner's does, there is no other way
        data = {"host": result.host.get_name(), "task": task.name or task.get_name(), "role": role, **more}
        line = json.dumps({"event": kind, "stdout": text, "event_data": data}, default=str)
        os.write(self._events, line.encode(errors="replace") + b"\n")

    def v2_playbook_on_play_start(self, play):
        super().v2_playbook_on_play_start(play)
        self._display.take()  # no host's text

    def v2_runner_on_ok(self, result):
        super().v2_runner_on_ok(result)
        kept = {"changed": bool(result.result.get("changed"))}
        if "ansible_stats" in result.result:
            kept["ansible_stats"] = result.result["ansible_stats"]
        self._tell("runner_on_ok", result, res=kept)

    def v2_runner_on_failed(self, result, ignore_errors=False):
        telling = _telling(result.result)
        super().v2_runner_on_failed(result, ignore_errors)
        self._tell("runner_on_failed", result, res=telling, ignore_errors=bool(ignore_errors))

    def v2_runner_on_unreachable(self, result):
        telling = _telling(result.result)
        super().v2_runner_on_unreachable(result)
        self._tell("runner_on_unreachable", result, res=telling)

    def v2_runner_on_skipped(self, result):
        super().v2_runner_on_skipped(result)
        self._tell_text("runner_on_skipped", result)

    def v2_runner_item_on_ok(self, result):
        super().v2_runner_item_on_ok(result)
        self._tell_text("runner_item_on_ok", result)

    def v2_runner_item_on_failed(self, result):
        super().v2_runner_item_on_failed(result)
        self._tell_text("runner_item_on_failed", result)

    def v2_runner_item_on_skipped(self, result):
        super().v2_runner_item_on_skipped(result)
        self._tell_text("runner_item_on_skipped", result)

    def v2_runner_retry(self, result):
        super().v2_runner_retry(result)
        self._tell_text("runner_retry", result)

    def v2_on_file_diff(self, result):
        super().v2_on_file_diff(result)
        self._tell_text("on_file_diff", result)

    def v2_playbook_on_stats(self, stats):
        """Drop the facts that were kept when something changed: the only host here is this one."""
        if stats.changed:
            shutil.rmtree(os.environ["HALLIGAN_FACTS"], ignore_errors=True)

    def _tell_text(self, kind, result):
        if self._room and self._display.has_text():
            self._tell(kind, result)
        self._display.take()


def _telling(result):
    if "censored" in result:
        return {"censored": result["censored"], "failed": True}
    kept = {key: _short(result[key]) for key in _TELLING if key in result}
    if isinstance(result.get("results"), list):
        failed = [item for item in result["results"] if isinstance(item, dict) and item.get("failed")]
        kept["results"] = [_telling(item) for item in failed[:1]]
    return kept


def _short(value):
    return value if isinstance(value, (bool, int)) else _cut(str(value), LONGEST_ANSWER)


def _cut(text, limit):
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n... {len(text) - limit} characters cut ...\n{text[len(text) - half :]}"
