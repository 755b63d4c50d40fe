"""Probes that need each other: each has its own verdict, and one whose ground is gone is skipped, not failed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ansible.module_utils.openstack_api import ApiError, UnreachableError

__all__ = ["Probe", "ProbeError", "SkipError", "run", "verdict"]


class ProbeError(Exception):
    """A service works, but not as it must."""


class SkipError(Exception):
    """The question cannot be asked here; the text says why."""


@dataclass(frozen=True)
class Probe:
    """One question. `ask` returns what was seen; `needs` names the probes without which it makes no sense."""

    name: str
    ask: Callable[[], str]
    needs: tuple[str, ...] = ()
    must_answer: bool = True  # otherwise a service that nobody has started yet is "unknown"


def run(
    probes: Iterable[Probe], clock: Callable[[], float], before: Mapping[str, str] | None = None
) -> tuple[dict[str, str], dict[str, float]]:
    """Ask in the given order; return a line for each probe ("ok: ...", "failed: ...", ...) and its seconds.

    `before` has the lines of probes that were asked earlier.
    """
    report: dict[str, str] = {}
    seconds: dict[str, float] = {}
    for probe in probes:
        known = {**(before or {}), **report}
        missing = [need for need in probe.needs if not known.get(need, "").startswith("ok")]
        if missing:
            report[probe.name] = f"skipped: needs {', '.join(missing)}"
            continue
        start = clock()
        report[probe.name] = _asked(probe)
        seconds[probe.name] = round(clock() - start, 2)
    return report, seconds


def verdict(report: Mapping[str, str]) -> str:
    """Return the worst word of a report. A skipped probe is no fault of its own."""
    words = {line.partition(":")[0] for line in report.values()}
    return next(word for word in ("failed", "unknown", "ok") if word in words)


def _asked(probe: Probe) -> str:
    try:
        return f"ok: {probe.ask()}"
    except SkipError as error:
        return f"skipped: {error}"
    except UnreachableError as error:
        return f"{'failed' if probe.must_answer else 'unknown'}: {error}"
    except (ApiError, ProbeError) as error:
        return f"failed: {error}"
    except (KeyError, TypeError, ValueError, IndexError) as error:
        return f"failed: the answer is not as documented ({type(error).__name__}: {error})"
