"""What apply and check share: the watchers of their events, and the word on what a run came to."""

from __future__ import annotations

import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING

import click

from orchestrator.cli.door import Door, show
from orchestrator.cli.views.events import event_json
from orchestrator.cli.views.progress import draw, event_line
from orchestrator.cli.views.result import drift_text, result_text
from orchestrator.cli.views.tally import Tally
from orchestrator.cli.views.words import Look
from orchestrator.model import Event

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from orchestrator.service import RunResult

__all__ = ["JsonLines", "Lines", "Screen", "Watcher", "tell", "watcher"]

Write = Callable[[str], None]
_Kind = type[BaseException] | None


def watcher(door: Door, title: str, *, as_json: bool) -> Watcher:
    """Return what shows the events: JSON when asked for, a live screen on a terminal, else lines."""
    look = door.look()
    if as_json:
        return JsonLines(click.echo)
    if sys.stdout.isatty():
        return Screen(door.console(), title=title, now=time.time)
    return Lines(lambda line: click.echo(line, color=look.colour), look)


def tell(door: Door, result: RunResult, *, site: str, seconds: float, as_json: bool, check: bool = False) -> None:
    """Say what a run came to; on stderr when stdout is for JSON. `site` is as the user called it."""
    look = door.look(error=as_json)
    text = result_text(result, site=site, seconds=seconds, look=look, check=check)
    drift = drift_text(result, site=site, look=look)
    show("\n".join(["", *([drift] if drift else []), text]), look, error=as_json)


# --- watchers -----------------------------------------------------------------------------------------------------


class Watcher(ABC):
    """Is called with every event while it is entered. Has inner state: the tally."""

    def __init__(self) -> None:
        self.tally = Tally()

    def catch_up(self, events: Iterable[Event]) -> None:
        """Count what happened before, in the part of a run that was interrupted; nothing is shown."""
        for event in events:
            self.tally.record(event)

    def __enter__(self) -> Watcher:
        return self

    @abstractmethod
    def __call__(self, event: Event) -> None:
        """Take an event."""

    def __exit__(self, kind: _Kind, error: BaseException | None, trace: TracebackType | None) -> None:
        """Put back what a subclass changed; here there is nothing."""
        return


class JsonLines(Watcher):
    """Writes every event as one line of JSON."""

    def __init__(self, write: Write) -> None:
        super().__init__()
        self._write = write

    def __call__(self, event: Event) -> None:
        self.tally.record(event)
        self._write(event_json(event))


class Lines(Watcher):
    """Writes a line per outcome and retry, for logs and pipes."""

    def __init__(self, write: Write, look: Look) -> None:
        super().__init__()
        self._write = write
        self._look = look

    def __call__(self, event: Event) -> None:
        line = event_line(event, self.tally.record(event), self._look)
        if line:
            self._write(line)


class Screen(Watcher):
    """Shows a live picture of the run. Holds a lock, because rich draws from a thread of its own."""

    def __init__(self, console: Console, *, title: str, now: Callable[[], float]) -> None:
        from rich.live import Live

        super().__init__()
        self._title = title
        self._now = now
        self._notice = ""
        self._lock = threading.Lock()
        self._live = Live(get_renderable=self._draw, console=console, refresh_per_second=8, transient=True)

    def __enter__(self) -> Screen:
        self._live.__enter__()
        return self

    def __exit__(self, kind: _Kind, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.__exit__(kind, error, trace)

    def __call__(self, event: Event) -> None:
        with self._lock:
            self.tally.record(event)
            if event.kind in ("run.draining", "run.stopping"):
                self._notice = event_line(event, None, Look())

    def _draw(self) -> RenderableType:
        with self._lock:
            return draw(self.tally, title=self._title, notice=self._notice, now=self._now())
