"""Templates that operators may read and change (`pxe/templates`), rendered from values that were checked before."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from orchestrator.errors import HalliganError, closest

if TYPE_CHECKING:
    from jinja2 import Environment

_UNSAYABLE = re.compile(r"[^A-Za-z0-9 .,:;()/_+'@-]+")


class Templates:
    """Template texts by file name, "discover.ipxe.j2"."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = dict(texts)
        self._environment: Environment | None = None

    def render(self, name: str, **values: object) -> str:
        """Return the text of a template.

        Raises:
            HalliganError: there is no such template, it is not valid, or it asks for a value that nobody gives.
        """
        from jinja2 import TemplateError

        if name not in self._texts:
            raise HalliganError(
                f"the boot template {name} is missing.{closest(name, self._texts)}",
                hint="pxe/templates of the installation holds it; copy it back from there or from the repository",
            )
        if self._environment is None:
            self._environment = _environment(self._texts)
        try:
            return self._environment.get_template(name).render(**values)
        except TemplateError as error:
            line = getattr(error, "lineno", None)
            place = f"{name}:{line}" if line else name
            raise HalliganError(
                f"the boot template {place} cannot be rendered: {error.message or type(error).__name__}",
                hint="undo the last change to it in pxe/templates",
            ) from None


def _environment(texts: Mapping[str, str]) -> Environment:
    from jinja2 import DictLoader, Environment, StrictUndefined

    environment = Environment(  # noqa: S701 - scripts are not HTML; values are checked, and prose goes through `say`
        loader=DictLoader(dict(texts)),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["say"] = say
    return environment


def say(text: str) -> str:
    """Return prose as one harmless line for an `echo` or a comment.

    iPXE knows no quoting: it expands `${...}` anywhere, and `&&`, `||` and a line's end begin another command.
    """
    return _UNSAYABLE.sub(" ", text).strip()[:200]
