"""The catalogue: roles with their contracts (docs/contracts.md) and options, read into typed values."""

from __future__ import annotations

from orchestrator.catalog.checks import names_of
from orchestrator.catalog.read import read
from orchestrator.catalog.schema import json_schema
from orchestrator.catalog.source import RoleFiles, RoleSource
from orchestrator.catalog.values import check_value

__all__ = ["RoleFiles", "RoleSource", "check_value", "json_schema", "names_of", "read"]
