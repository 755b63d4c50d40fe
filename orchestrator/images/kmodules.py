"""Which kernel modules an image needs: those it names and what these depend on. Pure; reads what depmod wrote.

Modules are known by their path below lib/modules/VERSION (`kernel/drivers/net/virtio_net.ko`) and by their name, in
which the kernel takes "-" and "_" for the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

__all__ = ["Modules", "name_of", "parse_wanted"]

Dependencies = Mapping[str, tuple[str, ...]]


def name_of(path: str) -> str:
    """`kernel/drivers/hid/hid-generic.ko` -> `hid_generic`."""
    return PurePosixPath(path).name.partition(".ko")[0].replace("-", "_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Modules:
    """The modules of one kernel: path -> paths that it needs loaded before it; and the names of those built in."""

    needs: Dependencies
    builtin: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, dep: str, builtin: str) -> Modules:
        """Read modules.dep (modules.dep(5)) and modules.builtin."""
        pairs = (line.partition(":") for line in dep.splitlines() if ":" in line)
        return cls(
            needs={path.strip(): tuple(after.split()) for path, _, after in pairs},
            builtin=frozenset(map(name_of, builtin.split())),
        )

    def named(self, names: Iterable[str]) -> tuple[str, ...]:
        """The modules with these names and what they need; names that this kernel has not are left out."""
        wanted = {name.replace("-", "_") for name in names}
        return self._with_needs(path for path in self.needs if name_of(path) in wanted)

    def below(self, prefixes: Iterable[str]) -> tuple[str, ...]:
        """The modules whose path below `kernel/` begins with one of these, and what they need."""
        starts = tuple(f"kernel/{prefix}" for prefix in prefixes)
        return self._with_needs(path for path in self.needs if path.startswith(starts))

    def missing(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of these names that are neither a module nor built in."""
        known = self.builtin | {name_of(path) for path in self.needs}
        return tuple(name for name in names if name.replace("-", "_") not in known)

    def _with_needs(self, paths: Iterable[str]) -> tuple[str, ...]:
        # depmod writes all that a module needs, also what those need; it holds no cycles.
        return tuple(sorted({each for path in paths for each in (path, *self.needs[path])}))


def parse_wanted(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Read a list of module names, one a line, some marked "required": (all of them, the required ones)."""
    lines = [line.split("#", 1)[0].split() for line in text.splitlines()]
    required = tuple(words[1] for words in lines if len(words) == 2 and words[0] == "required")
    return tuple(words[-1] for words in lines if words), required
