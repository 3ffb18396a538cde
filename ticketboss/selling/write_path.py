"""The one door for everything that changes an event.

Everybody wants the same event at the same second. One transaction per request
would make the requests rivals: under SERIALIZABLE all but one of those that
meet on the event's row fail. So each process has at most one transaction in
flight. A request that arrives meanwhile waits in line; when the transaction
ends, the first of those waiting takes the line, whatever their events, into
the next: it leads. A lone request is a batch of one and goes at once: there is
no background thread, no timer, no added wait.

A batch is decided and written event by event: what is in the way of one event
holds up no other. Whoever has no answer when the transaction ends goes back in
line, before those of the same event. What is left are the rivals in other
processes. The version check finds them, and the next batch decides again on the
event as they left it.
"""

import logging
import os
import queue
import random
import threading
import time
from collections import deque
from uuid import UUID, uuid4

from ticketboss.data.database import Conflict, ConnectionLost, Rejected
from ticketboss.data.store import KeyUsed, Locked, Store, Written
from ticketboss.rules import limits
from ticketboss.rules.changes import ANY_VERSION, NOW, Plan
from ticketboss.rules.errors import (
    Contention,
    Elsewhere,
    EventNotFound,
    Overloaded,
    TicketBossError,
    Unavailable,
)
from ticketboss.rules.model import Event

log = logging.getLogger(__name__)

# Stands for the version of an event whose reservation is locked: that may move on meanwhile.
STUCK = -1


class Turn:
    """One request's place in the line: its change, and then what came of it."""

    __slots__ = (
        "event_id",
        "change",
        "deadline",
        "otherwise",
        "locked",
        "lost",
        "leads",
        "_result",
        "_bell",
    )

    def __init__(self, event_id: str, change):
        self.event_id = event_id
        self.change = change
        self.deadline = time.monotonic() + limits.REQUEST_DEADLINE
        # What it is told if it has no other answer by then.
        self.otherwise: type[TicketBossError] = Contention
        # At which version somebody else had the event's row, and since when.
        self.locked: tuple[int, float] | None = None
        # The parts in which it was sent, where the answer was lost.
        self.lost: list[Part] = []
        self.leads = False
        self._result: tuple | None = None
        # A bell of its own wakes this thread alone, and may ring when nobody listens.
        self._bell = queue.SimpleQueue()

    @property
    def answered(self) -> bool:
        return self._result is not None

    def answer(self, outcome=None, failure: BaseException | None = None) -> None:
        """Give the request its answer, unless it has one, and wake it."""
        if self._result is None:
            self._result = outcome, failure  # at once: it may be giving up just now
            self.ring()

    def ring(self) -> None:
        """Wake the request: it is answered, or leads."""
        self._bell.put(None)

    def wait(self, seconds: float) -> bool:
        """Sleep until ring; tell whether it rang within `seconds`."""
        try:
            self._bell.get(timeout=max(seconds, 0))
        except queue.Empty:
            return False
        return True

    def result(self):
        outcome, failure = self._result
        if failure is not None:
            raise failure
        return outcome


class Part:
    """The turns of a batch that are about one event, and what is decided for them."""

    def __init__(self, event_id: str, turns: list[Turn]):
        self.event_id = event_id
        self.turns = turns
        self.plan: Plan | None = None
        self.batch_id: UUID | None = None
        # The parts in which turns of this one were sent before, and no answer came.
        self.lost = {part for turn in turns for part in turn.lost}
        # Whether anything was refused that the event's own state decides.
        self.refuses = False
        self._decisions: list[tuple] = []

    @property
    def supposes(self) -> bool:
        """Whether all of it can be decided on an event that was not read."""
        return all(t.change.supposes and t.change.if_match is ANY_VERSION for t in self.turns)

    def about(self, reservation_ids: frozenset[UUID]) -> list[Turn]:
        """Return the turns that would change one of some reservations."""
        return [
            turn
            for turn in self.turns
            if getattr(turn.change, "reservation_id", None) in reservation_ids
        ]

    @property
    def uncertain(self) -> bool:
        """Whether it refuses a turn, or writes nothing, that was sent before and may land yet."""
        return bool(self.lost) and any(
            turn.lost and (fact is not None or not self.plan.entries)
            for turn, (_, fact) in zip(self.turns, self._decisions, strict=True)
        )

    def decide(self, plan: Plan) -> bool:
        """Decide the changes in their order; tell whether that could be done for all of them."""
        self.plan = plan
        for turn in self.turns:
            try:
                self._decisions.append((turn.change.apply(plan), None))
            except TicketBossError as fact:
                changed = getattr(turn.change, "reservation_id", None)
                if reservation := plan.reservations.get(changed):
                    fact.partner_id = reservation.partner_id
                self._decisions.append((None, fact))
                if not isinstance(fact, Elsewhere):
                    self.refuses = True
                elif not turn.lost:  # whatever becomes of this event
                    turn.answer(failure=fact)
            except Exception as bug:
                # The plan may be half made: the others are decided again without this one.
                turn.answer(failure=bug)
                return False
        return True

    def lose(self) -> None:
        """Note with the turns that it would make that its answer was lost."""
        for turn, (_, fact) in zip(self.turns, self._decisions, strict=True):
            if fact is None:
                turn.lost.append(self)

    def answer(self, written: Written | None = None) -> None:
        """Tell every turn what was decided, dated by where it was written."""
        if written:
            self.plan.place(*written)
        for turn, (outcome, fact) in zip(self.turns, self._decisions, strict=True):
            if written and fact is not None:
                fact.date(NOW, written.at)
            turn.answer(outcome, fact)


class WritePath:
    """Batches the changes of events into serializable, version-checked transactions."""

    def __init__(self, store: Store):
        self._store = store
        self._mutex = threading.Lock()
        # Who waits, and whether somebody leads: serves the line, one batch after the other.
        self._line: deque[Turn] = deque()
        self._led = False
        # For the leader alone: the events that were not as supposed when they were last
        # served, before this batch and in it; how long to pause before the next; how many
        # in a row lost to rivals as a whole; and how many pieces of one the database did
        # not take in time.
        self._doubtful_before: set[str] = set()
        self._doubtful: set[str] = set()
        self._pause = 0.0
        self._conflicts = 0
        self._unavailable = 0

    def submit(self, event_id: str, change):
        """Make a change and return its outcome; what it changed is durable by then.

        Raises what the change's `apply` raises, EventNotFound, Contention,
        Unavailable or Overloaded; then nothing was changed, except that after
        Unavailable a change that was sent may have been made (an idempotency key
        settles that).
        """
        turn = Turn(event_id, change)
        with self._mutex:
            if not self._led:
                self._led = turn.leads = True
            elif self._store.database.silent:
                # One thread finds out whether it still is; the others stay free.
                raise Unavailable
            self._line.append(turn)
        while not turn.answered:
            if turn.leads:
                self._lead(turn)
            else:
                self._wait(turn)
        return turn.result()

    def _wait(self, turn: Turn) -> None:
        """Wait to be answered or to lead; answer the turn where neither comes in time."""
        if turn.wait(turn.deadline - time.monotonic()):
            return
        with self._mutex:
            if turn.leads:  # named, if not woken yet: nobody else will lead
                return
            if turn in self._line:
                self._line.remove(turn)
                turn.answer(failure=turn.otherwise())
                return
        # It is in a batch, whose exchanges with the database are bounded, too.
        if turn.wait(2 * limits.DATABASE_PATIENCE):
            return
        with self._mutex:
            if not turn.leads:
                if turn in self._line:
                    self._line.remove(turn)
                turn.answer(failure=Unavailable())

    # --- Leading: for the one thread that serves the line -----------------------

    def _lead(self, turn: Turn) -> None:
        """Serve one batch, put back what could not be answered, and hand the line on."""
        if self._pause:
            time.sleep(random.uniform(0, self._pause))
        # Threads that are about to join the line run first: the fewer batches, the cheaper.
        os.sched_yield()
        batch = self._take()
        turn.leads = False
        delayed = False
        try:
            delayed = self._serve(batch)
        except BaseException:
            # Whatever ends this thread's work, nobody waits for it in vain.
            for served in batch:
                served.answer(failure=TicketBossError())
            raise
        finally:
            pause = max(2 * self._pause, limits.RETRY_FIRST) if delayed else 0.0
            self._pause = min(pause, limits.RETRY_LAST)
            self._hand_on(turn, batch)

    def _take(self) -> list[Turn]:
        """Take the next batch from the line; what it leaves there stays in doubt."""
        line = self._line
        with self._mutex:
            batch = [line.popleft()]
            while line and len(batch) < limits.BATCH_CHANGES:
                if batch[-1].change.alone or line[0].change.alone:
                    break
                batch.append(line.popleft())
            left = {turn.event_id for turn in line} - {turn.event_id for turn in batch}
        self._doubtful_before, self._doubtful = self._doubtful, self._doubtful & left
        return batch

    def _hand_on(self, turn: Turn, batch: list[Turn]) -> None:
        """Put those without an answer back in line, and let the first in it lead."""
        now = time.monotonic()
        silent = self._store.database.silent
        with self._mutex:
            left = [each for each in batch if not each.answered]
            # Behind those of other events, which they must not hold up.
            events = {each.event_id for each in left}
            others = [each for each in self._line if each.event_id not in events]
            behind = [each for each in self._line if each.event_id in events]
            self._line.clear()
            for each in (*others, *left, *behind):
                if now >= each.deadline:
                    each.answer(failure=each.otherwise())
                elif silent and not each.lost:
                    # What this batch has waited for in vain, nobody waits for again.
                    each.answer(failure=Unavailable())
                if not each.answered:
                    self._line.append(each)
            if self._line:
                successor = self._line[0]
                successor.leads = True
            else:
                successor = None
                self._led, self._pause = False, 0.0
        # Last, so that it finds in line those whom the answered make way for.
        if successor is not None and successor is not turn:
            successor.ring()

    def _serve(self, batch: list[Turn]) -> bool:
        """Try to answer a batch, and where that fails as a whole, piece by piece.

        Whoever has no answer then comes again. Tell whether that should wait a
        moment: a rival was in the way, or the database.
        """
        turns = [turn for turn in batch if not turn.answered]
        if not turns:
            return False
        events = _by_event(turns)
        try:
            delayed = self._attempt(events)
        except KeyUsed:
            self._keep_in_mind(events)
            keyed = {event_id for event_id, part in events.items() if _brings_keys(part)}
            self._doubtful |= keyed
            return self._serve([turn for turn in turns if turn.event_id not in keyed])
        except Conflict:
            self._keep_in_mind(events)
            self._conflicts += 1
            if len(events) == 1 or self._conflicts <= limits.CONFLICTS_TOGETHER:
                return True
        except ConnectionLost:
            self._keep_in_mind(events)
            deadline = self._store.database.deadline()
            for turn in turns:
                turn.otherwise, turn.deadline = Unavailable, min(turn.deadline, deadline)
            return True
        except (Unavailable, Overloaded) as failure:
            if len(events) == 1 or self._store.database.silent or isinstance(failure, Overloaded):
                self._unavailable += 1
                _fail(turns, failure)
                return True
        except Rejected as rejection:
            if len(events) == 1:
                return self._without_the_poisoned(turns, rejection)
        else:
            self._conflicts = 0
            return delayed
        # What is wrong with one of the events is to fail no other.
        delayed = False
        self._unavailable = 0
        for piece in events.values():
            if self._unavailable >= limits.PIECES_UNAVAILABLE:
                _fail(piece, Unavailable())
            elif not self._store.database.silent:
                delayed = self._serve(piece) or delayed
        return delayed

    def _without_the_poisoned(self, turns: list[Turn], rejection: Rejected) -> bool:
        """Serve the turns of one event, one of which the database rejects: that fails alone."""
        if lost := [turn for turn in turns if turn.lost]:
            # They may have been written: not to be tried in halves.
            for turn in lost:
                turn.answer(failure=Unavailable())
            return True
        if len(turns) == 1:
            log.error("the database rejects a change: %s", rejection)
            turns[0].answer(failure=TicketBossError())
            return False
        half = len(turns) // 2
        delayed = self._serve(turns[:half])
        if all(turn.answered for turn in turns[:half]):  # or they would lose their place
            delayed = self._serve(turns[half:]) or delayed
        return delayed

    def _keep_in_mind(self, events: dict[str, list[Turn]]) -> None:
        """Doubt the events that could not be served, if they were doubtful before."""
        self._doubtful |= self._doubtful_before & events.keys()

    def _attempt(self, events: dict[str, list[Turn]]) -> bool:
        """Decide a batch and write it, each event for itself; tell whether a rival was in the way.

        A part may suppose that its event is on sale with seats for all, which the
        write proves. Otherwise the event is read, after the requests arrived, and
        the version check proves what was read.
        """
        parts = [Part(event_id, turns) for event_id, turns in events.items()]
        doubtful = self._doubtful_before
        unsure = [p.event_id for p in parts if p.event_id in doubtful or not p.supposes]
        # The events first: what changes after them the version check finds.
        read = self._store.read_events(unsure) if unsure else {}
        changes = [turn.change for part in parts for turn in part.turns]
        reservations, read_at = self._store.read_for(changes, keys_of=unsure)
        overdue = {r.event_id for r in reservations if r.overdue}
        decided = []
        unsettled = []
        for part in parts:
            event = read.get(part.event_id)
            if event is not None:
                plan = Plan(event, reservations, read_at or event.read_at)
            elif part.event_id in unsure:
                _fail(part.turns, EventNotFound())
                continue
            else:
                plan = Plan.supposing(part.event_id, reservations, read_at)
            if part.event_id in overdue or (event and event.unsettled):
                self._doubtful.add(part.event_id)
                if event:
                    unsettled.append((part, event))
            elif not self._recover(part) and part.decide(plan):
                if part.refuses or plan.repeated:
                    self._doubtful.add(part.event_id)
                if event or not part.refuses:  # only what the write proves may be supposed
                    decided.append(part)
        delayed = self._conclude(decided)
        for part, event in unsettled:
            delayed = self._settle(part, event) or delayed
        return delayed

    def _recover(self, part: Part) -> bool:
        """Answer those of a part whose lost write is found to have been made.

        Called after the event was read, so that one that lands later conflicts.
        """
        for lost in part.lost:
            if written := self._store.find_batch(lost.plan, lost.batch_id):
                lost.answer(written)
                return True
        return False

    def _conclude(self, decided: list[Part]) -> bool:
        """Answer what is decided: at once where nothing changes, else when it is written."""
        if repeated := [id for part in decided for id in part.plan.repeated]:
            # One stands for all: what is durable is so in the order of commits.
            self._store.make_durable(repeated[0])
        delayed = False
        writing: list[Part] = []
        keys: set[tuple[str, str]] = set()
        for part in decided:
            if part.uncertain:
                delayed = True
            elif not part.plan.entries:
                part.answer()
            # A key that another event's part brings, too, is judged when that is written.
            elif keys.isdisjoint(part.plan.new_keys):
                keys |= part.plan.new_keys
                writing.append(part)
        outcomes = self._write(writing) if writing else {}
        unstuck: list[Turn] = []
        for part in writing:
            match outcomes.get(part.event_id):
                case Written() as written:
                    part.answer(written)
                case Locked(version, stuck):
                    concerned = part.about(stuck)
                    self._put_off(concerned or part.turns, STUCK if concerned else version)
                    if concerned:
                        unstuck += [turn for turn in part.turns if turn not in concerned]
                    delayed = True
                case None:
                    self._doubtful.add(part.event_id)
                    delayed = delayed or not part.plan.supposed
        if unstuck:
            self._serve(unstuck)
        return delayed

    def _write(self, parts: list[Part]) -> dict[str, Written | Locked]:
        """Write parts as one transaction; what each becomes is what Store.write tells."""
        batch_id = uuid4()
        for part in parts:
            part.batch_id = batch_id
        plans = [part.plan for part in parts]
        try:
            if plans[0].edited:  # alone
                return {parts[0].event_id: self._store.edit(plans[0], batch_id)}
            return self._store.write(plans, batch_id)
        except ConnectionLost:
            for part in parts:
                part.lose()
            raise

    def _settle(self, part: Part, event: Event) -> bool:
        """Settle the event of a part, for the next batch; tell whether a rival was in the way."""
        if self._store.settle(event):
            return False
        self._put_off(part.turns, event.version)
        return True

    def _put_off(self, turns: list[Turn], version: int) -> None:
        """Let turns wait for whoever has the rows, unless it stands still at a version."""
        now = time.monotonic()
        for turn in turns:
            if turn.locked is None or turn.locked[0] != version:
                turn.locked = version, now
            elif now - turn.locked[1] > limits.LOCK_PATIENCE:
                _fail([turn], Unavailable())


def _by_event(turns: list[Turn]) -> dict[str, list[Turn]]:
    events: dict[str, list[Turn]] = {}
    for turn in turns:
        events.setdefault(turn.event_id, []).append(turn)
    return events


def _brings_keys(turns: list[Turn]) -> bool:
    return any(getattr(turn.change, "idempotency_key", None) for turn in turns)


def _fail(turns: list[Turn], failure: TicketBossError) -> None:
    """Tell all the same, but for those that may have been written."""
    for turn in turns:
        if not turn.lost:
            turn.answer(failure=failure)
