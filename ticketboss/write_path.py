"""The one door for everything that changes an event.

Everybody wants the same event at the same second. One transaction per request
would make the requests rivals: under SERIALIZABLE all but one of those that
meet on the event's row fail. So each process has at most one transaction in
flight per event. A request that arrives meanwhile waits in line; when the
transaction ends, one of those waiting takes the whole line with it into the
next. A lone request is a batch of one and goes at once: there is no background
thread, no timer, no added wait.

What is left are the rivals in other processes. The version check finds them;
the batch is then decided again on the event as they left it.
"""

import logging
import random
import threading
import time
from collections import deque
from uuid import uuid4

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
from ticketboss.store import Store, Written

log = logging.getLogger(__name__)


class Turn:
    """One request's place in the line: its change, and then its outcome."""

    __slots__ = ("change", "deadline", "leads", "outcome", "failure", "answered", "_bell")

    def __init__(self, change):
        self.change = change
        self.deadline = time.monotonic() + limits.REQUEST_DEADLINE
        self.leads = False
        self.outcome = self.failure = None
        self.answered = False
        # A lock of its own wakes this thread alone.
        self._bell = threading.Lock()
        self._bell.acquire()

    def joins(self, other: "Turn") -> bool:
        """Tell whether this and another change can be written together."""
        return not (self.change.alone or other.change.alone)

    def answer(self, outcome=None, failure: Exception | None = None) -> None:
        if not self.answered:
            self.outcome, self.failure, self.answered = outcome, failure, True

    def ring(self) -> None:
        """Wake the request: it is answered, or leads the next batch."""
        self._bell.release()

    def wait(self, seconds: float) -> bool:
        """Sleep until ring; tell whether it rang within `seconds`."""
        return self._bell.acquire(timeout=max(seconds, 0))

    def result(self):
        if self.failure is not None:
            raise self.failure
        return self.outcome


class Line:
    """Who waits for one event, while somebody is being served."""

    __slots__ = ("waiting", "suppose")

    def __init__(self):
        self.waiting: deque[Turn] = deque()
        # Whether the event was on sale, with seats for all, a moment ago.
        self.suppose = True


class WritePath:
    """Batches the changes of each event into serializable, version-checked transactions."""

    def __init__(self, store: Store):
        self._store = store
        self._lines: dict[str, Line] = {}
        self._mutex = threading.Lock()

    def submit(self, event_id: str, change):
        """Make a change and return its outcome; what it changed is durable by then.

        Raises what the change's `apply` raises, EventNotFound, Contention,
        Unavailable or Overloaded; then nothing was changed, except that after
        Unavailable a change whose connection broke may have been (an
        idempotency key settles that).
        """
        turn = Turn(change)
        with self._mutex:
            line = self._lines.get(event_id)
            if line is None:
                line = self._lines[event_id] = Line()
                turn.leads = True
            elif self._store.database.silent:
                # One thread finds out whether it still is; the others stay free.
                raise Unavailable
            else:
                line.waiting.append(turn)
        if turn.leads or self._wait(line, turn):
            self._lead(event_id, line, turn)
        return turn.result()

    def _wait(self, line: Line, turn: Turn) -> bool:
        """Wait to be answered, or to lead; tell which."""
        if turn.wait(turn.deadline - time.monotonic()):
            return turn.leads
        with self._mutex:
            if turn in line.waiting:
                line.waiting.remove(turn)
                turn.answer(failure=Contention())
                return False
        # Taken already: whoever leads is bound by the same deadlines.
        if turn.wait(2 * limits.DATABASE_PATIENCE):
            return turn.leads
        with self._mutex:
            if turn.leads:  # named, if not woken yet: nobody else will lead
                return True
        raise Unavailable

    def _lead(self, event_id: str, line: Line, turn: Turn) -> None:
        """Serve the line once, then hand it to the next in it."""
        with self._mutex:
            batch = [turn]
            while line.waiting and batch[-1].joins(line.waiting[0]):
                batch.append(line.waiting.popleft())
                if len(batch) == limits.BATCH_CHANGES:
                    break
        try:
            line.suppose = self._write(event_id, batch, line.suppose)
        finally:
            with self._mutex:
                if self._store.database.silent:
                    # What this batch has waited for in vain, nobody waits for again.
                    for waiting in line.waiting:
                        waiting.answer(failure=Unavailable())
                    batch += line.waiting
                    line.waiting.clear()
                successor = line.waiting.popleft() if line.waiting else None
                if successor is None:
                    del self._lines[event_id]
                else:
                    successor.leads = True
            for served in batch:
                # Whatever ended this thread's work, nobody waits for it in vain.
                served.answer(failure=TicketBossError())
                if served is not turn:
                    served.ring()
            # Last, so that it finds in line those whom the served make way for.
            if successor is not None:
                successor.ring()

    def _write(self, event_id: str, batch: list[Turn], suppose: bool) -> bool:
        """Answer every turn of the batch; tell whether the next may suppose the event."""
        try:
            return self._attempt(event_id, batch, suppose)
        except TicketBossError as failure:
            for turn in batch:
                turn.answer(failure=failure)
        except Rejected as rejection:
            if len(batch) > 1:
                # One of them is poisoned: let it fail alone.
                middle = len(batch) // 2
                self._write(event_id, batch[:middle], False)
                return self._write(event_id, batch[middle:], False)
            log.error("the database rejects a change: %s", rejection)
        return False

    def _attempt(self, event_id: str, batch: list[Turn], suppose: bool) -> bool:
        """Decide and write until the batch is written or its time is over.

        The first try may suppose that the event is on sale with seats for all,
        which the write proves. Otherwise the event is read, after the requests
        of the batch arrived, and the version check proves what was read.
        """
        store = self._store
        changes = [turn.change for turn in batch]
        deadline = max(turn.deadline for turn in batch)
        pause = limits.RETRY_FIRST
        suppose = suppose and all(
            change.supposes and change.if_match is ANY_VERSION for change in changes
        )
        lost: list[Sent] = []
        otherwise = Contention
        while True:
            try:
                # The event first: what changes after it the version check finds.
                event = None if suppose else store.read_event(event_id)
                reservations, read_at = store.read_for(changes)
                overdue = any(r.overdue and r.event_id == event_id for r in reservations)
                if suppose:
                    if overdue:
                        suppose = False
                        continue
                    plan = Plan.supposing(event_id, reservations, read_at)
                else:
                    if event is None:
                        raise EventNotFound
                    if event.unsettled or overdue:
                        store.settle(event)
                        if time.monotonic() < deadline:
                            continue
                        raise otherwise
                    plan = Plan(event, reservations, read_at or event.read_at)
                # After the event was read, so that one that lands later conflicts.
                for sent in lost:
                    if written := store.find_batch(sent.plan, sent.batch_id):
                        sent.answer(batch, written)
                        return True
                decisions = [_decide(change, plan) for change in changes]
                refuses = any(
                    refusal and not isinstance(refusal, Elsewhere) for _, refusal in decisions
                )
                if suppose and refuses:  # only what the write proves may be supposed
                    suppose = False
                    continue
                sent = Sent(plan, decisions)
                if plan.repeated:
                    # One stands for all: what is durable is so in the order of commits.
                    store.make_durable(next(iter(plan.repeated)))
                if not plan.entries:
                    if lost:
                        raise ConnectionLost  # it may land yet, so this may not be the answer
                    sent.answer(batch)
                    return not refuses
                try:
                    written = store.write(plan, sent.batch_id)
                except ConnectionLost:
                    lost.append(sent)
                    raise
                if written:
                    sent.answer(batch, written)
                    return True
                if suppose:
                    suppose = False
                    continue
            except Conflict:
                pass
            except ConnectionLost:
                otherwise = Unavailable
                deadline = min(deadline, store.database.deadline())
            except (Unavailable, Overloaded):
                if not lost:
                    raise
            except Rejected:
                if lost:  # which may have been written: not to be tried in parts
                    raise Unavailable from None
                raise
            if time.monotonic() >= deadline:
                raise otherwise
            time.sleep(random.uniform(0, pause))
            pause = min(2 * pause, limits.RETRY_LAST)


class Sent:
    """What was decided for a batch, and the id under which it is written."""

    def __init__(self, plan: Plan, decisions: list[tuple]):
        self.plan = plan
        self.batch_id = uuid4()
        self._decisions = decisions

    def answer(self, batch: list[Turn], written: Written | None = None) -> None:
        if written:
            self.plan.place(*written)
        for turn, (outcome, failure) in zip(batch, self._decisions, strict=True):
            if written and failure is not None:
                failure.date(NOW, written.at)
            turn.answer(outcome, failure)


def _decide(change, plan: Plan) -> tuple:
    """Return the outcome of a change, or the fact that refuses it."""
    try:
        return change.apply(plan), None
    except TicketBossError as fact:
        if reservation := plan.reservations.get(getattr(change, "reservation_id", None)):
            fact.partner_id = reservation.partner_id
        return None, fact
