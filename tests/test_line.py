"""The line alone, without a database: who waits, who leads, and until when."""

import threading

import pytest
from test_write_path import SECONDS, Submission, wait_until

from ticketboss.rules import limits
from ticketboss.rules.changes import Look
from ticketboss.rules.errors import Contention, Unavailable
from ticketboss.selling.line import Line, Request


class Server:
    """Serves batches when the test lets it, one permit for each; answers with the change."""

    def __init__(self):
        self.silent = False
        self.batches = []
        self._permits = threading.Semaphore(0)

    def serve(self, batch):
        self.batches.append(batch)
        assert self._permits.acquire(timeout=SECONDS)
        for turn in batch:
            turn.answer(turn.change)
        return False

    def let(self, batches: int = 1) -> None:
        for _ in range(batches):
            self._permits.release()


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def line(server):
    return Line(server)


def being_served(line, server, change=None) -> Submission:
    """Submit a change; return when it is in a batch, alone."""
    count = len(server.batches)
    submission = Submission(line, change or Look())
    wait_until(lambda: len(server.batches) > count)
    return submission


def test_whoever_comes_while_somebody_is_served_goes_into_the_next_batch(line, server):
    first = being_served(line, server)
    others = []
    for length in range(1, 4):
        others.append(Submission(line, Look()))
        wait_until(lambda length=length: line.length == length)
    server.let(2)
    assert [each.status for each in (first, *others)] == [200] * 4
    assert [len(batch) for batch in server.batches] == [1, 3]
    assert line.at_rest


def test_a_thread_that_is_told_late_that_it_leads_leads(line, server, monkeypatch):
    """Nobody else would: the line would stand still for good.

    Between being named and being woken lies an instant in which the whole
    process may be stopped, and the request's patience run out.
    """
    first = being_served(line, server)

    def wait_too_short(request, seconds):
        wait_until(lambda: request.leads)
        return False

    monkeypatch.setattr(Request, "wait", wait_too_short)
    late = Submission(line, Look())
    wait_until(lambda: line.length == 1)
    server.let(2)
    assert (first.status, late.status) == (200, 200)
    assert line.at_rest


def test_a_request_whose_time_is_over_in_line_is_told_and_leaves_the_line(
    line, server, monkeypatch
):
    first = being_served(line, server)
    monkeypatch.setattr(limits, "REQUEST_DEADLINE", 0.05)
    late = Submission(line, Look())
    assert isinstance(late.error, Contention)
    assert line.length == 0
    server.let()
    assert first.status == 200


def in_second_wait(line, server, monkeypatch) -> tuple[Submission, Submission]:
    """Return a request that leads the batch, and one in it whose time is over."""
    first = being_served(line, server)
    leader = Submission(line, Look())
    wait_until(lambda: line.length == 1)
    waits = []
    original = Request.wait

    def wait(request, seconds):
        waits.append(seconds)
        return original(request, seconds)

    monkeypatch.setattr(Request, "wait", wait)
    monkeypatch.setattr(limits, "REQUEST_DEADLINE", 0.5)
    late = Submission(line, Look())
    wait_until(lambda: line.length == 2)
    server.let()  # the first alone; the others are then in a batch
    assert first.status == 200
    wait_until(lambda: len(server.batches) == 2)
    wait_until(lambda: 2 * limits.DATABASE_PATIENCE in waits)
    return leader, late


def test_a_request_in_a_batch_is_answered_by_it_though_its_time_is_over(line, server, monkeypatch):
    monkeypatch.setattr(limits, "DATABASE_PATIENCE", SECONDS)
    leader, late = in_second_wait(line, server, monkeypatch)
    server.let()
    assert (leader.status, late.status) == (200, 200)


def test_a_request_waits_in_a_batch_no_longer_than_its_exchanges_may_take(
    line, server, monkeypatch
):
    monkeypatch.setattr(limits, "DATABASE_PATIENCE", 0.05)
    leader, late = in_second_wait(line, server, monkeypatch)
    assert isinstance(late.error, Unavailable)
    server.let()
    assert leader.status == 200
    assert line.at_rest


def test_when_the_database_falls_silent_only_who_may_have_been_written_waits_for_it(line, server):
    answers = server.serve

    def lose(batch):
        server.serve = answers
        wait_until(lambda: line.length == 1)
        batch[0].memory.lost.append("sent")
        server.silent = True
        return False

    server.serve = lose
    sent = Submission(line, Look())
    wait_until(lambda: server.serve is answers)
    waits = Submission(line, Look())
    assert isinstance(waits.error, Unavailable)
    wait_until(lambda: server.batches)
    server.let()
    assert sent.status == 200
    ((turn,),) = server.batches
    assert turn.since > turn.request.since  # it counts anew how long it was in line


def test_a_request_with_several_changes_is_woken_when_the_last_is_answered(line, server):
    changes = [Look() for _ in range(limits.BATCH_CHANGES + 1)]
    server.let(2)
    turns = line.submit_all([("event", change) for change in changes])
    assert [turn.result() for turn in turns] == changes
    assert [len(batch) for batch in server.batches] == [limits.BATCH_CHANGES, 1]
    assert line.at_rest


def test_a_thread_that_dies_while_it_leads_leaves_nothing_in_line(line, server):
    """Its other changes would be served for nobody, and it may be named once more."""
    changes = [("event", Look()) for _ in range(limits.BATCH_CHANGES + 1)]

    def die(batch):
        raise SystemExit

    server.serve = die
    with pytest.raises(SystemExit):
        line.submit_all(changes)
    assert line.at_rest


def test_while_the_database_is_silent_one_thread_finds_out_and_no_other_joins(line, server):
    first = being_served(line, server)
    server.silent = True
    with pytest.raises(Unavailable):
        line.submit("event", Look())
    server.let()
    assert first.status == 200
