"""YAML as Halligan reads it: fast, strict, bounded, and with a place for every problem.

What differs from YAML 1.1 as PyYAML reads it: duplicate keys are errors; only `true` and `false` are booleans (`no`
and `on` are text); base-60 numbers, numbers with a leading zero and dates are text, so MAC addresses, times and file
modes stay as they are written; keys are always text; aliases and merge keys may not blow a file up; the only tag is
`!vault`.
"""

from __future__ import annotations

from orchestrator.yaml.findings import Findings
from orchestrator.yaml.loader import DEFAULT_LIMIT, Document, Vaulted, load, read
from orchestrator.yaml.places import Path, dotted, locate, locate_all

__all__ = [
    "DEFAULT_LIMIT",
    "Document",
    "Findings",
    "Path",
    "Vaulted",
    "dotted",
    "load",
    "locate",
    "locate_all",
    "read",
]
