"""What machines ask and tell, without HTTP: every answer from the store, every change through the table of lives.

Nothing is answered before it is committed. Two requests of one machine take turns; what another process (an apply, an
operator's command) does to a machine in between is noticed by the store, and then we look again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

from orchestrator import facts as fact_reader
from orchestrator import identity as identities
from orchestrator.boot import Answer, Decision, Request, decide
from orchestrator.errors import HalliganError, ProblemsError, StoreError
from orchestrator.identity import CONFLICT, SAME, Recognition
from orchestrator.lifecycle import Move, RefusedError, Signal, move
from orchestrator.model import Event, Failure, Identity, Json, MachineState, Order, Phase
from orchestrator.netboot.commits import Commits, StaleError
from orchestrator.netboot.limits import Once, Rate, Rates, Turns
from orchestrator.netboot.polls import Polls
from orchestrator.netboot.settings import Settings
from orchestrator.netboot.tokens import Claim, Tokens, credential_hash, new_credential, shows
from orchestrator.store import kinds
from orchestrator.store.store import Store
from orchestrator.store.values import StepLog

__all__ = ["POLL_S", "DeniedError", "Enrolled", "Machines"]

POLL_S = 30
PROTOCOL = 1

_TRIES = 8
_MOST_WAIT_S = 60.0
_MOST_LOG = 64 * 1024
_STEP_S, _PERCENT = 10.0, 5.0
_LOG = logging.getLogger("halligan.boot")
_ID = re.compile(r"m-[0-9a-f]{12}")
_UNPRINTABLE = re.compile(r"[^\x20-\x7e\u00a0-\ud7ff\ue000-\ufffd]+")
_HOST_KEY = re.compile(r"(ssh|ecdsa)-[a-z0-9@.-]{3,40} [A-Za-z0-9+/=]{40,1200}")
_FAILURES = {"install": Failure.IMAGE, "erase": Failure.ERASE}
_T = TypeVar("_T")


class DeniedError(HalliganError):
    """The answer is no: `status` is HTTP's, `retry_s` when to ask again (0: this will not change by itself)."""

    def __init__(self, status: int, summary: str, *, hint: str = "", retry_s: int = 0) -> None:
        super().__init__(summary, hint=hint)
        self.status = status
        self.retry_s = retry_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    machine: str
    credential: str
    mode: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    step: str
    percent: float
    at: float


class Machines:
    """Has inner state: who waits, what was told a moment ago, and limits. To be used in one event loop.

    `clock` returns UTC seconds.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        commits: Commits,
        tokens: Tokens,
        polls: Polls,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._store = store
        self._commits = commits
        self._tokens = tokens
        self._polls = polls
        self._clock = clock
        self._turns = Turns()
        self._new = Rate(settings.new_per_minute, 60, clock)
        self._strangers = Rate(600, 60, clock)  # events of machines that are not on record
        self._often = Once(1, clock)
        self._conflicts = Once(10, clock)
        self._conflict_rate = Rate(300, 60, clock)
        self._facts_rate = Rates(20, 600, clock)
        self._progress: dict[str, Progress] = {}
        self._readers = ThreadPoolExecutor(max_workers=4, thread_name_prefix="read")

    def close(self) -> None:
        self._readers.shutdown()

    # --- booting --------------------------------------------------------------------------------------------------

    async def boot(self, request: Request, by: str) -> Decision:
        """Return what a machine gets, and note that it asked."""
        identity = _of_request(request)
        keys = identities.keys(identity)
        if not keys:
            return decide(None, request, unknown=self._unknown(request))
        async with self._turns.of(keys):
            return await self._again(lambda: self._boot(request, identity, by))

    async def _boot(self, request: Request, identity: Identity, by: str) -> Decision:
        found = await self._recognised(identity)
        state = found.machine if found.kind == SAME else None
        decision = decide(state, request, unknown=self._unknown(request))
        if found.kind == CONFLICT:
            decision = replace(decision, reason=f"{decision.reason}; conflict: {found.reasons[0]}")
        events = self._boot_events(request, identity, found, decision, by)
        try:
            await self._commits.append(events)
        except StoreError as error:
            if decision.answer in (Answer.DISCOVER, Answer.RESCUE):
                raise
            # A full disk here must not keep a machine from its own one.
            _LOG.error("cannot note the boot of %s: %s", request.mac, error.summary)
        return decision

    def _boot_events(
        self, request: Request, identity: Identity, found: Recognition, decision: Decision, by: str
    ) -> list[Event]:
        now = self._clock()
        state = found.machine
        moved = self._boot_move(identity, found, decision)
        machine = moved.machine if moved else state.id if state else ""
        events = [kinds.machine_moved(moved, at=now, by=by)] if moved else []
        if self._often.allow(f"script {machine or request.mac}") and (machine or self._strangers.allow()):
            detail = f"{decision.answer}: {decision.reason}"
            node = state.node if state else ""
            events.append(
                kinds.machine_boot(machine, at=now, what="script", node=node, mac=request.mac, detail=detail[:300])
            )
        return events

    def _boot_move(self, identity: Identity, found: Recognition, decision: Decision) -> Move | None:
        """Return the move of a boot; None where the table has none, or where we take no notice of strangers."""
        if found.kind == CONFLICT or (found.machine is None and decision.answer is not Answer.DISCOVER):
            return None
        try:
            if found.machine is not None:
                return move(found.machine, Signal.BOOT)
            self._admit()
            return move(None, Signal.BOOT, machine=identities.new_id(identity), identity=identity)
        except RefusedError as error:
            _LOG.warning("%s", error.summary)
            return None

    async def token(self, request: Request) -> tuple[str, str]:
        """Return an enrolment token for a boot, and the mode ("discover" or "rescue") that it is for.

        Raises:
            DeniedError: it says not who it is, or is not to run the discovery image.
        """
        if not request.mac:
            raise DeniedError(400, "the boot archive is made for one machine: its MAC address is missing")
        found = await self._recognised(_of_request(request))
        state = found.machine if found.kind == SAME else None
        decision = decide(state, request, unknown=self._unknown(request))
        if decision.answer not in (Answer.DISCOVER, Answer.RESCUE):
            raise DeniedError(403, f"this machine is not to run the discovery image: {decision.reason}")
        token = self._tokens.issue(mac=request.mac, uuid=request.uuid, now=self._clock())
        return token, "rescue" if decision.answer is Answer.RESCUE else "discover"

    def _unknown(self, request: Request) -> str:
        """Return what a machine gets that the store does not know: the spec may name it all the same."""
        named = request.mac in self._settings.known_macs or request.serial in self._settings.known_serials
        return "discover" if named else self._settings.boot.unknown

    def _admit(self) -> None:
        if not self._new.allow():
            raise DeniedError(
                503,
                f"more than {self._settings.new_per_minute} new machines within a minute",
                hint="if these are not yours, somebody makes up MAC addresses in the boot network",
                retry_s=30,
            )

    # --- enrolment ------------------------------------------------------------------------------------------------

    async def enrol(self, token: str, body: Mapping[str, Json], by: str) -> Enrolled:
        """Return id, credential and mode of a machine that shows a good token.

        Raises:
            DeniedError: 400 malformed, 401 the token is not good, 403 the machine may not, 409 an identity conflict.
        """
        now = self._clock()
        claim = self._tokens.check(token, now)
        if isinstance(claim, str):
            raise DeniedError(401, claim, hint="a new boot gets a new token")
        identity = _claimed_identity(body, claim)
        if not self._tokens.take(claim, now):
            raise DeniedError(401, "the enrolment token was used before", hint="a new boot gets a new token")
        try:
            async with self._turns.of(identities.keys(identity)):
                return await self._again(lambda: self._enrol(claim, identity, by))
        except (StoreError, DeniedError) as error:
            if not isinstance(error, DeniedError) or error.status == 503:
                self._tokens.give_back(claim)
            raise

    async def _enrol(self, claim: Claim, identity: Identity, by: str) -> Enrolled:
        found = await self._recognised(identity)
        if found.kind == CONFLICT:
            raise await self._conflict(identity, found, claim, by)
        state = found.machine
        if state is None:
            self._admit()
        machine = state.id if state else identities.new_id(identity)
        credential = new_credential(machine)
        changes: dict[str, Json] = {"identity": identity, "credential": credential_hash(credential)}
        try:
            moved = move(state, Signal.ENROL, machine=machine, **changes)
        except RefusedError as error:
            await self._note(machine, state, "enrol", f"refused from {by}: {error.summary}", claims=[claim])
            raise DeniedError(403, error.summary, hint=error.hint) from None
        await self._commits.append([kinds.machine_moved(moved, at=self._clock(), by=by)], claims=[claim])
        return Enrolled(machine=machine, credential=credential, mode=_mode(moved.after))

    async def _conflict(self, identity: Identity, found: Recognition, claim: Claim | None, by: str) -> DeniedError:
        """Put a conflict on record, and return the answer to it."""
        reason = "; ".join(found.reasons)
        own = identities.new_id(identity)
        first, *others = [*found.others, own]
        if self._conflicts.allow(f"{own} {first}") and self._conflict_rate.allow():
            state = await self._read(self._store.machine, first)
            node = state.node if state else ""
            said = f"{by} ({', '.join(identities.keys(identity))}): {reason}"
            event = kinds.machine_conflict(first, at=self._clock(), others=others, reason=said[:2000], node=node)
            await self._commits.append([event], claims=[claim] if claim else ())
            _LOG.warning("conflict: %s", said[:500])
        return DeniedError(
            409, f"this machine cannot be told from another: {reason}", hint="`halligan nodes` shows the conflict"
        )

    # --- facts ----------------------------------------------------------------------------------------------------

    async def authenticate(self, machine: str, credential: str) -> MachineState:
        """Return the machine whose credential this is, if it is the one that is spoken of (else 401 or 403)."""
        whose = credential.partition(".")[0]
        state = await self._read(self._store.machine, whose) if _ID.fullmatch(whose) else None
        if state is None or not shows(credential, state.credential):
            raise DeniedError(401, "the credential is not good (any more)", hint="a new boot gets a new one")
        if whose != machine:
            raise DeniedError(403, f"{whose} may not speak for {machine[:40]}")
        return state

    async def facts(self, machine: str, credential: str, document: bytes, level: str, by: str) -> None:
        """Take what a machine is made of.

        Raises:
            DeniedError: 400 malformed, 409 these are another machine's, or it may not tell facts in its phase.
        """
        if level not in ("", "basic", "full"):
            raise DeniedError(400, f"the level of facts is {_short(level)!r}, not basic or full")
        async with self._turns.of([machine]):
            await self._again(lambda: self._facts(machine, credential, document, level, by))

    async def _facts(self, machine: str, credential: str, document: bytes, level: str, by: str) -> None:
        state = await self.authenticate(machine, credential)
        found, recognised = await self._judged(document)
        if recognised.kind != SAME or recognised.machine is None or recognised.machine.id != machine:
            who = recognised.machine.id if recognised.machine else ", ".join(recognised.others) or "an unknown machine"
            await self._foreign_facts(state, found.identity, who, by)
        await self._new_facts(state, found, document, level or found.level, by)

    async def refused_facts(self, machine: str, why: str, by: str) -> None:
        """Put on record that a machine's facts were refused: whoever waits for them is told why they do not come."""
        state = await self._read(self._store.machine, machine)
        await self._note(machine, state, "facts", f"refused from {by}: {why}")

    async def _foreign_facts(self, state: MachineState, identity: Identity, who: str, by: str) -> None:
        reason = f"another machine's facts: {state.id} at {by} sent those of {who}"
        keys = identities.keys(identity)
        others = sorted({known.id for known in await self._read(self._store.machines_like, keys)} - {state.id})
        if self._conflicts.allow(f"facts {state.id}") and self._conflict_rate.allow():
            event = kinds.machine_conflict(
                state.id,
                at=self._clock(),
                others=others,
                reason=f"{reason} ({', '.join(keys) or 'which say nothing of who it is'})"[:2000],
                node=state.node,
            )
            await self._commits.append([event])
            _LOG.warning("conflict: %s", reason)
        raise DeniedError(409, reason, hint="`halligan nodes` shows the conflict")

    async def _new_facts(
        self, state: MachineState | None, found: fact_reader.Facts, document: bytes, level: str, by: str
    ) -> str:
        """Commit facts of a machine, or of one that nobody knew. Return its id."""
        digest = hashlib.sha256(document).hexdigest()
        machine = state.id if state else identities.new_id(found.identity)
        changes: dict[str, Json] = {"facts": digest, "level": level, "identity": found.identity}
        try:
            moved = move(state, Signal.FACTS, machine=machine, **changes)
        except RefusedError as error:
            raise DeniedError(409, error.summary, hint=error.hint) from None
        if state is None or (state.phase, state.facts, state.level) != (moved.after, digest, level):
            if not self._facts_rate.allow(machine):
                raise DeniedError(429, f"machine {machine} tells new facts all the time", retry_s=300)
            event = kinds.machine_moved(moved, at=self._clock(), by=by)
            await self._commits.append([event], facts={digest: document})
        return machine

    async def inspect(self, document: bytes, by: str) -> str:
        """Take what an ironic-python-agent found; return the machine's id. Nobody vouches for what it says.

        Raises:
            DeniedError: 400 malformed, 403 somebody claimed the machine or our own agent speaks for it, 409 conflict.
        """
        found, _ = await self._judged(document)
        keys = identities.keys(found.identity)
        if not keys:
            raise DeniedError(400, "the document says nothing that tells the machine from others")
        whole = json.dumps(dict(found.document), separators=(",", ":"), sort_keys=True).encode()
        async with self._turns.of(keys):
            return await self._again(lambda: self._inspect(found, whole, by))

    async def _inspect(self, found: fact_reader.Facts, document: bytes, by: str) -> str:
        recognised = await self._recognised(found.identity)
        if recognised.kind == CONFLICT:
            raise await self._conflict(found.identity, recognised, None, by)
        state = recognised.machine
        if state is None:
            request = Request(mac=found.boot_mac, serial=found.serial)
            if self._unknown(request) != "discover":
                raise DeniedError(403, "this site ignores machines that it does not know (boot.unknown)")
            self._admit()
        elif state.node or state.credential:
            whose = f"node {state.node} has claimed it" if state.node else "its own agent speaks for it"
            raise DeniedError(403, f"machine {state.id} takes no facts from strangers: {whose}")
        return await self._new_facts(state, found, document, found.level, by)

    # --- orders ---------------------------------------------------------------------------------------------------

    async def task(self, machine: str, credential: str, wait_s: float) -> Order | None:
        """Return the machine's order, waiting for one for a while; None if there is none then."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + min(max(wait_s, 0.0), _MOST_WAIT_S)
        await self.authenticate(machine, credential)  # before anybody else's poll is sent away
        while True:
            waiter = self._polls.begin(machine)
            try:
                state = await self.authenticate(machine, credential)
                if state.order is not None:
                    return state.order
                changed = await asyncio.wait_for(waiter, deadline - loop.time())
            except TimeoutError:
                return None
            finally:
                self._polls.done(machine, waiter)
            if not changed:
                return None

    async def progress(self, machine: str, credential: str, task: str, body: Mapping[str, Json], by: str) -> bool:
        """Note how far a machine is; False if its task is no longer wanted."""
        state = await self.authenticate(machine, credential)
        if state.order is None or state.order.id != task:
            return False
        step, message, percent = _text(body, "step", 40), _text(body, "message", 200), _percent(body)
        if self._tells(machine, step, percent):
            event = kinds.machine_progress(
                machine,
                at=self._clock(),
                node=state.node,
                task=state.order.task,
                step=step,
                percent=percent,
                message=message,
            )
            await self._commits.append([event])
            _LOG.info("%s %s: %s %.0f %% %s", machine, by, step, percent, message)
        return True

    def _tells(self, machine: str, step: str, percent: float) -> bool:
        """Whether a report says enough that is new to be kept."""
        now, last = self._clock(), self._progress.get(machine)
        if last is not None and now - last.at < _STEP_S:
            new = step != last.step or abs(percent - last.percent) >= _PERCENT
            if not new or now - last.at < 0.2:
                return False
        self._progress[machine] = Progress(step=step, percent=percent, at=now)
        return True

    async def result(self, machine: str, credential: str, task: str, body: Mapping[str, Json], by: str) -> None:
        """Take what a task came to. One that is late, or comes again, is noted and changes nothing."""
        result = Result.of(body)
        async with self._turns.of([machine]):
            await self._again(lambda: self._result(machine, credential, task, result, by))
        self._progress.pop(machine, None)

    async def _result(self, machine: str, credential: str, task: str, result: Result, by: str) -> None:
        state = await self.authenticate(machine, credential)
        order = state.order
        if order is None or order.id != task:
            wanted = f"its task is {order.id}" if order else "it has no task"
            await self._note(machine, state, "result", f"late result of {_short(task)} ({result.words}): {wanted}")
            return
        now = self._clock()
        moved: Move | None
        try:
            moved = _result_move(state, order, result)
        except RefusedError as error:
            await self._note(machine, state, "result", f"{order.task}, {result.words}, is refused: {error.summary}")
            moved = move(state, Signal.BOOT, order=None) if _may(state, Signal.BOOT) else None
        events = [kinds.machine_moved(moved, at=now, by=by)] if moved else []
        detail = f"{order.task}: {result.words}"
        events.append(kinds.machine_boot(machine, at=now, what="result", node=state.node, detail=detail))
        step = f"{order.task}@{state.node or machine}"
        log = StepLog(run="", step=step, node=state.node or machine, attempt=1, at=now, text=result.log)  # type: ignore[arg-type]
        await self._commits.append(events, logs=[log] if result.log else ())
        _LOG.info("%s %s: %s", machine, by, detail)

    # --- what dnsmasq saw -----------------------------------------------------------------------------------------

    async def seen(self, notes: Sequence[tuple[str, str, str]]) -> None:
        """Note what was seen of machines: (MAC or empty, what, detail) each."""
        macs = {mac for mac, _, _ in notes if mac}
        known = await self._read(self._store.machines_like, {f"mac:{mac}" for mac in macs})
        owners = {mac: state for state in known for mac in state.identity.macs}
        now = self._clock()
        events = []
        for mac, what, detail in notes:
            owner = owners.get(mac)
            machine, node = (owner.id, owner.node) if owner else ("", "")
            events.append(kinds.machine_boot(machine, at=now, what=what, node=node, mac=mac, detail=detail[:300]))
        await self._commits.append(events)

    # --- parts ----------------------------------------------------------------------------------------------------

    async def _read(self, call: Callable[..., _T], *arguments: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, call, *arguments)

    async def _recognised(self, identity: Identity) -> Recognition:
        known = await self._read(self._store.machines_like, identities.keys(identity))
        return identities.recognise(known, identity)

    async def _judged(self, document: bytes) -> tuple[fact_reader.Facts, Recognition]:
        """Read facts and say whose they are, in a thread: a large document takes a while."""

        def judge() -> tuple[fact_reader.Facts, Recognition]:
            found = fact_reader.read(document)
            known = self._store.machines_like(identities.keys(found.identity))
            return found, identities.recognise(known, found.identity)

        try:
            return await self._read(judge)
        except ProblemsError as error:
            raise DeniedError(400, "; ".join(problem.summary for problem in error.problems)[:2000]) from None

    async def _note(
        self, machine: str, state: MachineState | None, what: str, detail: str, *, claims: Sequence[Claim] = ()
    ) -> None:
        node = state.node if state else ""
        event = kinds.machine_boot(machine, at=self._clock(), what=what, node=node, detail=detail[:300])
        await self._commits.append([event] if self._often.allow(f"{what} {machine}") else [], claims=claims)
        _LOG.warning("%s: %s: %s", machine, what, detail)

    async def _again(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        """Try until nobody else moved the machine in the middle of it."""
        for _ in range(_TRIES):
            try:
                return await attempt()
            except StaleError as error:
                last = error
                await asyncio.sleep(secrets.randbelow(50) / 1000)
        raise DeniedError(503, f"somebody else moves this machine all the time: {last.summary}", retry_s=5)


# --- what a request says ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What an agent says that a task came to."""

    ok: bool
    problem: str = ""
    failure: str = ""
    image: str = ""
    host_keys: tuple[str, ...] = ()
    log: str = ""

    @property
    def words(self) -> str:
        return "ok" if self.ok else f"failed ({self.failure or 'unknown'}): {self.problem}"

    @classmethod
    def of(cls, body: Mapping[str, Json]) -> Result:
        ok, outputs = body.get("ok"), body.get("outputs") or {}
        if not isinstance(ok, bool) or not isinstance(outputs, dict):
            raise DeniedError(400, "a result needs `ok` (true or false) and `outputs` (an object)")
        keys = outputs.get("host_keys") or []
        wrong = not isinstance(keys, list) or len(keys) > 10
        if wrong or not all(isinstance(key, str) and _HOST_KEY.fullmatch(key) for key in keys):
            raise DeniedError(400, "`host_keys` must be a list of public SSH host keys without comments")
        log = body.get("log") or ""
        return cls(
            ok=ok,
            problem=_text(body, "problem", 500),
            failure=_text(body, "failure", 40),
            image=_text(outputs, "image", 200),
            host_keys=tuple(keys),
            log=log.encode("utf-8", "replace").decode()[-_MOST_LOG:] if isinstance(log, str) else "",
        )


def _result_move(state: MachineState, order: Order, result: Result) -> Move:
    """Return where a result takes its machine. What is no install and no erase leaves it where it is."""
    changes: dict[str, Json]
    if order.task not in _FAILURES:
        return move(state, Signal.BOOT, order=None)
    if not result.ok:
        known = result.failure in set(Failure)
        failure = result.failure if known else _FAILURES[order.task].value
        changes = {"failure": failure, "reason": result.problem or f"{order.task} failed"}
        return move(state, Signal.FAIL, **changes)
    if order.task == "erase":
        return move(state, Signal.ERASED)
    changes = {"image": result.image, "host_keys": result.host_keys}
    return move(state, Signal.WROTE, **changes)


def _may(state: MachineState, signal: Signal) -> bool:
    try:
        move(state, signal)
    except RefusedError:
        return False
    return True


def _mode(phase: Phase) -> str:
    return "rescue" if phase is Phase.RESCUE else "discover"


def _of_request(request: Request) -> Identity:
    return identities.make(uuid=request.uuid, serials=[request.serial], macs=[request.mac])


def _claimed_identity(body: Mapping[str, Json], claim: Claim) -> Identity:
    """Return the identity that an enrolment tells; it must have the MAC that its token was made for."""
    if body.get("protocol") != PROTOCOL:
        raise DeniedError(
            400, f"the agent speaks protocol {_short(str(body.get('protocol')))}, this service {PROTOCOL}"
        )
    told = body.get("identity")
    said: Mapping[str, Json] = told if isinstance(told, dict) else {"uuid": None}
    uuid, serials, macs = said.get("uuid", ""), said.get("serials", []), said.get("macs", [])
    if not isinstance(uuid, str) or not _texts(serials) or not _texts(macs):
        raise DeniedError(400, "`identity` must have `uuid` (a text), `serials` and `macs` (lists of texts)")
    if claim.mac not in {identities.normal_mac(mac) for mac in macs}:
        raise DeniedError(401, f"the enrolment token was made for the machine with MAC {claim.mac}")
    found = identities.make(uuid=uuid, serials=serials, macs=macs)
    if not identities.keys(found):
        raise DeniedError(400, "`identity` says nothing that tells the machine from others")
    return found


def _texts(value: Json) -> bool:
    """Whether a value is a list of short texts, not too many."""
    return isinstance(value, list) and len(value) <= 256 and all(isinstance(v, str) and len(v) <= 256 for v in value)


def _text(body: Mapping[str, Json], key: str, most: int) -> str:
    value = body.get(key)
    return _short(value, most) if isinstance(value, str) else ""


def _short(text: str, most: int = 80) -> str:
    return _UNPRINTABLE.sub(" ", text).strip()[:most]


def _percent(body: Mapping[str, Json]) -> float:
    value = body.get("percent")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        return 0.0
    return float(value)
