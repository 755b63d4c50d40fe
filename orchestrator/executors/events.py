"""Events of Ansible's hosts -> Outcomes, host by host, while a batch still runs. Pure.

The events are ansible-runner's, or those that plugins/callback/halligan_events.py writes in the same form. A host is
finished by the event of one of three tasks: "Halligan done" and "Halligan failed" of playbooks/run_role.yml, or being
unreachable. A failed task alone says nothing: a rescue in the role may follow. Secrets do not come this way: Ansible
censors the results of `no_log` tasks before they become events.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.model import Json, Outcome, PlanNode, Status, StepRun

__all__ = ["LONGEST_LOG", "Reader", "last_words", "untrusted"]

LONGEST_LOG = 4 * 1024 * 1024
"""Characters of a step's log that are kept: one role that prints without end must not fill the store."""

_DONE = "Halligan done"
_FAILED = "Halligan failed"
_OUTPUTS = "Publish the outputs"
_HOUSEKEEPING = {_DONE, _FAILED, _OUTPUTS}


@dataclass(slots=True)
class _Host:
    """What is known of a host so far."""

    run: StepRun
    changed: bool = False
    outputs: Mapping[str, Json] = field(default_factory=dict)
    failure: str = ""
    lines: list[str] = field(default_factory=list)
    size: int = 0
    task: str = ""
    finished: bool = False


class Reader:
    """Takes events one by one and returns what they decide. Holds the state of the batch's hosts."""

    def __init__(self, runs: Sequence[StepRun], *, check: bool) -> None:
        self._hosts = {run.node.name: _Host(run=run) for run in runs}
        self._check = check

    def read(self, event: Mapping[str, Any], seconds: float) -> Outcome | None:
        """Return the outcome of the host that this event finishes, if it does. `seconds` is how long the run took."""
        data = event.get("event_data") or {}
        host = self._hosts.get(data.get("host", ""))
        if host is None or host.finished:
            return None
        kind = event.get("event", "")
        self._note(host, event, data)
        result = data.get("res") or {}
        match kind, data.get("task"):
            case "runner_on_ok", task if task == _DONE:
                return self._finish(host, Status.CHANGED if host.changed else Status.OK, "", seconds)
            case "runner_on_ok", task if task == _OUTPUTS:
                host.outputs = (result.get("ansible_stats") or {}).get("data") or {}
            case "runner_on_ok", _:
                host.changed = host.changed or bool(result.get("changed"))
            case "runner_on_failed", task if task == _FAILED:
                return self._finish(host, Status.FAILED, host.failure or _message(result), seconds)
            case "runner_on_failed", task if not data.get("ignore_errors"):
                host.failure = f"{_task_name(data)}: {_message(result)}"
            case "runner_on_unreachable", _:
                return self._finish(host, Status.UNREACHABLE, _unreachable(result, host.run.node), seconds)
        return None

    def rest(self, problem: str, seconds: float) -> Iterator[Outcome]:
        """Return an outcome for every host that has none when the run is over: a host must never just vanish."""
        for host in self._hosts.values():
            if not host.finished:
                yield self._finish(host, Status.FAILED, host.failure or problem, seconds)

    def close(self, name: str, status: Status, problem: str, seconds: float) -> Outcome:
        """Return the outcome of a host whose events are over; what failed last on it says more than `problem`."""
        host = self._hosts[name]
        return self._finish(host, status, (host.failure if status is Status.FAILED else "") or problem, seconds)

    def note(self, name: str, line: str) -> None:
        """Add a line of our own to a host's log."""
        self._hosts[name].lines.append(line)

    def _note(self, host: _Host, event: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        if data.get("task") in _HOUSEKEEPING:
            return
        text = str(event.get("stdout") or "")
        lines = [line.rstrip() for line in text.splitlines() if line.strip() and not line.startswith("TASK [")]
        if not lines or host.size > LONGEST_LOG:
            return
        host.size += len(text)
        task = _task_name(data)
        if task != host.task:
            host.task = task
            host.lines.append(f"TASK [{task}]")
        host.lines.extend(f"  {line}" for line in lines)
        if host.size > LONGEST_LOG:
            host.lines.append(f"... the rest of this log is left out: it has more than {LONGEST_LOG} characters")

    def _finish(self, host: _Host, status: Status, problem: str, seconds: float) -> Outcome:
        host.finished = True
        if host.outputs:
            host.lines += ["OUTPUTS", *(f"  {line}" for line in _listed(host.outputs))]
        return Outcome(
            step=host.run.step,
            status=status,
            outputs=host.outputs if status.good and not self._check else {},
            problem=problem,
            log="\n".join(host.lines),
            seconds=seconds,
            attempt=host.run.attempt,
        )


def _listed(values: Mapping[str, Json]) -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield f"{name}:"
            yield from (f"  {line}" for line in _listed(value))
        else:
            yield f"{name}: {value}"


def _task_name(data: Mapping[str, Any]) -> str:
    name = str(data.get("task") or "?")
    role = data.get("role")
    return f"{role} : {name}" if role and not name.startswith(f"{role} : ") else name


def last_words(printed: str) -> str:
    """Return why an Ansible run without results failed, from the end of what it printed; empty: it said nothing."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    told = [line for line in lines if line.startswith(("ERROR", "[ERROR]"))]
    return " ".join((told or lines)[-3:])[:800]


def untrusted(node: PlanNode, *, listed: bool) -> str:
    """Say what is wrong with a host's SSH key: it has another one in the list of known hosts, or none."""
    known_hosts = node.connection.known_hosts or "the known_hosts file of the user who runs this"
    whose = f"the SSH host key of {node.name} ({node.address}) is not"
    if listed:
        return f"{whose} the one in {known_hosts}: the host was installed anew, or it is another one"
    return f"{whose} in {known_hosts}"


def _unreachable(result: Mapping[str, Any], node: PlanNode) -> str:
    """Return why a host was not reached; what ssh says of host keys is long and leaves out the point."""
    said = str(result.get("msg") or "")
    if "HOST IDENTIFICATION HAS CHANGED" in said:
        return untrusted(node, listed=True)
    if "host key is known for" in said:
        return untrusted(node, listed=False)
    return _message(result)


def _message(result: Mapping[str, Any]) -> str:
    """Return the most telling line of a result."""
    if result.get("censored"):
        return "failed; its output is hidden because it may hold a secret"
    for key in ("msg", "stderr", "module_stderr", "exception", "stdout"):
        text = str(result.get(key) or "").strip()
        if text and text.lower() != "non-zero return code":
            return " ".join(text.splitlines()[-3:])[:500]
    if result.get("results"):
        failed = [item for item in result["results"] if isinstance(item, dict) and item.get("failed")]
        return _message(failed[0]) if failed else "an item failed"
    return f"return code {result['rc']}" if "rc" in result else "failed"
