"""The line of those who would change an event: who waits, who leads, until when.

Everybody wants the same event at the same second. One transaction per request
would make the requests rivals: under SERIALIZABLE all but one of those that
meet on the event's row fail. So each process has at most one transaction in
flight. A request that arrives meanwhile waits in line; when the transaction
ends, the first of those waiting takes the line, whatever their events, into
the next: it leads. A lone request is a batch of one and goes at once: there is
no background thread, no timer, no added wait.

Whoever has no answer when the transaction ends goes back in line, before those
of the same event. What a batch is and what becomes of it is not known here: see
ticketboss.selling.batch.
"""

import os
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ticketboss import metrics, waiting
from ticketboss.rules import limits
from ticketboss.rules.changes import Change
from ticketboss.rules.errors import Contention, TicketBossError, Unavailable

if TYPE_CHECKING:
    from ticketboss.selling.batch import Sent


class Turn:
    """One change's place in the line, and then what came of it."""

    __slots__ = (
        *("event_id", "change", "since", "deadline", "otherwise", "memory", "request"),
        "_result",
    )

    def __init__(self, request: "Request", event_id: str, change: Change):
        self.event_id = event_id
        self.change = change
        # Since when it has been in line, and until when it may be.
        self.since = request.since
        self.deadline = request.deadline
        # What it is told if it has no other answer by then.
        self.otherwise: type[TicketBossError] = Contention
        self.memory = Memory()
        self.request = request
        self._result: tuple[Any, BaseException | None] | None = None

    @property
    def alone(self) -> bool:
        """Whether it goes with no other request's."""
        return self.change.alone or self.request.atomic

    @property
    def answered(self) -> bool:
        return self._result is not None

    def answer(self, outcome: Any = None, failure: BaseException | None = None) -> None:
        """Give the change its answer, unless it has one, and wake its request after the last."""
        if self._result is None:
            self._result = outcome, failure  # at once: it may be giving up just now
            if self.request.answered:
                self.request.ring()

    def result(self) -> Any:
        """Return the outcome, or raise the failure, of a change that is answered."""
        assert self._result is not None
        outcome, failure = self._result
        if failure is not None:
            raise failure
        return outcome


class Memory:
    """What the batches that a turn was in have found; only the thread that leads touches it."""

    __slots__ = ("disproved", "locked", "lost")

    def __init__(self) -> None:
        # Whether its event was not as it was supposed.
        self.disproved = False
        # At which version somebody else had the event's row, and since when.
        self.locked: tuple[int, float] | None = None
        # What was sent of it, where the answer was lost.
        self.lost: list[Sent] = []


class Request:
    """A thread that waits until each of its turns is answered, and leads when it is named."""

    __slots__ = ("turns", "since", "deadline", "atomic", "leads", "_bell")

    def __init__(self, changes: Sequence[tuple[str, Change]], atomic: bool = False):
        # Whether all of its turns are made or none; they are then a batch of their own.
        self.atomic = atomic
        self.since = time.monotonic()
        self.deadline = self.since + limits.REQUEST_DEADLINE
        self.turns = [Turn(self, event_id, change) for event_id, change in changes]
        self.leads = False
        # A bell of its own wakes this thread alone, and may ring when nobody listens.
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()

    @property
    def answered(self) -> bool:
        # From the end: turns are answered about in their order.
        return all(turn.answered for turn in reversed(self.turns))

    def ring(self) -> None:
        """Wake the thread: all its turns are answered, or it leads."""
        self._bell.put(None)

    def wait(self, seconds: float) -> bool:
        """Sleep until ring; tell whether it rang within `seconds`."""
        waiting.here.step_aside()
        try:
            self._bell.get(timeout=max(seconds, 0))
        except queue.Empty:
            return False
        return True


class Server(Protocol):
    """What a line needs of what serves it."""

    def serve(self, batch: list[Turn]) -> bool:
        """Answer turns; tell whether those without an answer should wait a moment."""

    @property
    def silent(self) -> bool:
        """Whether the database left its last caller without an answer."""


class Line:
    """The one door: hands on changes, batch by batch, to what serves them."""

    def __init__(self, server: Server):
        self._server = server
        self._mutex = threading.Lock()
        # Who waits, and whether somebody leads: serves the line, one batch after the other.
        self._turns: deque[Turn] = deque()
        self._led = False
        # For how long at most the next leader pauses before it serves.
        self._pause = 0.0

    @property
    def length(self) -> int:
        """How many changes wait, without those that are being served."""
        return len(self._turns)

    @property
    def at_rest(self) -> bool:
        """Whether nobody waits and nobody is served."""
        return not (self._led or self._turns)

    @property
    def delayed(self) -> bool:
        """Whether the last batch left somebody who has to wait a moment for the next."""
        return self._pause > 0

    def submit(self, event_id: str, change: Change) -> Any:
        """Make a change and return its outcome; what it changed is durable by then.

        Raises what the change's `apply` raises, EventNotFound, Contention,
        Unavailable or Overloaded; then nothing was changed, except that after
        Unavailable a change that was sent may have been made (an idempotency key
        settles that).
        """
        (turn,) = self.submit_all([(event_id, change)])
        return turn.result()

    def submit_all(self, changes: Sequence[tuple[str, Change]], atomic: bool = False) -> list[Turn]:
        """Make changes in their order, each as if it came alone; return them answered.

        With `atomic`, make all of them or none: where one is refused, the others fail
        with NotMade, except what was done already.
        """
        request = Request(changes, atomic)
        with self._mutex:
            if not self._led:
                self._led = request.leads = True
            elif self._server.silent:
                # One thread finds out whether it still is; the others stay free.
                for turn in request.turns:
                    turn.answer(failure=Unavailable())
                return request.turns
            self._turns.extend(request.turns)
        while not request.answered:
            if request.leads:
                self._lead(request)
            else:
                self._wait(request)
        return request.turns

    def _wait(self, request: Request) -> None:
        """Wait to be answered or to lead; answer the turns where neither comes in time."""
        if request.wait(request.deadline - time.monotonic()):
            return
        with self._mutex:
            if request.leads:  # named, if not woken yet: nobody else will lead
                return
            for turn in self._withdraw(request):
                turn.answer(failure=turn.otherwise())
            if request.answered:
                return
        # It is in a batch, whose exchanges with the database are bounded, too.
        if request.wait(2 * limits.DATABASE_PATIENCE):
            return
        with self._mutex:
            if not request.leads:
                self._withdraw(request)
                for turn in request.turns:
                    turn.answer(failure=Unavailable())

    def _withdraw(self, request: Request) -> list[Turn]:
        """Take a request's turns out of the line; return those that were in it."""
        withdrawn = [turn for turn in self._turns if turn.request is request]
        for turn in withdrawn:
            self._turns.remove(turn)
        return withdrawn

    # --- Leading: for the one thread that serves the line -----------------------

    def _lead(self, request: Request) -> None:
        """Serve one batch, put back what could not be answered, and hand the line on."""
        if self._pause:
            time.sleep(random.uniform(0, self._pause))
        # Threads that are about to join the line run first: the fewer batches, the cheaper.
        waiting.here.step_aside()
        os.sched_yield()
        batch = self._take()
        now = time.monotonic()
        for turn in batch:
            metrics.LINE_SECONDS.observe(now - turn.since)
        request.leads = False
        delayed = False
        try:
            delayed = self._server.serve(batch)
        except BaseException:
            # Whatever ends this thread's work, nobody waits for it in vain.
            with self._mutex:
                batch += self._withdraw(request)
            for turn in batch:
                turn.answer(failure=TicketBossError())
            raise
        finally:
            pause = max(2 * self._pause, limits.RETRY_FIRST) if delayed else 0.0
            self._pause = min(pause, limits.RETRY_LAST)
            self._hand_on(request, batch)

    def _take(self) -> list[Turn]:
        """Take the next batch from the line."""
        line = self._turns
        with self._mutex:
            if line[0].request.atomic:
                return self._withdraw(line[0].request)
            batch = [line.popleft()]
            while line and len(batch) < limits.BATCH_CHANGES:
                if batch[-1].alone or line[0].alone:
                    break
                batch.append(line.popleft())
        return batch

    def _hand_on(self, request: Request, batch: list[Turn]) -> None:
        """Put those without an answer back in line, and let the first in it lead."""
        now = time.monotonic()
        silent = self._server.silent
        with self._mutex:
            left = [turn for turn in batch if not turn.answered]
            metrics.RETRIES.add(by=len(left))
            for turn in left:
                turn.since = now
            # Behind those of other events, which they must not hold up.
            events = {turn.event_id for turn in left}
            others = [turn for turn in self._turns if turn.event_id not in events]
            behind = [turn for turn in self._turns if turn.event_id in events]
            self._turns.clear()
            for turn in (*others, *left, *behind):
                if now >= turn.deadline:
                    turn.answer(failure=turn.otherwise())
                elif silent and not turn.memory.lost:
                    # What this batch has waited for in vain, nobody waits for again.
                    turn.answer(failure=Unavailable())
                if not turn.answered:
                    self._turns.append(turn)
            successor = None
            if self._turns:
                successor = self._turns[0].request
                successor.leads = True
            else:
                self._led, self._pause = False, 0.0
        # Last, so that it finds in line those whom the answered make way for.
        if successor is not None and successor is not request:
            successor.ring()
