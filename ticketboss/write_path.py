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
from datetime import datetime
from uuid import uuid4

from ticketboss import limits
from ticketboss.changes import Plan
from ticketboss.database import Conflict, ConnectionLost, Rejected
from ticketboss.errors import Contention, EventNotFound, TicketBossError, Unavailable
from ticketboss.model import Event
from ticketboss.store import Store

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

    __slots__ = ("waiting", "event")

    def __init__(self):
        self.waiting: deque[Turn] = deque()
        # The event as the last batch left it, for the next to be decided on;
        # the version check proves it. Gone with the line, so nothing piles up.
        self.event: Event | None = None


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
            else:
                line.waiting.append(turn)
        if turn.leads or self._wait(line, turn):
            self._lead(event_id, line, turn)
        return turn.result()

    def _wait(self, line: Line, turn: Turn) -> bool:
        """Wait to be answered, or to lead; tell which."""
        if not turn.wait(turn.deadline - time.monotonic()):
            with self._mutex:
                if turn in line.waiting:
                    line.waiting.remove(turn)
                    turn.answer(failure=Contention())
            # Taken already: whoever leads is bound by the same deadlines.
            if not turn.answered and not turn.wait(2 * limits.DATABASE_PATIENCE):
                raise Unavailable
        return turn.leads

    def _lead(self, event_id: str, line: Line, turn: Turn) -> None:
        """Serve the line once, then hand it to the next in it."""
        with self._mutex:
            batch = [turn]
            while line.waiting and len(batch) < limits.BATCH_CHANGES:
                batch.append(line.waiting.popleft())
        try:
            line.event = self._write(event_id, batch, line.event)
        except BaseException:
            line.event = None
            raise
        finally:
            with self._mutex:
                successor = line.waiting.popleft() if line.waiting else None
                if successor is None:
                    del self._lines[event_id]
                else:
                    successor.leads = True
            if successor is not None:
                successor.ring()
            for served in batch:
                # Whatever ended this thread's work, nobody waits for it in vain.
                served.answer(failure=TicketBossError())
                if served is not turn:
                    served.ring()

    def _write(self, event_id: str, batch: list[Turn], event: Event | None) -> Event | None:
        """Answer every turn of the batch; return the event as it is afterwards, if known."""
        try:
            return self._attempt(event_id, batch, event)
        except TicketBossError as failure:
            for turn in batch:
                turn.answer(failure=failure)
        except Rejected as rejection:
            if len(batch) > 1:
                # One of them is poisoned: let it fail alone.
                middle = len(batch) // 2
                self._write(event_id, batch[:middle], None)
                return self._write(event_id, batch[middle:], None)
            log.error("the database rejects a change: %s", rejection)
        return None

    def _attempt(self, event_id: str, batch: list[Turn], event: Event | None) -> Event | None:
        """Read, decide and write until the batch is written or its time is over.

        An event that is passed in is remembered: what is decided on it counts
        once the version check has proved it. A batch that writes nothing has no
        such check and is decided on an event read after its requests arrived.
        """
        store = self._store
        changes = [turn.change for turn in batch]
        deadline = min(turn.deadline for turn in batch)
        pause = limits.RETRY_FIRST
        current = False
        conflicts = 0
        lost: list[Sent] = []
        while True:
            try:
                if event is None:
                    event, current = store.read_event(event_id), True
                    if event is None:
                        raise EventNotFound
                for sent in lost:
                    written_at = store.find_batch(event_id, sent.plan.seen.version, sent.batch_id)
                    if written_at is not None:
                        sent.answer(batch, written_at)
                        return None
                reservations, read_at = store.read_for(changes)
                if event.unsettled or any(reservation.overdue for reservation in reservations):
                    event, current = store.settle(event), True
                    continue
                plan = Plan(event, reservations, read_at or event.read_at)
                sent = Sent(plan, [_decide(change, plan) for change in changes])
                if plan.repeated:
                    store.make_durable(plan.repeated)
                if not plan.entries:
                    if not current:
                        event = None
                        continue
                    if any(sent.plan.seen.version == event.version for sent in lost):
                        raise ConnectionLost  # it may land yet, so this may not be the answer
                    sent.answer(batch, event.read_at)
                    return event
                try:
                    written_at = store.write(plan, sent.batch_id)
                except ConnectionLost:
                    lost.append(sent)
                    raise
                if written_at is not None:
                    sent.answer(batch, written_at)
                    # Where there are rivals, what is remembered is soon wrong.
                    return None if conflicts else plan.event
                raise Conflict
            except Conflict:
                conflicts += 1
                event = None
            except ConnectionLost:
                event = None
                deadline = min(deadline, time.monotonic() + limits.DATABASE_PATIENCE)
            except Unavailable:
                if not lost:
                    raise
            if time.monotonic() >= deadline:
                raise Unavailable if lost else Contention
            time.sleep(random.uniform(0, pause))
            pause = min(2 * pause, limits.RETRY_LAST)


class Sent:
    """What was decided for a batch, and the id under which it is written."""

    def __init__(self, plan: Plan, decisions: list[tuple]):
        self.plan = plan
        self.batch_id = uuid4()
        self._decisions = decisions

    def answer(self, batch: list[Turn], at: datetime) -> None:
        self.plan.date(at)
        for turn, (outcome, failure) in zip(batch, self._decisions, strict=True):
            turn.answer(outcome, failure)


def _decide(change, plan: Plan) -> tuple:
    """Return the outcome of a change, or the fact that refuses it."""
    try:
        return change.apply(plan), None
    except TicketBossError as fact:
        return None, fact
