"""Serve a batch: decide its changes and write them as one transaction, without threads.

A batch is decided and written event by event: what is in the way of one event
holds up no other. What is left are the rivals in other processes. The version
check finds them, and the next batch decides again on the event as they left it.

What a batch brings for one event is made, decided and sent:

    Part ── decide ──▶ Decided ── write ──▶ Sent ──▶ answered
     │                    │                  ├─ not as supposed, or locked ──▶ comes again
     │                    │                  └─ its answer is lost ──▶ remembered, looked for
     │                    └─ nothing to write ──▶ answered
     └─ unsettled, or moved on while it was read ──▶ comes again

Those of an atomic request go through the same together, or come again together.
"""

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Any
from uuid import UUID, uuid4

from ticketboss import metrics
from ticketboss.data.database import Conflict, ConnectionLost, Rejected
from ticketboss.data.store import KeyUsed, Locked, Store, Written
from ticketboss.rules import limits
from ticketboss.rules.changes import Change, Expire
from ticketboss.rules.errors import (
    Elsewhere,
    EventNotFound,
    NotMade,
    Overloaded,
    TicketBossError,
    Unavailable,
)
from ticketboss.rules.model import NOW, Event, PartnerSeats, Reservation
from ticketboss.rules.plan import Key, Plan
from ticketboss.selling.line import Turn

log = logging.getLogger(__name__)

# Stands for the version of an event whose reservation is locked: that may move on meanwhile.
STUCK = -1


class Came(IntEnum):
    """What became of turns that were served together; the worst of several counts."""

    THROUGH = 0  # nothing was in the way; who has no answer comes again at once
    LATER = 1  # a rival was in the way, or the database: the next try waits a moment
    NOT_TAKEN = 2  # the database did not take them in time


class Part:
    """The turns of a batch that are about one event."""

    def __init__(self, event_id: str, turns: list[Turn]):
        self.event_id = event_id
        self.turns = turns
        # What was sent of these turns before, where no answer came.
        self.lost = {sent for turn in turns for sent in turn.memory.lost}

    @property
    def may_suppose(self) -> bool:
        """Whether all of it can be decided on an event that was not read."""
        return all(t.change.may_suppose and not t.memory.disproved for t in self.turns)

    @property
    def brings_keys(self) -> bool:
        return any(turn.change.key for turn in self.turns)

    def about(self, reservation_ids: frozenset[UUID]) -> list[Turn]:
        """Return the turns that would change one of some reservations."""
        return [turn for turn in self.turns if turn.change.reads in reservation_ids]


@dataclass(slots=True, frozen=True)
class Decision:
    """What was decided for a turn: its outcome, or the fact that refuses it."""

    turn: Turn
    outcome: Any = None
    fact: TicketBossError | None = None


class Decided:
    """A part with a decision for every turn, and the plan that they make."""

    def __init__(self, part: Part, plan: Plan, decisions: list[Decision]):
        self.part = part
        self.plan = plan
        self.decisions = decisions

    @property
    def refuses(self) -> bool:
        """Whether anything was refused that the event's own state decides."""
        return any(d.fact and not isinstance(d.fact, Elsewhere) for d in self.decisions)

    @property
    def unproved(self) -> bool:
        """Whether it tells of a state that no write of its own proves to be durable.

        What another has committed may be seen before a standby has it, and a primary
        that has been replaced may be read all the same: neither can commit.
        """
        return not self.plan.entries and (self.refuses or bool(self.plan.repeated))

    @property
    def uncertain(self) -> bool:
        """Whether it refuses a turn, or writes nothing, that was sent before and may land yet."""
        return bool(self.part.lost) and any(
            d.turn.memory.lost and (d.fact is not None or not self.plan.entries)
            for d in self.decisions
        )

    def answer(self, written: Written | None = None) -> None:
        """Tell every turn what was decided, dated by where it was written."""
        if written:
            _count(self.plan)
            self.plan.place(*written)
        for decision in self.decisions:
            if written and decision.fact is not None:
                decision.fact.date(NOW, written.at)
            decision.turn.answer(decision.outcome, decision.fact)


@dataclass(frozen=True, eq=False)
class Sent:
    """A decided part that is on its way to the database, known by the batch's id."""

    decided: Decided
    batch_id: UUID

    def lose(self) -> None:
        """Note with the turns that it would make that its answer was lost."""
        for decision in self.decided.decisions:
            if decision.fact is None:
                decision.turn.memory.lost.append(self)


@dataclass(slots=True)
class Reading:
    """What was read for a batch: events first, then what the version check proves with them."""

    events: dict[str, Event]
    reservations: list[Reservation]
    # When the reservations were read; None: there are none.
    at: datetime | None
    # What partners have of the pools, where an event has caps.
    partners: Sequence[PartnerSeats] = ()

    def plan(self, event_id: str) -> Plan:
        """Return a plan that begins as it was read, or that supposes an event that was not."""
        event = self.events.get(event_id)
        if event is None:
            return Plan.supposing(event_id, self.reservations)
        partners = [each for each in self.partners if each.event_id == event_id]
        return Plan(event, self.reservations, self.at or event.read_at, partners=partners)

    @property
    def overdue(self) -> set[str]:
        """The events of which a hold that was read has ended, and is not in the ledger yet."""
        return {r.event_id for r in self.reservations if r.overdue}

    def moved_on(self, event: Event) -> bool:
        """Whether the event has changed since it was read, so that no one state was read.

        Its version check would tell, but what is refused is not written.
        """
        id, version = event.event_id, event.version
        return any(r.version > version for r in self.reservations if r.event_id == id) or any(
            p.version != version for p in self.partners if p.event_id == id
        )


class Batches:
    """Serves batches on one database; for one thread at a time."""

    def __init__(self, store: Store):
        self._store = store
        # The events of the last batch that were not as supposed, or refused something:
        # the next reads them.
        self.doubtful: set[str] = set()
        # How many batches in a row lost to rivals as a whole.
        self._conflicts = 0

    @property
    def silent(self) -> bool:
        """Whether the database left its last caller without an answer."""
        return self._store.database.silent

    def serve(self, batch: list[Turn]) -> bool:
        """Answer the turns of a batch; whoever has no answer then comes again.

        Tell whether that should wait a moment.
        """
        metrics.BATCH_CHANGES.observe(len(batch))
        self.doubtful &= {turn.event_id for turn in batch}
        return self._serve(batch) is not Came.THROUGH

    def _serve(self, turns: list[Turn]) -> Came:
        """Try to serve turns as one transaction; where that fails as a whole, event by event."""
        turns = [turn for turn in turns if not turn.answered]
        if not turns:
            return Came.THROUGH
        parts = _parts(turns)
        atomic = turns[0].request.atomic
        # What would be served event by event, if it failed as a whole.
        pieces = 1 if atomic else len(parts)
        try:
            came = self._attempt_all(turns, parts) if atomic else self._attempt(parts)
        except KeyUsed:
            if atomic:  # its keys had been looked up: a rival was first
                return Came.LATER
            for part in parts:
                if part.brings_keys:
                    self._doubt(part)
            return self._serve([t for part in parts if not part.brings_keys for t in part.turns])
        except Conflict:
            metrics.CONFLICTS.add()
            self._conflicts += 1
            if pieces == 1 or self._conflicts <= limits.CONFLICTS_TOGETHER:
                return Came.LATER
        except ConnectionLost:
            deadline = self._store.database.deadline()
            for turn in turns:
                turn.otherwise, turn.deadline = Unavailable, min(turn.deadline, deadline)
            return Came.LATER
        except (Unavailable, Overloaded) as failure:
            if pieces == 1 or self.silent or isinstance(failure, Overloaded):
                _fail(turns, failure)
                return Came.NOT_TAKEN
        except Rejected as rejection:
            if pieces == 1:
                return self._without_the_poisoned(turns, rejection)
        else:
            self._conflicts = 0
            return came
        return self._event_by_event(parts)

    def _event_by_event(self, parts: list[Part]) -> Came:
        """Serve each part as a transaction: what is wrong with one event is to fail no other."""
        came = Came.THROUGH
        not_taken = 0
        for part in parts:
            if not_taken >= limits.PIECES_UNAVAILABLE:
                # It is not about them: the rest is told so at once.
                _fail(part.turns, Unavailable())
            elif not self.silent:
                piece = self._serve(part.turns)
                not_taken += piece is Came.NOT_TAKEN
                came = max(came, piece)
        return came

    def _without_the_poisoned(self, turns: list[Turn], rejection: Rejected) -> Came:
        """Serve the turns of one event, one of which the database rejects: that fails alone."""
        if lost := [turn for turn in turns if turn.memory.lost]:
            # They may have been written: not to be tried in halves.
            for turn in lost:
                turn.answer(failure=Unavailable())
            return Came.LATER
        if len(turns) == 1 or turns[0].request.atomic:
            log.error("the database rejects a change: %s", rejection)
            for turn in turns:
                turn.answer(failure=TicketBossError())
            return Came.THROUGH
        half = len(turns) // 2
        came = self._serve(turns[:half])
        if all(turn.answered for turn in turns[:half]):  # or they would lose their place
            came = max(came, self._serve(turns[half:]))
        return came

    # --- One try ----------------------------------------------------------------

    def _attempt(self, parts: list[Part]) -> Came:
        """Decide parts and write them as one transaction, each for itself.

        A part may suppose that its event is on sale with seats for all, which the
        write proves. Otherwise the event is read, after the requests arrived, and
        the version check proves what was read.
        """
        unsure = [p.event_id for p in parts if p.event_id in self.doubtful or not p.may_suppose]
        read = self._read(parts, unsure)
        overdue = read.overdue
        came = Came.THROUGH
        decided: list[Decided] = []
        absent: list[Part] = []
        unsettled: list[tuple[Part, Event]] = []
        for part in parts:
            event = read.events.get(part.event_id)
            if event is None and part.event_id in unsure:
                absent.append(part)
            elif part.event_id in overdue or (event and event.unsettled):
                self._doubt(part)
                if event:
                    unsettled.append((part, event))
            elif event and read.moved_on(event):
                came = Came.LATER
            elif not self._recover(part) and (made := self._decide(part, read.plan(part.event_id))):
                decided.append(made)
        came = max(came, self._conclude(decided, absent))
        for part, event in unsettled:
            came = max(came, self._settle(part, event))
        return came

    def _read(self, parts: list[Part], unsure: list[str]) -> Reading:
        """Read events, and then what the changes are about: the version check proves it all.

        Keys are looked up where the event is read. Elsewhere they are supposed to be
        new, which their unique index proves.
        """
        events = self._store.read_events(unsure) if unsure else {}
        changes = [(part, turn.change) for part in parts for turn in part.turns]
        reservations, at = self._store.read_reservations(
            [(change.reads, change.scope) for _, change in changes if change.reads],
            [change.key for part, change in changes if change.key and part.event_id in unsure],
        )
        more, partners = self._read_rules(events, changes, reservations)
        return Reading(events, reservations + more, at, partners)

    def _read_rules(
        self,
        events: dict[str, Event],
        changes: list[tuple[Part, Change]],
        reservations: list[Reservation],
    ) -> tuple[list[Reservation], list[PartnerSeats]]:
        """Read allotments, and what partners have, where an event has such or a row names one."""
        counted = [(part.event_id, c.counts_for, c.alone) for part, c in changes if c.counts_for]
        allotted, capped = set(), set()
        for event_id, partner_id, alone in counted:
            event = events.get(event_id)
            if event and (event.allotted_seats or alone):
                allotted.add((event_id, partner_id))
            if event and event.capped:
                capped.add((event_id, partner_id))
        found = self._store.read_allotments(sorted(allotted))[0] if allotted else []
        found += self._sources(reservations)
        return found, self._store.read_partner_seats(sorted(capped)) if capped else []

    def _sources(self, reservations: Iterable[Reservation]) -> list[Reservation]:
        """Return the allotments that reservations were drawn from, and may go back to."""
        ids = {each.drawn_from for each in reservations if each.drawn_from}
        return self._store.read_reservations([(id, None) for id in ids], ())[0] if ids else []

    def _recover(self, part: Part) -> bool:
        """Answer those of a part whose lost write is found to have been made.

        Called after the event was read, so that one that lands later conflicts.
        """
        for sent in part.lost:
            if written := self._store.find_batch(sent.decided.plan, sent.batch_id):
                metrics.LOST_ANSWERS_FOUND.add()
                sent.decided.answer(written)
                return True
        return False

    def _decide(self, part: Part, plan: Plan) -> Decided | None:
        """Decide a part's changes in their order; None: its turns come again."""
        decisions = []
        for turn in part.turns:
            try:
                decision = _decide(turn, plan)
            except Exception as bug:
                # The plan may be half made: the others are decided again without this one.
                turn.answer(failure=bug)
                return None
            decisions.append(decision)
            if isinstance(decision.fact, Elsewhere) and not turn.memory.lost:
                turn.answer(failure=decision.fact)  # whatever becomes of this event
        decided = Decided(part, plan, decisions)
        if plan.supposed and decided.refuses:
            # Only what the write proves may be supposed: nothing is refused on a supposition.
            self._doubt(part)
            return None
        return decided

    def _conclude(self, decided: list[Decided], absent: list[Part]) -> Came:
        """Answer what is decided: at once where nothing changes, else when it is written.

        The events of `absent` were not there.
        """
        came = Came.THROUGH
        moved = self._moved([made for made in decided if made.unproved], absent)
        for part in absent:
            if part.event_id in moved:
                came = Came.LATER
            else:
                _fail(part.turns, EventNotFound())
        writing: list[Decided] = []
        for made in decided:
            if made.uncertain or (made.unproved and made.part.event_id in moved):
                came = Came.LATER
            elif made.plan.entries:
                writing.append(made)
            else:
                self._answer(made)
        outcomes = self._write(writing) if writing else {}
        unstuck: list[Turn] = []
        for made in writing:
            part = made.part
            match outcomes.get(part.event_id):
                case Written() as written:
                    self._answer(made, written)
                case Locked(version, stuck):
                    concerned = part.about(stuck)
                    self._put_off(concerned or part.turns, STUCK if concerned else version)
                    if concerned:
                        unstuck += [turn for turn in part.turns if turn not in concerned]
                    came = Came.LATER
                case None:
                    self._doubt(part)
                    if not made.plan.supposed:
                        metrics.CONFLICTS.add()
                        came = Came.LATER
        if unstuck:
            self._serve(unstuck)
        return came

    def _moved(self, unproved: list[Decided], absent: list[Part]) -> set[str]:
        """Return the events, of parts that no write of their own proves, that are not as read.

        What is refused is proved by a version, too: where a standby is waited for, it was
        read again by a transaction that could commit. Where none is, nothing is.
        """
        unproved = [made for made in unproved if not made.plan.seen.durable]
        if not (unproved or absent):
            return set()
        seen: dict[str | UUID, int | None] = {part.event_id: None for part in absent}
        for made in unproved:
            seen.update(made.plan.read_versions.items())
            if not made.plan.supposed:
                seen[made.part.event_id] = made.plan.seen.version
        moved = self._store.moved(seen)
        return {part.event_id for part in absent if part.event_id in moved} | {
            made.part.event_id
            for made in unproved
            if not moved.isdisjoint((made.part.event_id, *made.plan.read_versions))
        }

    def _write(self, decided: list[Decided], atomic: bool = False) -> dict[str, Written | Locked]:
        """Write parts as one transaction; what each becomes is what Store.write tells."""
        batch_id = uuid4()
        sent = [Sent(each, batch_id) for each in decided]
        plans = [each.plan for each in decided]
        try:
            if plans[0].edited:  # alone
                return {plans[0].seen.event_id: self._store.edit(plans[0], batch_id)}
            return self._store.write(plans, batch_id, atomic)
        except ConnectionLost:
            metrics.LOST_ANSWERS.add(by=len(sent))
            for each in sent:
                each.lose()
            raise

    # --- All or none --------------------------------------------------------------

    def _attempt_all(self, turns: list[Turn], parts: list[Part]) -> Came:
        """Decide the turns of an atomic request in their order, and write all of them or none."""
        read = self._read(parts, [part.event_id for part in parts])
        ready, came = self._ready(parts, read)
        if not ready:
            return came
        plans = _together(parts, read)
        decisions = []
        for turn in turns:
            try:
                decisions.append(_decide(turn, plans.get(turn.event_id)))
            except Exception as bug:
                for waiting in turns:
                    waiting.answer(failure=bug)
                return Came.THROUGH
        decided = [
            Decided(part, plans[part.event_id], [d for d in decisions if d.turn in part.turns])
            for part in parts
            if part.event_id in plans
        ]
        refused = any(d.fact and not d.fact.done_before for d in decisions)
        if any(turn.memory.lost for turn in turns) and (
            refused or any(each.uncertain for each in decided)
        ):
            return Came.LATER  # what was sent may land yet
        absent = [part for part in parts if part.event_id not in plans]
        if self._moved(decided if refused else [d for d in decided if d.unproved], absent):
            return Came.LATER
        if refused:
            self._refuse_all(decisions, parts, read)
            return Came.THROUGH
        writing = [each for each in decided if each.plan.entries]
        outcomes = self._write(writing, atomic=True) if writing else {}
        for outcome in outcomes.values():
            if isinstance(outcome, Locked):
                self._put_off(turns, STUCK if outcome.stuck else outcome.seen_version)
        written = {id: found for id, found in outcomes.items() if isinstance(found, Written)}
        metrics.CONFLICTS.add(by=len(writing) - len(outcomes))
        if len(written) < len(writing):
            return Came.LATER
        for each in decided:
            each.answer(written.get(each.part.event_id))
        return Came.THROUGH

    def _ready(self, parts: list[Part], read: Reading) -> tuple[bool, Came]:
        """Tell whether parts can be decided on what was read; else what came of them."""
        overdue = read.overdue
        ready, came = True, Came.THROUGH
        for part in parts:
            event = read.events.get(part.event_id)
            if event is None:
                continue
            if event.unsettled or part.event_id in overdue:
                ready, came = False, max(came, self._settle(part, event))
            elif read.moved_on(event):
                ready, came = False, Came.LATER
        recovered = [self._recover(part) for part in parts] if ready else []
        return ready and not any(recovered), came

    def _refuse_all(self, decisions: list[Decision], parts: list[Part], read: Reading) -> None:
        """Answer an atomic request that is refused: nothing of it is made.

        What was done before is shown as it is: decided once more, without the others.
        """
        answers = []
        for decision in decisions:
            fact = decision.fact
            if fact is None or fact.done_before:
                plan = _together(parts, read)[decision.turn.event_id]
                decision = _decide(decision.turn, plan)
                # Refused alone, it could have been made for what those before it leave.
                refused = decision.fact is not None and not decision.fact.done_before
                if plan.entries or refused:
                    decision = Decision(decision.turn, fact=NotMade())
            elif event := read.events.get(decision.turn.event_id):
                # By an operation of this batch, which is not made.
                fact.date(NOW, event.read_at)
            answers.append(decision)
        for decision in answers:
            decision.turn.answer(decision.outcome, decision.fact)

    def _answer(self, decided: Decided, written: Written | None = None) -> None:
        decided.answer(written)
        # Where something was refused or repeated, the next is likely to be, too.
        if decided.refuses or decided.plan.repeated:
            self.doubtful.add(decided.part.event_id)
        else:
            self.doubtful.discard(decided.part.event_id)

    def _doubt(self, part: Part) -> None:
        """Let the turns of a part, and who joins them, be decided on the event as it is read."""
        self.doubtful.add(part.event_id)
        for turn in part.turns:
            turn.memory.disproved = True

    def _settle(self, part: Part, event: Event) -> Came:
        """Enter the ends of the event's holds in the ledger, for the next batch."""
        due, at = self._store.read_due(event.event_id)
        read = Reading({event.event_id: event}, due + self._sources(due), at)
        if not due or read.moved_on(event):
            return Came.LATER  # somebody else does it
        plan = read.plan(event.event_id)
        plan.settles = True
        for each in due:
            Expire(each.reservation_id).apply(plan)
        if isinstance(self._store.write([plan], uuid4()).get(event.event_id), Written):
            _count(plan)
            return Came.THROUGH
        self._put_off(part.turns, event.version)
        return Came.LATER

    def _put_off(self, turns: list[Turn], version: int) -> None:
        """Let turns wait for whoever has the rows, unless it stands still at a version."""
        metrics.SKIPPED_ROWS.add()
        now = time.monotonic()
        for turn in turns:
            locked = turn.memory.locked
            if locked is None or locked[0] != version:
                turn.memory.locked = version, now
            elif now - locked[1] > limits.LOCK_PATIENCE:
                _fail([turn], Unavailable())


def _count(plan: Plan) -> None:
    """Count the changes of a plan that was written."""
    for entry in plan.entries:
        metrics.CHANGES.add(entry.type)


def _parts(turns: Iterable[Turn]) -> list[Part]:
    """Return a part for each event, in the order in which they first appear.

    A key that an earlier turn brings to another event is judged when that is written: such
    a turn, and whatever follows it to its event, is in no part and comes again. Only those of
    an atomic request know of each other's keys.
    """
    events: dict[str, list[Turn]] = {}
    brought: dict[Key, str] = {}
    waiting: set[str] = set()
    for turn in turns:
        id, key = turn.event_id, turn.change.key
        if key and brought.setdefault(key, id) != id and not turn.request.atomic:
            waiting.add(id)
        if id not in waiting:
            events.setdefault(id, []).append(turn)
    return [Part(event_id, turns) for event_id, turns in events.items()]


def _together(parts: list[Part], read: Reading) -> dict[str, Plan]:
    """Return a plan for each event that exists, which are all made or none: they share keys."""
    plans = {
        part.event_id: read.plan(part.event_id) for part in parts if part.event_id in read.events
    }
    shared = {key: r for plan in plans.values() for key, r in plan.keys.items()}
    for plan in plans.values():
        plan.atomic, plan.keys = True, shared
    return plans


def _decide(turn: Turn, plan: Plan | None) -> Decision:
    """Decide one change on a plan; without one there is no such event."""
    try:
        if plan is None:
            raise EventNotFound
        return Decision(turn, outcome=turn.change.apply(plan))
    except TicketBossError as fact:
        about = plan and turn.change.reads and plan.reservations.get(turn.change.reads)
        if about and not isinstance(fact, Elsewhere):
            fact.partner_id = about.partner_id
        return Decision(turn, fact=fact)


def _fail(turns: list[Turn], failure: TicketBossError) -> None:
    """Tell all the same, but for those that may have been written."""
    for turn in turns:
        if not turn.memory.lost:
            turn.answer(failure=failure)
