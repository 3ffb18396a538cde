"""The one door for everything that changes an event.

Everybody wants the same event at the same second. One transaction per request
would make the requests rivals: under SERIALIZABLE all but one of those that
meet on the event's row fail. So each process has at most one transaction in
flight. A request that arrives meanwhile waits in line; when the transaction
ends, the first of those waiting takes the line, whatever their events, into
the next: it leads. A lone request is a batch of one and goes at once: there is
no background thread, no timer, no added wait.

A batch is decided and written event by event: what is in the way of one event
holds up no other. Whoever has no answer when the transaction ends goes to the
head of the line again. What is left are the rivals in other processes. The
version check finds them, and the next batch decides again on the event as they
left it.
"""

import logging
import queue
import random
import threading
import time
from collections import deque
from uuid import UUID, uuid4

from ticketboss import limits
from ticketboss.changes import ANY_VERSION, NOW, Plan
from ticketboss.database import Conflict, ConnectionLost, Rejected
from ticketboss.errors import (
    Contention,
    Elsewhere,
    EventNotFound,
    Overloaded,
    TicketBossError,
    Unavailable,
)
from ticketboss.model import Event
from ticketboss.store import Locked, Store, Written

log = logging.getLogger(__name__)


class Turn:
    """One request's place in the line: its change, and then its outcome."""

    __slots__ = (
        "event_id",
        "change",
        "deadline",
        "otherwise",
        "lost",
        "leads",
        "outcome",
        "failure",
        "answered",
        "_bell",
    )

    def __init__(self, event_id: str, change):
        self.event_id = event_id
        self.change = change
        self.deadline = time.monotonic() + limits.REQUEST_DEADLINE
        # What it is told if it has no other answer by then.
        self.otherwise: type[TicketBossError] = Contention
        # The parts in which it was sent, where the answer was lost.
        self.lost: list[Part] = []
        self.leads = False
        self.outcome = self.failure = None
        self.answered = False
        # A bell of its own wakes this thread alone.
        self._bell = queue.SimpleQueue()

    def answer(self, outcome=None, failure: BaseException | None = None) -> None:
        if not self.answered:
            self.outcome, self.failure, self.answered = outcome, failure, True

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
        if self.failure is not None:
            raise self.failure
        return self.outcome


class Part:
    """The turns of a batch that are about one event, and what is decided for them."""

    def __init__(self, event_id: str):
        self.event_id = event_id
        self.turns: list[Turn] = []
        self.plan: Plan | None = None
        self.batch_id: UUID | None = None
        # Whether anything was refused that the event's own state decides.
        self.refuses = False
        self._decisions: list[tuple] = []

    @property
    def supposes(self) -> bool:
        """Whether all of it can be decided on an event that was not read."""
        return all(t.change.supposes and t.change.if_match is ANY_VERSION for t in self.turns)

    @property
    def lost(self) -> set["Part"]:
        """The parts in which turns of this one were sent before, and no answer came."""
        return {part for turn in self.turns for part in turn.lost}

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
                self.refuses = self.refuses or not isinstance(fact, Elsewhere)
                self._decisions.append((None, fact))
            except Exception as bug:
                # The plan may be half made: the others are decided again without this one.
                turn.answer(failure=bug)
                return False
        return True

    def fail(self, failure: TicketBossError) -> None:
        """Tell every turn the same, unless it may have been written."""
        for turn in self.turns:
            if not turn.lost:
                turn.answer(failure=failure)

    def answer(self, written: Written | None = None) -> None:
        """Tell every turn what was decided, where it was written."""
        if written:
            self.plan.place(*written)
        for turn, (outcome, fact) in zip(self.turns, self._decisions, strict=True):
            if written and fact is not None:
                fact.date(NOW, written.at)
            turn.answer(outcome, fact)


class Found:
    """What a batch found that the next one should know about the same events."""

    def __init__(self, before: "Found | None" = None):
        # Whether a rival was in the way.
        self.conflict = False
        # Events that are not as they were supposed.
        self.doubtful: set[str] = set()
        # Events whose row somebody else has: at which version, and since when.
        self.locked: dict[str, tuple[int, float]] = {}
        self._locked_before = before.locked if before else {}

    def lock(self, part: Part, version: int) -> None:
        """Let a part wait for whoever has its event's row, unless the event stands still."""
        self.conflict = True
        now = time.monotonic()
        seen_version, since = self._locked_before.get(part.event_id, (version, now))
        if seen_version != version:
            since = now
        self.locked[part.event_id] = version, since
        if now - since > limits.LOCK_PATIENCE:
            part.fail(Unavailable())


class WritePath:
    """Batches the changes of events into serializable, version-checked transactions."""

    def __init__(self, store: Store):
        self._store = store
        self._mutex = threading.Lock()
        # Who waits, and whether somebody leads: serves the line, one batch after the other.
        self._line: deque[Turn] = deque()
        self._led = False
        # For the leader alone: what the last batch found, and how long to pause, at most,
        # after the next conflict.
        self._found = Found()
        self._pause = limits.RETRY_FIRST

    def submit(self, event_id: str, change):
        """Make a change and return its outcome; what it changed is durable by then.

        Raises what the change's `apply` raises, EventNotFound, Contention,
        Unavailable or Overloaded; then nothing was changed, except that after
        Unavailable a change whose connection broke may have been (an
        idempotency key settles that).
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
        # It is in a batch, and whoever serves that is bound by the same deadlines.
        if turn.wait(2 * limits.DATABASE_PATIENCE):
            return
        with self._mutex:
            if not turn.leads:
                if turn in self._line:
                    self._line.remove(turn)
                turn.answer(failure=Unavailable())

    def _lead(self, turn: Turn) -> None:
        """Serve one batch, put back what could not be answered, and hand the line on."""
        batch = self._take()
        turn.leads = False
        conflict = False
        try:
            conflict = self._serve(batch)
        except BaseException:
            # Whatever ends this thread's work, nobody waits for it in vain.
            for served in batch:
                served.answer(failure=TicketBossError())
            raise
        finally:
            if conflict:
                time.sleep(random.uniform(0, self._pause))
                self._pause = min(2 * self._pause, limits.RETRY_LAST)
            else:
                self._pause = limits.RETRY_FIRST
            self._hand_on(turn, batch)

    def _take(self) -> list[Turn]:
        """Take the next batch from the line."""
        line = self._line
        with self._mutex:
            batch = [line.popleft()]
            while line and len(batch) < limits.BATCH_CHANGES:
                if batch[-1].change.alone or line[0].change.alone:
                    break
                batch.append(line.popleft())
        return batch

    def _hand_on(self, turn: Turn, batch: list[Turn]) -> None:
        """Let those who are answered go, and the first of the others lead."""
        now = time.monotonic()
        with self._mutex:
            silent = self._store.database.silent
            line, self._line = [*batch, *self._line], deque()
            for each in line:
                if now >= each.deadline:
                    each.answer(failure=each.otherwise())
                elif silent and not each.lost:
                    # What this batch has waited for in vain, nobody waits for again.
                    each.answer(failure=Unavailable())
                if not each.answered:
                    self._line.append(each)
            successor = self._line[0] if self._line else None
            if successor is not None:
                successor.leads = True
            else:
                self._led, self._found = False, Found()
        for each in line:
            if each.answered and each is not turn:
                each.ring()
        # Last, so that it finds in line those whom the answered make way for.
        if successor is not None and successor is not turn:
            successor.ring()

    def _serve(self, batch: list[Turn]) -> bool:
        """Try once to answer a batch; tell whether a rival was in the way, or a failure.

        Whoever has no answer then is in the next batch again.
        """
        try:
            return self._attempt(batch)
        except Conflict:
            return True
        except ConnectionLost:
            deadline = self._store.database.deadline()
            for turn in batch:
                turn.otherwise, turn.deadline = Unavailable, min(turn.deadline, deadline)
            return True
        except (Unavailable, Overloaded) as failure:
            for turn in batch:
                if not turn.lost:
                    turn.answer(failure=failure)
            return True
        except Rejected as rejection:
            if lost := [turn for turn in batch if turn.lost]:
                # They may have been written: not to be tried in halves.
                for turn in lost:
                    turn.answer(failure=Unavailable())
                return True
            if len(batch) == 1:
                log.error("the database rejects a change: %s", rejection)
                batch[0].answer(failure=TicketBossError())
                return False
            # One of them is poisoned: let it fail alone.
            half = len(batch) // 2
            conflict = self._serve(batch[:half])
            if all(turn.answered for turn in batch[:half]):  # or they would lose their place
                conflict = self._serve(batch[half:])
            return conflict

    def _attempt(self, batch: list[Turn]) -> bool:
        """Decide a batch and write it, each event for itself; tell whether a rival was in the way.

        A part may suppose that its event is on sale with seats for all, which the
        write proves. Otherwise the event is read, after the requests arrived, and
        the version check proves what was read.
        """
        found = Found(self._found)
        parts: dict[str, Part] = {}
        for turn in batch:
            parts.setdefault(turn.event_id, Part(turn.event_id)).turns.append(turn)
        doubtful = self._found.doubtful
        unsure = [id for id, part in parts.items() if id in doubtful or not part.supposes]
        # The events first: what changes after them the version check finds.
        events = self._store.read_events(unsure) if unsure else {}
        reservations, read_at = self._store.read_for([t.change for t in batch], keys_of=unsure)
        overdue = {r.event_id for r in reservations if r.overdue}
        decided = []
        unsettled = []
        for event_id, part in parts.items():
            event = events.get(event_id)
            if event is not None:
                plan = Plan(event, reservations, read_at or event.read_at)
            elif event_id in unsure:
                part.fail(EventNotFound())
                continue
            else:
                plan = Plan.supposing(event_id, reservations, read_at)
            if event_id in overdue or (event and event.unsettled):
                found.doubtful.add(event_id)
                if event:
                    unsettled.append((part, event))
            elif not self._recover(part) and part.decide(plan):
                if part.refuses:
                    found.doubtful.add(event_id)
                if event or not part.refuses:  # only what the write proves may be supposed
                    decided.append(part)
        self._conclude(decided, found)
        for part, event in unsettled:
            self._settle(part, event, found)
        self._found = found
        return found.conflict

    def _recover(self, part: Part) -> bool:
        """Answer those of a part whose lost write is found to have been made.

        Called after the event was read, so that one that lands later conflicts.
        """
        for lost in part.lost:
            if written := self._store.find_batch(lost.plan, lost.batch_id):
                lost.answer(written)
                return True
        return False

    def _conclude(self, decided: list[Part], found: Found) -> None:
        """Answer what is decided: at once where nothing changes, else when it is written."""
        writing: list[Part] = []
        keys: set[tuple[str, str]] = set()
        if repeated := [id for part in decided for id in part.plan.repeated]:
            # One stands for all: what is durable is so in the order of commits.
            self._store.make_durable(repeated[0])
        for part in decided:
            if part.plan.entries:
                # A key that another event's part brings, too, is judged when that is written.
                if keys.isdisjoint(part.plan.new_keys):
                    keys |= part.plan.new_keys
                    writing.append(part)
            elif part.lost:  # it may land yet, so this may not be the answer
                found.conflict = True
            else:
                part.answer()
        outcomes = self._write(writing) if writing else {}
        for part in writing:
            match outcomes.get(part.event_id):
                case Written() as written:
                    part.answer(written)
                case Locked(version):
                    found.lock(part, version)
                case None:
                    found.doubtful.add(part.event_id)
                    found.conflict = found.conflict or not part.plan.supposed

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
                for turn in part.turns:
                    turn.lost.append(part)
            raise

    def _settle(self, part: Part, event: Event, found: Found) -> None:
        """Enter holds that have expired in the ledger; the next batch decides the part."""
        try:
            if not self._store.settle(event):
                found.lock(part, event.version)
        except (Unavailable, Overloaded) as failure:
            part.fail(failure)
