"""A rule: a mapping of property -> condition, read once into terms that are judged for any number of machines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

from orchestrator.errors import HalliganError, closest
from orchestrator.facts import DISK_TYPES, PROPERTIES, Facts, Kind, Property, properties
from orchestrator.matching.conditions import AT_LEAST_ONE, COUNT, Condition, Fault, Path, parse, shown
from orchestrator.model import Json

__all__ = ["Clause", "Judgement", "Rule", "Term", "check", "fault_error", "item_conditions", "judge", "read"]

Values: TypeAlias = Mapping[str, Json]
"""What `facts.properties` gives for one machine."""

NOT, ANY, ALL = "not", "any", "all"
MOST_DEPTH = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Clause:
    """One line of a judgement: what was asked, what was found, and why that fits or not, in words."""

    key: str
    wanted: str
    found: str
    ok: bool
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A rule for one machine: it matches if every clause is ok. A rule without clauses matches everything."""

    matches: bool
    clauses: tuple[Clause, ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why not, one line per clause that fails; empty when it matches."""
        return tuple(clause.why for clause in self.clauses if not clause.ok)


def check(rule: Json) -> tuple[Fault, ...]:
    """Return everything that is wrong with a rule as written; the paths start at the rule's own mapping."""
    return read(rule)[1]


def judge(rule: Json, facts: Facts) -> Judgement:
    """Return whether a machine fits a rule, with every yes and no in words. Raises HalliganError for a faulty rule."""
    read_, faults = read(rule)
    if faults:
        raise fault_error(faults)
    return read_.judge(properties(facts))


def fault_error(faults: Sequence[Fault]) -> HalliganError:
    """Return the error for a rule that nobody checked before it was used."""
    lines = [f"{'.'.join(map(str, fault.path)) or 'rule'} {fault.summary}" for fault in faults]
    return HalliganError(
        "a matching rule cannot be read", detail=lines, hint="`halligan validate` shows where it stands"
    )


# --- terms --------------------------------------------------------------------------------------------------------


class Term(Protocol):
    """One line of a rule. `fits` is what `clause` says, without the words: it is asked a million times."""

    @property
    def key(self) -> str: ...

    def fits(self, values: Values) -> bool: ...

    def clause(self, values: Values) -> Clause: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule that was read: all terms must fit."""

    terms: tuple[Term, ...] = ()

    def fits(self, values: Values) -> bool:
        return all(term.fits(values) for term in self.terms)

    def judge(self, values: Values) -> Judgement:
        clauses = tuple(term.clause(values) for term in self.terms)
        return Judgement(matches=all(clause.ok for clause in clauses), clauses=clauses)

    @property
    def words(self) -> str:
        return ", ".join(_wanted(term) for term in self.terms) or "anything"


def _wanted(term: Term) -> str:
    match term:
        case _Single():
            return f"{term.key} {term.condition.wanted}"
        case _Counted():
            return f"{term.key} {term.wanted}"
        case _Negation():
            return f"not ({term.inner.words})"
        case _Choice():
            return " or ".join(f"({inner.words})" for inner in term.alternatives)
    return term.key


@dataclass(frozen=True, slots=True, kw_only=True)
class _Single:
    """A property that has one value, or several texts of which one is enough."""

    key: str
    condition: Condition

    def fits(self, values: Values) -> bool:
        return self.condition.holds(values[self.key])

    def clause(self, values: Values) -> Clause:
        ok, found = self.fits(values), shown(PROPERTIES[self.key], values[self.key])
        relation = "as wanted" if ok else "wanted"
        why = f"{self.key} is {found}, {relation}: {self.condition.wanted}"
        return Clause(key=self.key, wanted=self.condition.wanted, found=found, ok=ok, why=why)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counted:
    """How many members of a list meet all conditions: `disks: {ssd: {count: ">= 2", size: ">= 400 GB"}}`."""

    key: str  # "disks.ssd"
    name: str  # "disks"
    conditions: Mapping[str, Condition]
    count: Condition

    @property
    def wanted(self) -> str:
        each = " and ".join(f"{name} {condition.wanted}" for name, condition in self.conditions.items())
        return self.count.wanted + (f" with {each}" if each else "")

    def _meets(self, item: Mapping[str, Json]) -> bool:
        return all(condition.holds(item[name]) for name, condition in self.conditions.items())

    def fits(self, values: Values) -> bool:
        return self.count.holds(sum(map(self._meets, values[self.name])))

    def clause(self, values: Values) -> Clause:
        members = values[self.name]
        number, ok = sum(map(self._meets, members)), self.fits(values)
        found = f"{number} of {len(members)}" if self.conditions else str(number)
        relation = "as wanted" if ok else "wanted"
        why = f"{self.key}: {found} {'fit' if self.conditions else 'there'}, {relation}: {self.wanted}"
        if not ok and self.conditions and members:
            why += f" ({self._members(members)})"
        return Clause(key=self.key, wanted=self.wanted, found=found, ok=ok, why=why)

    def _members(self, members: Sequence[Mapping[str, Json]]) -> str:
        """Return what the members are in the asked properties, alike ones once."""
        kinds = PROPERTIES[self.name].items
        asked = list(self.conditions)
        counts: dict[str, int] = {}
        for item in members:
            words = " ".join(f"{name} {shown(kinds[name], item[name])}" for name in asked)
            counts[words] = counts.get(words, 0) + 1
        parts = [f"{number} x {words}" for words, number in counts.items()]
        return "found " + "; ".join(parts[:6]) + (f"; and {len(parts) - 6} more kinds" if len(parts) > 6 else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Negation:
    key: str
    inner: Rule

    def fits(self, values: Values) -> bool:
        return not self.inner.fits(values)

    def clause(self, values: Values) -> Clause:
        judgement = self.inner.judge(values)
        whys = [clause.why for clause in judgement.clauses] if judgement.matches else list(judgement.reasons)
        lead = "fits what must not be" if judgement.matches else "does not fit what must not be"
        found = "fits" if judgement.matches else "does not fit"
        why = f"not: it {lead}: {'; '.join(whys)}"
        return Clause(key=self.key, wanted=f"not ({self.inner.words})", found=found, ok=not judgement.matches, why=why)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    key: str
    alternatives: tuple[Rule, ...]

    def fits(self, values: Values) -> bool:
        return any(inner.fits(values) for inner in self.alternatives)

    def clause(self, values: Values) -> Clause:
        judgements = [inner.judge(values) for inner in self.alternatives]
        at = next((at for at, judgement in enumerate(judgements, 1) if judgement.matches), 0)
        if at:
            whys = [clause.why for clause in judgements[at - 1].clauses]
            found, why = f"alternative {at}", f"any: alternative {at} fits: {'; '.join(whys)}"
        else:
            parts = [f"({number}) {'; '.join(j.reasons)}" for number, j in enumerate(judgements, 1)]
            found, why = "none fits", f"any: no alternative fits: {' '.join(parts)}"
        wanted = " or ".join(f"({inner.words})" for inner in self.alternatives)
        return Clause(key=self.key, wanted=wanted, found=found, ok=bool(at), why=why)


# --- reading ------------------------------------------------------------------------------------------------------


def read(rule: Json) -> tuple[Rule, tuple[Fault, ...]]:
    """Return the terms of a rule that can be read, in the order written, and everything that is wrong with it."""
    faults: list[Fault] = []
    return _rule(rule, (), faults), tuple(faults)


def _rule(raw: Json, path: Path, faults: list[Fault]) -> Rule:
    if not isinstance(raw, Mapping):
        faults.append(Fault(path=path, summary="is no rule", hint="write property: condition, one a line"))
        return Rule()
    if len(path) > MOST_DEPTH:
        faults.append(Fault(path=path, summary=f"is nested deeper than {MOST_DEPTH} levels"))
        return Rule()
    return Rule(terms=tuple(term for key, value in raw.items() for term in _terms(key, value, (*path, key), faults)))


def _terms(key: Json, raw: Json, path: Path, faults: list[Fault]) -> Iterator[Term]:
    if key == NOT:
        yield _Negation(key=NOT, inner=_inner(raw, path, faults))
    elif key == ANY:
        yield _Choice(key=ANY, alternatives=tuple(_alternatives(raw, path, faults)))
    elif key == ALL:
        for inner in _alternatives(raw, path, faults):
            yield from inner.terms
    elif not isinstance(key, str) or key not in PROPERTIES:
        faults.append(_unknown(str(key), path, PROPERTIES))
    elif PROPERTIES[key].kind is Kind.LIST:
        yield from _counted(key, raw, path, faults)
    else:
        condition = _condition(PROPERTIES[key], raw, path, faults)
        if condition:
            yield _Single(key=key, condition=condition)


def _inner(raw: Json, path: Path, faults: list[Fault]) -> Rule:
    inner = _rule(raw, path, faults)
    if isinstance(raw, Mapping) and not raw:
        faults.append(Fault(path=path, summary="is an empty rule, which everything fits", hint="remove it or fill it"))
    return inner


def _alternatives(raw: Json, path: Path, faults: list[Fault]) -> Iterator[Rule]:
    if not isinstance(raw, list) or not raw:
        faults.append(Fault(path=path, summary="is no list of rules", hint="write - property: condition, a rule each"))
        return
    for at, item in enumerate(raw):
        yield _inner(item, (*path, at), faults)


def _condition(property_: Property, raw: Json, path: Path, faults: list[Fault]) -> Condition | None:
    found = parse(property_, raw, path)
    if isinstance(found, Fault):
        faults.append(found)
        return None
    return found


def _counted(name: str, raw: Json, path: Path, faults: list[Fault]) -> Iterator[_Counted]:
    """Yield the terms of a list: one per type of disk that is named, one for what stands beside them."""
    if not isinstance(raw, Mapping):
        count = _condition(COUNT, raw, path, faults)
        if count:
            yield _Counted(key=name, name=name, conditions={}, count=count)
        return
    if not raw:
        faults.append(Fault(path=path, summary="is empty", hint=f'write {name}: ">= 1" or conditions under it'))
    types = DISK_TYPES if name == "disks" else ()
    beside = {key: value for key, value in raw.items() if key not in types}
    if beside:
        yield _members(name, name, beside, path, faults, types)
    for type_ in types:
        if type_ in raw:
            yield _typed(name, type_, raw[type_], (*path, type_), faults)


def _typed(name: str, type_: str, raw: Json, path: Path, faults: list[Fault]) -> _Counted:
    """Return the term of one type of disk: `nvme: 2` or `nvme: {count: 2, size: ...}`."""
    own = parse(PROPERTIES[name].items["type"], type_, path)
    assert isinstance(own, Condition)
    key = f"{name}.{type_}"
    if isinstance(raw, Mapping):
        term = _members(key, name, raw, path, faults)
        return replace(term, conditions={**term.conditions, "type": own})
    count = _condition(COUNT, raw, path, faults)
    return _Counted(key=key, name=name, conditions={"type": own}, count=count or AT_LEAST_ONE)


def _members(
    key: str, name: str, raw: Mapping[Json, Json], path: Path, faults: list[Fault], types: Sequence[str] = ()
) -> _Counted:
    count: Condition | None = AT_LEAST_ONE
    if "count" in raw:
        count = _condition(COUNT, raw["count"], (*path, "count"), faults)
    rest = {key: value for key, value in raw.items() if key != "count"}
    conditions = item_conditions(name, rest, path, faults, ("count", *types))
    return _Counted(key=key, name=name, conditions=conditions, count=count or AT_LEAST_ONE)


def item_conditions(
    name: str, raw: Mapping[Json, Json], path: Path, faults: list[Fault], others: Sequence[str] = ()
) -> dict[str, Condition]:
    """Return the conditions on the members of a list property; `others` are further keys that could be meant."""
    known, found = PROPERTIES[name].items, {}
    for key, value in raw.items():
        if not isinstance(key, str) or key not in known:
            faults.append(_unknown(str(key), (*path, key), [*known, *others], of=name))
            continue
        condition = _condition(known[key], value, (*path, key), faults)
        if condition:
            found[key] = condition
    return found


def _unknown(key: str, path: Path, known: Sequence[str] | Mapping[str, Property], of: str = "") -> Fault:
    what = f"is no property of {of}" if of else "is no property that a rule can use"
    near = _parts_of(key, known) or closest(key.lower(), known)
    return Fault(path=path, summary=f"{what}.{near}", hint=f"there are {', '.join(sorted(known))}")


def _parts_of(key: str, known: Sequence[str] | Mapping[str, Property]) -> str:
    """A mapping under `lldp` is a likely slip for `lldp.switch`."""
    dotted = [name for name in sorted(known) if name.startswith(f"{key}.")]
    return f" Write {' or '.join(dotted)}." if dotted else ""
