"""Events for people, a line each, and for programs, a JSON object each."""

from __future__ import annotations

import json

from orchestrator.cli.views.words import Look, duration, plain, when
from orchestrator.model import Event, Status

__all__ = ["event_json", "event_text"]


def event_json(event: Event) -> str:
    """Return the event as one line of JSON, keys in a fixed order."""
    return json.dumps(
        {
            "seq": event.seq,
            "at": event.at,
            "kind": event.kind,
            "run": event.run,
            "node": event.node,
            "step": event.step,
            "data": dict(event.data),
        },
        ensure_ascii=False,
        separators=(",", ":"),
    )


def event_text(event: Event, look: Look) -> str:
    """Return the event as one line: number, time, kind, subject, and what there is to say."""
    subject = event.step or event.node or event.run
    head = f"{event.seq:>7}  {look.dim(when(event.at))}  {event.kind:<14}  {subject}"
    return f"{head}  {_words(event, look)}".rstrip()


def _words(event: Event, look: Look) -> str:
    data = event.data
    match event.kind:
        case "step.finished":
            status = str(data.get("status", ""))
            style = Status(status) if status in set(Status) else ""
            problem = f": {plain(str(data['problem']))}" if data.get("problem") else ""
            return f"{look.paint(status, style)} {duration(float(data.get('seconds', 0.0)))}{problem}"
        case "step.skipped":
            return plain(str(data.get("reason") or data.get("cause") or ""))
        case "step.retry":
            return f"attempt {data.get('attempt')} failed: {plain(str(data.get('problem', '')))}"
        case "run.started":
            return f"{data.get('steps', 0)} steps, {data.get('command', '')}"
        case "run.finished":
            counts = ", ".join(f"{number} {name}" for name, number in sorted(dict(data.get("counts", {})).items()))
            return f"{data.get('status', '')}: {counts}"
    return " ".join(f"{name}={plain(str(value))}" for name, value in sorted(data.items()) if value not in ("", None))
