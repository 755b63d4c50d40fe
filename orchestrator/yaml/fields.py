"""Field types that the files of a site and of a role share, for pydantic models: shares, durations, rollouts."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from orchestrator.model import Rollout, Share

__all__ = ["DurationField", "Model", "RolloutModel", "ShareField", "duration", "share"]

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?[smhd])+")
_PERCENT = re.compile(r"(\d{1,3}(?:\.\d+)?)\s*%")


class Model(BaseModel):
    """Base of every file model: no unknown keys, no guessing of types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def share(value: Any) -> Share:
    """Return a count or percentage: 3, "3" or "25%". Raises PydanticCustomError, which pydantic collects."""
    if isinstance(value, Share):
        return value
    if isinstance(value, str):
        if (found := _PERCENT.fullmatch(value)) and 0 < float(found[1]) <= 100:
            return Share(percent=float(found[1]))
        if value.isascii() and value.isdigit() and len(value) < 10:
            return Share(count=int(value))
    elif isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return Share(count=value)
    raise PydanticCustomError("share", 'must be a count such as 3 or a percentage from "1%" to "100%"')


def duration(value: Any) -> float:
    """Return seconds from a number or a text such as "90s", "30m", "1h30m". Raises PydanticCustomError."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
        return float(value)
    if isinstance(value, str) and len(value) < 40 and _DURATION.fullmatch(value):
        seconds = sum(float(part[:-1]) * _UNITS[part[-1]] for part in re.findall(r"[\d.]+[smhd]", value))
        if seconds > 0:
            return float(seconds)
    raise PydanticCustomError(
        "duration", 'must be a positive number of seconds, or a text such as "90s", "30m" or "1h"'
    )


_SHARE_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": 0},
        {"type": "string", "pattern": r"^([0-9]{1,9}|[0-9]{1,3}(\.[0-9]+)?\s*%)$"},
    ],
    "examples": [3, "25%"],
}
_DURATION_SCHEMA = {
    "anyOf": [
        {"type": "number", "exclusiveMinimum": 0},
        {"type": "string", "pattern": r"^([0-9]+(\.[0-9]+)?[smhd])+$"},
    ],
    "examples": [90, "30m", "1h"],
}

ShareField = Annotated[Share, BeforeValidator(share), WithJsonSchema(_SHARE_SCHEMA)]
DurationField = Annotated[float, BeforeValidator(duration), WithJsonSchema(_DURATION_SCHEMA)]


class RolloutModel(Model):
    """In which portions a role reaches its hosts."""

    first: ShareField = Field(default=Share(), description="How many hosts go first, as canaries. 0: no canaries.")
    then: ShareField = Field(default=Share(percent=100.0), description="How many hosts follow at a time.")
    stop_after: int = Field(
        default=0,
        ge=0,
        description="After this many failed hosts the rest of the role is skipped. 0: never stop.",
    )

    def value(self) -> Rollout:
        return Rollout(first=self.first, then=self.then, stop_after=self.stop_after)
