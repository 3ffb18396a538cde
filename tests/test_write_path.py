"""The one door for changes: order, truth and survival of a batch, on the real database."""

import contextlib
import threading
import time
from uuid import uuid4

import past
import psycopg2
import pytest
from serving import connect

from ticketboss import metrics
from ticketboss.data.database import Conflict, ConnectionLost, Database, Rejected
from ticketboss.data.store import Store, Written
from ticketboss.rules import limits
from ticketboss.rules.changes import (
    ANY_VERSION,
    Cancel,
    Confirm,
    Edit,
    IfMatch,
    Look,
    Outcome,
    Reduce,
    Reserve,
)
from ticketboss.rules.errors import (
    CancelledBefore,
    Contention,
    Overloaded,
    TicketBossError,
    Unavailable,
)
from ticketboss.rules.plan import Plan
from ticketboss.selling.batch import Batches
from ticketboss.selling.line import Line, Request

EVENT = "node-meetup-2025"
BODY = {"partnerId": "abc-corp", "seats": 1}
SECONDS = 10


class Pause(Look):
    """Changes nothing, but stops the thread that decides it, once, until the test goes on."""

    def __init__(self):
        self.reached = threading.Event()
        self.resumed = threading.Event()

    def apply(self, plan):
        self.reached.set()
        assert self.resumed.wait(SECONDS)
        return super().apply(plan)

    def wait_until_reached(self) -> None:
        assert self.reached.wait(SECONDS)


class PausingEdit(Edit):
    """An edit that waits for the test before it is made."""

    def __init__(self, fields: dict):
        super().__init__(fields)
        self.pause = Pause()

    def apply(self, plan):
        self.pause.apply(plan)
        return super().apply(plan)


class Failing(Look):
    """A change with a bug: deciding it raises what no change may raise."""

    def __init__(self, error: BaseException):
        self.error = error

    def apply(self, plan):
        raise self.error


class Submission(threading.Thread):
    """A request of its own thread: submits a change and keeps what comes of it."""

    def __init__(self, path: Line, change, event_id: str = EVENT):
        super().__init__(daemon=True)
        self._path, self._change, self._event_id = path, change, event_id
        self._result = self._error = None
        self.ended = 0.0  # on the monotonic clock
        self.start()

    def run(self):
        try:
            self._result = self._path.submit(self._event_id, self._change)
        except BaseException as error:
            self._error = error
        self.ended = time.monotonic()

    @property
    def status(self) -> int:
        """Wait for the end and return what HTTP would say; 200 for all that succeeds."""
        self.join(SECONDS)
        assert not self.is_alive(), "a request waits in vain"
        if self._error is None:
            return 200
        return getattr(self._error, "status", 500)

    @property
    def outcome(self) -> Outcome:
        assert self.status == 200, repr(self._error)
        return self._result

    @property
    def error(self) -> BaseException:
        assert self.status != 200
        return self._error


def reserve(seats: int = 1, partner: str = "abc-corp", event_id: str = EVENT, **more) -> Reserve:
    return Reserve(uuid4(), event_id, partner, seats, **more)


def wait_until(condition) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.002)


def queue_up(path: Line, changes, event_id: str = EVENT) -> list[Submission]:
    """Submit changes while somebody is being served, so that they arrive in this order."""
    submissions = []
    for change in changes:
        before = path.length
        submissions.append(Submission(path, change, event_id))
        wait_until(lambda before=before: path.length > before)
    return submissions


def as_one_batch(path: Line, changes) -> list[Submission]:
    """Let changes arrive in order and be served by one transaction; return them ended."""
    pause = Pause()
    first = Submission(path, pause)
    pause.wait_until_reached()
    submissions = queue_up(path, changes)
    pause.resumed.set()
    for submission in [first, *submissions]:
        assert submission.status
    return submissions


def conflicts() -> float:
    """Return how many conflicts this process has counted."""
    return metrics.CONFLICTS.family(metrics.slots.sums()).samples[0].value


def write_path_on(store: Store) -> Line:
    """Return a write path of its own, as another process would have it."""
    return Line(Batches(store))


@pytest.fixture
def seats(sql):
    """Give a function that sets how many seats the default event has, before any is sold."""
    return lambda number: past.create(
        sql,
        "UPDATE events SET initial_seats = %(n)s, total_seats = %(n)s, available_seats = %(n)s",
        {"n": number},
    )


@pytest.fixture
def available(sql):
    return lambda: sql("SELECT available_seats FROM events WHERE event_id = %s", [EVENT])[0][0]


@pytest.fixture
def rival(dsn):
    """Give a write path of its own, as another process would have it."""
    store = Store(Database(dsn, size=4))
    yield write_path_on(store)
    store.database.close()


@pytest.fixture
def row_lock(dsn):
    """Give a context in which nobody else can write a row, by default the default event's.

    It yields what lets the row go before its end, from any thread.
    """

    @contextlib.contextmanager
    def hold(event_id=EVENT, reservation_id=None):
        with contextlib.closing(connect(dsn)) as connection, connection.cursor() as cursor:
            cursor.execute("BEGIN")
            if reservation_id is None:
                cursor.execute("SELECT FROM events WHERE event_id = %s FOR UPDATE", [event_id])
            else:
                lock = "SELECT FROM reservations WHERE reservation_id = %s FOR UPDATE"
                cursor.execute(lock, [str(reservation_id)])
            one_at_a_time = threading.Lock()

            def release():
                with one_at_a_time:
                    cursor.execute("ROLLBACK")

            yield release
            release()

    return hold


@pytest.fixture
def blocked(dsn):
    """Give a function that returns the backends that wait for a lock."""
    with contextlib.closing(connect(dsn)) as connection, connection.cursor() as cursor:

        def pids() -> list[int]:
            cursor.execute("SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
            return [pid for (pid,) in cursor.fetchall()]

        yield pids


@pytest.fixture(autouse=True)
def _nothing_left_behind(write_path, verify):
    """After every test the ledger gives every number, and nobody is left in line."""
    yield
    assert write_path.at_rest
    status, output = verify()
    assert status == 0, output


# --- Order and truth ----------------------------------------------------------


def test_a_batch_is_decided_in_the_order_of_arrival(write_path, seats, sql):
    seats(5)
    batch = as_one_batch(write_path, [reserve(n) for n in (6, 3, 3, 2, 1)])
    assert [request.status for request in batch] == [409, 200, 409, 200, 409]
    assert [batch[i].error.members["available_seats"] for i in (0, 2, 4)] == [5, 2, 0]
    assert [batch[i].outcome.reservation.version for i in (1, 3)] == [1, 2]
    # It was one transaction.
    assert sql("SELECT count(*), count(DISTINCT batch_id) FROM ledger WHERE version > 0") == [
        (2, 1)
    ]


def test_requests_that_arrive_behind_a_write_go_into_the_next(write_path, dsn, seats, blocked, sql):
    seats(6)
    with slow_commit(dsn) as lock:
        lock.acquire()
        first = Submission(write_path, reserve(1))
        wait_until(blocked)
        behind = queue_up(write_path, [reserve(n) for n in (6, 3, 3, 2, 1)])
        lock.release()
    assert first.status == 200
    assert [request.status for request in behind] == [409, 200, 409, 200, 409]
    assert sql("SELECT count(DISTINCT batch_id) FROM ledger WHERE version > 0") == [(2,)]


def test_a_seat_given_back_earlier_in_a_batch_is_sold_later_in_it(write_path, seats, available):
    seats(2)
    made = write_path.submit(EVENT, reserve(2)).reservation.reservation_id
    batch = as_one_batch(write_path, [reserve(1), Cancel(made), reserve(2), Cancel(made)])
    assert [request.status for request in batch] == [409, 200, 200, 404]
    assert available() == 0


def test_a_line_longer_than_a_batch_is_served_in_order(write_path, seats, sql):
    number = limits.BATCH_CHANGES + 6
    seats(number - 1)
    requests = as_one_batch(write_path, [reserve(1) for _ in range(number)])
    assert [request.status for request in requests] == [200] * (number - 1) + [409]
    versions = [request.outcome.reservation.version for request in requests[:-1]]
    assert versions == list(range(1, number))
    assert sql("SELECT count(DISTINCT batch_id) FROM ledger WHERE version > 0") == [(2,)]


def test_a_change_is_acknowledged_only_when_its_commit_has_returned(write_path, dsn, sql, blocked):
    """A deferred trigger stops the transaction inside COMMIT, after all its statements."""
    request = None
    with slow_commit(dsn) as lock:
        lock.acquire()
        request = Submission(write_path, reserve(3))
        wait_until(blocked)
        assert request.is_alive()
        assert sql("SELECT count(*) FROM reservations") == [(0,)]
        lock.release()
        assert request.status == 200
        assert sql("SELECT count(*) FROM reservations") == [(1,)]


@pytest.mark.parametrize(
    ("state", "status", "written"),
    [("40001", 200, 1), ("40P01", 200, 1), ("23514", 500, 0), ("55P03", 503, 0)],
)
def test_a_failure_of_the_commit_itself_is_no_success(write_path, dsn, sql, state, status, written):
    with slow_commit(dsn, fails_once_with=state):
        assert Submission(write_path, reserve(3)).status == status
    assert sql("SELECT count(*) FROM reservations") == [(written,)]


def test_seats_given_back_while_a_refusal_is_remembered_are_sold(write_path, rival, seats):
    """What the last batch saw says sold out; the request came after a cancel elsewhere."""
    seats(1)
    made = rival.submit(EVENT, reserve(1)).reservation.reservation_id
    pause = Pause()
    first = Submission(write_path, pause)
    pause.wait_until_reached()  # the event has been read: no seat left
    rival.submit(EVENT, Cancel(made))
    (late,) = queue_up(write_path, [reserve(1)])
    pause.resumed.set()
    assert first.outcome.available_seats == 0
    assert late.status == 200


def test_a_rival_that_cancels_between_our_read_and_our_write_makes_us_decide_again(
    write_path, rival, seats, available
):
    seats(3)
    made = rival.submit(EVENT, reserve(2)).reservation.reservation_id
    gate, between = Pause(), Pause()
    first = Submission(write_path, gate)
    gate.wait_until_reached()
    batch = queue_up(write_path, [between, reserve(2), reserve(1)])
    gate.resumed.set()
    between.wait_until_reached()  # read: one seat left
    rival.submit(EVENT, Cancel(made))
    between.resumed.set()
    assert first.status == 200
    assert [request.status for request in batch] == [200, 200, 200]
    assert available() == 0


def test_a_rival_that_sells_between_our_read_and_our_write_is_seen(write_path, rival, seats):
    seats(2)
    gate, between = Pause(), Pause()
    Submission(write_path, gate)
    gate.wait_until_reached()
    batch = queue_up(write_path, [between, reserve(1), reserve(1)])
    gate.resumed.set()
    between.wait_until_reached()
    rival.submit(EVENT, reserve(1))
    between.resumed.set()
    assert [request.status for request in batch] == [200, 200, 409]


def test_a_conflict_is_counted_and_a_supposition_that_is_wrong_is_none(write_path, rival, seats):
    seats(3)
    before = conflicts()
    assert Submission(write_path, reserve(4)).status == 409
    assert conflicts() == before
    gate, between = Pause(), Pause()
    Submission(write_path, gate)
    gate.wait_until_reached()
    _, request = queue_up(write_path, [between, reserve(1)])
    gate.resumed.set()
    between.wait_until_reached()
    rival.submit(EVENT, reserve(1))
    between.resumed.set()
    assert request.status == 200
    assert conflicts() == before + 1


def test_a_rival_that_commits_while_our_write_finds_the_row_locked_is_seen(
    write_path, dsn, seats, blocked, rival, available
):
    """The write has passed its read and finds the row taken when the cancel commits."""
    seats(3)
    made = write_path.submit(EVENT, reserve(3)).reservation.reservation_id
    with slow_commit(dsn, table="ledger") as lock:
        lock.acquire()
        cancel = Submission(rival, Cancel(made))
        wait_until(lambda: len(blocked()) == 1)
        # Sold out is still true: the cancel has not happened before it commits.
        assert Submission(write_path, reserve(1)).status == 409
        other = Submission(write_path, Cancel(made))
        wait_until(lambda: write_path.delayed)  # it has found the row locked
        behind = [Submission(write_path, reserve(2)) for _ in range(2)]
        lock.release()
        statuses = [cancel.status, other.status]
    assert sorted(statuses) == [200, 404]
    assert sorted(request.status for request in behind) == [200, 409]
    assert available() == 1


def test_sales_that_open_while_a_batch_is_written_are_open_for_the_next(write_path, sql):
    """The batch before was decided on an event that was read before the opening."""
    past.create(sql, "UPDATE events SET sales_open_at = clock_timestamp() + interval '0.2 s'")
    change = PausingEdit({"name": "A"})
    first = Submission(write_path, change)
    change.pause.wait_until_reached()
    wait_until(lambda: sql("SELECT sales_open_at < clock_timestamp() FROM events") == [(True,)])
    edit, late = queue_up(write_path, [Edit({"name": "B"}), reserve(1)])
    change.pause.resumed.set()
    assert [first.status, edit.status] == [200, 200]
    assert late.status == 200, "sales were open when it arrived"


@pytest.mark.parametrize("condition", [ANY_VERSION, IfMatch(frozenset({0}))], ids=["any", "seen"])
def test_the_key_of_another_events_expired_hold_is_refused(write_path, store, sql, condition):
    """Settling this event cannot settle that hold: the request must not wait for it."""
    store.create_event("other", "Other", 9)
    hold = reserve(1, event_id="other", hold_seconds=60, idempotency_key="k")
    write_path.submit("other", hold)
    past.end_holds(sql)
    request = Submission(write_path, reserve(1, idempotency_key="k", if_match=condition))
    request.join(2)
    waits = request.is_alive()
    write_path.submit("other", Look())  # settles it, and so frees a request that spins
    assert request.status == 422
    assert not waits


def test_the_replay_of_a_hold_that_has_expired_says_so(client, sql):
    body = {**BODY, "holdSeconds": 60}
    keyed = {"Idempotency-Key": "k"}
    assert client.post("/api/v1/reservations", json=body, headers=keyed).status_code == 201
    past.end_holds(sql)
    again = client.post("/api/v1/reservations", json=body, headers=keyed)
    assert (again.status_code, again.json["status"]) == (201, "expired")
    assert client.get("/api/v1/reservations").json["availableSeats"] == 500


# --- Failures -----------------------------------------------------------------


@pytest.mark.parametrize("places", [{0}, {3}, {6}, {0, 6}, {2, 3}, set(range(7))])
def test_a_poisoned_request_fails_alone(write_path, sql, places, available, caplog):
    sql("ALTER TABLE reservations ADD CONSTRAINT no_poison CHECK (partner_id <> 'poison')")
    try:
        changes = [reserve(1, "poison" if i in places else "abc-corp") for i in range(7)]
        batch = as_one_batch(write_path, changes)
    finally:
        sql("ALTER TABLE reservations DROP CONSTRAINT no_poison")
    assert [r.status for r in batch] == [500 if i in places else 200 for i in range(7)]
    assert available() == 500 - (7 - len(places))
    assert "no_poison" in caplog.text


def test_a_poisoned_request_gets_a_500_over_http_and_the_next_works(client, sql):
    sql("ALTER TABLE reservations ADD CONSTRAINT no_poison CHECK (partner_id <> 'poison')")
    try:
        body = {"partnerId": "poison", "seats": 1}
        answer = client.post("/api/v1/reservations", json=body)
    finally:
        sql("ALTER TABLE reservations DROP CONSTRAINT no_poison")
    assert answer.status_code == 500
    assert answer.json["code"] == "internal_error"
    assert "poison" not in answer.text
    assert client.post("/api/v1/reservations", json=body).status_code == 201


@pytest.mark.parametrize("error", [RuntimeError("bug"), MemoryError()], ids=repr)
@pytest.mark.parametrize("place", [0, 3])
def test_a_change_with_a_bug_fails_alone(write_path, error, place, seats):
    seats(4)
    changes = [reserve(1) for _ in range(6)]
    changes[place] = Failing(error)
    batch = as_one_batch(write_path, changes)
    assert batch[place].error is error
    others = [request for request in batch if request is not batch[place]]
    assert [request.status for request in others] == [200] * 4 + [409]
    assert [request.outcome.reservation.version for request in others[:4]] == [1, 2, 3, 4]


@pytest.mark.parametrize("place", [0, 2])
def test_when_the_leading_thread_dies_every_waiter_gets_an_answer(write_path, place, sql):
    """The one that ends it leads its batch, or is decided by another that leads."""
    gate = Pause()
    first = Submission(write_path, gate)
    gate.wait_until_reached()
    changes = [reserve(1) for _ in range(limits.BATCH_CHANGES + 2)]
    changes[place] = Failing(SystemExit(1))
    requests = queue_up(write_path, changes)
    gate.resumed.set()
    assert first.status == 200
    statuses = [request.status for request in requests]
    # The batch of the failing one, and then the rest of the line.
    assert statuses == [500] * limits.BATCH_CHANGES + [200, 200]
    assert sql("SELECT count(*) FROM reservations") == [(2,)]
    assert write_path.submit(EVENT, reserve(1)).reservation.version == 3


def test_a_request_whose_time_is_over_in_line_is_told_and_leaves_the_line(write_path, monkeypatch):
    gate = Pause()
    first = Submission(write_path, gate)
    gate.wait_until_reached()
    monkeypatch.setattr(limits, "REQUEST_DEADLINE", 0.05)
    late = Submission(write_path, reserve(1))
    assert isinstance(late.error, Contention)
    assert write_path.length == 0
    monkeypatch.undo()
    (next_one,) = queue_up(write_path, [reserve(1)])
    gate.resumed.set()
    assert first.status == 200
    assert next_one.outcome.reservation.version == 1


@pytest.mark.parametrize("makes", ["reserve", "cancel"])
def test_a_write_whose_connection_is_terminated_is_made_exactly_once(
    write_path, dsn, blocked, sql, available, makes
):
    made = write_path.submit(EVENT, reserve(5)).reservation.reservation_id
    with slow_commit(dsn, table="ledger") as lock:
        lock.acquire()
        request = Submission(write_path, reserve(2) if makes == "reserve" else Cancel(made))
        wait_until(blocked)
        behind = queue_up(write_path, [reserve(1), Cancel(made)])
        (victim,) = blocked()
        sql("SELECT pg_terminate_backend(%s)", [victim])
        lock.release()
    assert request.status == 200
    assert [r.status for r in behind] == [200, 200 if makes == "reserve" else 404]
    assert available() == (497 if makes == "reserve" else 499)


def test_connections_that_died_in_the_pool_are_noticed_by_nobody(application, sql):
    store = application.extensions["ticketboss"]["store"]
    barrier = threading.Barrier(6)

    def use():
        barrier.wait()
        store.database.read("SELECT pg_sleep(0.1)")

    threads = [threading.Thread(target=use) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    killed = sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'ticketboss' AND pid <> pg_backend_pid()"
        " AND state = 'idle'"
    )
    assert len(killed) >= 6
    client = application.test_client()
    answers = [client.post("/api/v1/reservations", json=BODY) for _ in range(8)]
    assert [answer.status_code for answer in answers] == [201] * 8


def test_a_row_that_stays_locked_gives_503_in_time_and_nothing_is_written(
    client, row_lock, available
):
    with row_lock():
        started = time.monotonic()
        answer = client.post("/api/v1/reservations", json=BODY)
        assert time.monotonic() - started < 1
    assert (answer.status_code, answer.json["code"]) == (503, "unavailable")
    assert answer.headers["Retry-After"]
    assert available() == 500
    assert client.post("/api/v1/reservations", json=BODY).status_code == 201


def test_an_exhausted_pool_gives_503_in_time(client, application, store):
    pool = store.database.pool
    taken = [pool.take(time.monotonic()) for _ in range(pool.idle)]
    try:
        started = time.monotonic()
        answer = client.post("/api/v1/reservations", json=BODY)
        assert time.monotonic() - started < 1
    finally:
        for connection in taken:
            pool.give_back(connection)
    assert (answer.status_code, answer.json["code"]) == (503, "overloaded")
    assert answer.headers["Retry-After"]
    assert client.post("/api/v1/reservations", json=BODY).status_code == 201


def test_connections_are_lent_in_the_order_in_which_they_were_asked_for(dsn):
    """Those who come back for another do not overtake those who wait for their first."""
    pool = Database(dsn, size=1).pool
    order = []

    def use(name, times):
        for _ in range(times):
            connection = pool.take(time.monotonic() + SECONDS)
            order.append(name)
            pool.give_back(connection)

    connection = pool.take(time.monotonic())
    threads = []
    for number in range(4):
        threads.append(threading.Thread(target=use, args=(number, 2)))
        threads[-1].start()
        wait_until(lambda number=number: pool.waiting == number + 1)
    pool.give_back(connection)
    for thread in threads:
        thread.join()
    assert order[:4] == [0, 1, 2, 3]
    assert sorted(order[4:]) == [0, 1, 2, 3]
    taken = pool.take(time.monotonic())
    with pytest.raises(Overloaded):
        pool.take(time.monotonic() + 0.05)
    pool.give_back(taken)
    assert (pool.idle, pool.waiting) == (1, 0)


def test_the_pool_has_its_size_back_after_every_kind_of_failure(dsn):
    database = Database(dsn, size=2)
    failures = [
        ("SELECT pg_sleep(2)", Unavailable),
        ("SELECT 1 / 0", Rejected),
        ("SELECT pg_terminate_backend(pg_backend_pid())", ConnectionLost),
    ]
    for statement, failure in failures * 2:
        with pytest.raises(failure):
            database.write(statement, {})
    with pytest.raises(Rejected):
        database.write("SELECT %(text)s", {"text": "\0"})
    assert database.pool.idle == 2
    assert database.read("SELECT 1") == [(1,)]
    database.close()


def test_a_write_is_serializable_and_bounded_and_leaves_the_connection_as_it_was(dsn):
    database = Database(dsn, size=1)
    settings = "SELECT " + ", ".join(
        f"current_setting('{name}') AS {name}"
        for name in ("transaction_isolation", "lock_timeout", "statement_timeout")
    )
    assert database.write(settings, {}) == [("serializable", "200ms", "500ms")]
    connection = database.pool.take(time.monotonic())
    connection.deadline = time.monotonic() + SECONDS
    with connection.cursor() as cursor:
        cursor.execute(settings)
        assert cursor.fetchall() == [("read committed", "0", "0")]
    assert connection.get_transaction_status() == psycopg2.extensions.TRANSACTION_STATUS_IDLE
    database.pool.give_back(connection)
    database.close()


def test_a_connection_that_ended_while_idle_carries_no_write(dsn, sql):
    """Its loss would leave open what became of a write that was never sent."""
    database = Database(dsn, size=1)
    backend = database.read("SELECT pg_backend_pid()")[0]
    sql("SELECT pg_terminate_backend(%s)", backend)
    gone = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = %s)"
    wait_until(lambda: sql(gone, backend) == [(True,)])
    assert database.write("SELECT pg_backend_pid()", {})[0] != backend
    database.close()


def test_waiting_for_a_connection_is_no_silence_of_the_server(dsn):
    database = Database(dsn, size=1)
    slow = threading.Thread(target=database.read, args=("SELECT pg_sleep(0.45)",))
    slow.start()
    wait_until(lambda: not database.pool.idle)
    with pytest.raises(Overloaded):
        database.read("SELECT pg_sleep(0.3)")
    assert not database.silent
    slow.join()
    database.close()


def test_a_server_that_has_become_read_only_is_left_for_one_that_is_not(dsn, sql):
    """After a failover the old connections lead to a standby; new ones to the new primary."""
    sql("ALTER ROLE postgres SET default_transaction_read_only = on")
    try:
        database = Database(dsn, size=2)
        assert database.read("SHOW transaction_read_only") == [("on",)]
    finally:
        # The setting would refuse its own removal.
        sql("BEGIN READ WRITE; ALTER ROLE postgres RESET default_transaction_read_only; COMMIT")
    path = write_path_on(Store(database))
    assert path.submit(EVENT, reserve(1)).reservation.version == 1
    database.close()


def test_a_server_that_stays_read_only_gives_503_in_time(dsn, sql, available):
    database = Database(dsn + "&options=-c%20default_transaction_read_only%3Don", size=2)
    path = write_path_on(Store(database))
    started = time.monotonic()
    with pytest.raises(Unavailable):
        path.submit(EVENT, reserve(1))
    assert time.monotonic() - started < 1.5
    assert path.at_rest
    assert available() == 500
    database.close()


# --- Cost ---------------------------------------------------------------------


def test_no_state_is_left_of_events_that_were_used_once(write_path, sql):
    past.create(
        sql,
        "INSERT INTO events (event_id, name, initial_seats, total_seats, available_seats)"
        " SELECT 'event-' || n, 'Event', 9, 9, 9 FROM generate_series(1, 1000) AS n",
    )
    numbers = iter(range(1, 1001))

    def use():
        for number in numbers:
            event_id = f"event-{number}"
            write_path.submit(event_id, reserve(1, event_id=event_id))

    # Plain iterators may be shared between threads.
    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sql("SELECT count(*) FROM reservations") == [(1000,)]
    assert write_path.at_rest


def test_no_state_is_left_of_events_that_do_not_exist(write_path):
    for number in range(20):
        with pytest.raises(TicketBossError):
            write_path.submit(f"none-{number}", reserve(1, event_id=f"none-{number}"))
    assert write_path.at_rest


@pytest.mark.parametrize("key", [None, "order-1"])
def test_a_reservation_takes_one_exchange_with_the_database(write_path, statements, key):
    assert write_path.submit(EVENT, reserve(1, idempotency_key=key)).reservation.version == 1
    assert len(statements) == 1


def test_a_key_that_was_used_for_another_event_is_found_by_the_write(write_path, others, sql):
    """It is supposed to be new, like everything that is not read."""
    write_path.submit("beta", reserve(1, event_id="beta", idempotency_key="k"))
    requests = over_events(
        write_path,
        [
            *reserves(("alpha", 1)),
            *reserves(("gamma", 1), idempotency_key="k"),
            *reserves(("beta", 1), idempotency_key="k"),
            *reserves(("gamma", 2)),
        ],
    )
    assert [request.status for request in requests] == [200, 422, 200, 200]
    assert requests[2].outcome.replayed
    assert sql("SELECT count(*) FROM ledger WHERE version > 0") == [(3,)]


# --- Several events -----------------------------------------------------------

OTHERS = ("alpha", "beta", "gamma")


@pytest.fixture
def others(store):
    """Make three more events, of five seats each."""
    for event_id in OTHERS:
        store.create_event(event_id, "Other", 5)


def over_events(path: Line, changes: list[tuple]) -> list[Submission]:
    """Let changes of several events arrive in order and be served together; return them ended."""
    pause = Pause()
    first = Submission(path, pause)
    pause.wait_until_reached()
    submissions = [queue_up(path, [change], event_id)[0] for event_id, change in changes]
    pause.resumed.set()
    for submission in [first, *submissions]:
        assert submission.status
    return submissions


def reserves(*wanted: tuple[str, int], **more) -> list[tuple]:
    return [(event_id, reserve(n, event_id=event_id, **more)) for event_id, n in wanted]


def test_changes_of_several_events_are_one_transaction_each_decided_alone(write_path, others, sql):
    wanted = [("alpha", 5), ("beta", 3), ("alpha", 1), ("gamma", 2), ("beta", 3), ("beta", 2)]
    requests = over_events(write_path, reserves(*wanted))
    # Two batches: whether there are seats for all is supposed only where there were.
    assert [request.status for request in requests] == [200, 200, 409, 200, 409, 200]
    ledger = (
        "SELECT event_id, version, available_seats FROM ledger WHERE version > 0"
        " ORDER BY event_id, version"
    )
    assert sql(ledger) == [("alpha", 1, 0), ("beta", 1, 2), ("beta", 2, 0), ("gamma", 1, 3)]
    assert sql(
        "SELECT count(DISTINCT batch_id) FROM ledger WHERE version > 0 AND event_id <> 'gamma'"
    ) == [(1,)]
    assert requests[3].outcome.reservation.version == 1


def test_changes_of_every_kind_and_of_several_events_go_together(write_path, others, sql):
    ids = {}
    for event_id in OTHERS:
        change = reserve(3, event_id=event_id, hold_seconds=60)
        ids[event_id] = write_path.submit(event_id, change).reservation.reservation_id
    requests = over_events(
        write_path,
        [
            ("alpha", Cancel(ids["alpha"])),
            ("beta", Confirm(ids["beta"])),
            ("gamma", Reduce(ids["gamma"], 1)),
            ("alpha", reserve(5, event_id="alpha")),
            ("beta", reserve(2, event_id="beta")),
            ("none", reserve(2, event_id="none")),
            ("gamma", Cancel(ids["beta"])),
        ],
    )
    assert [request.status for request in requests] == [200, 200, 200, 200, 200, 404, 404]
    seats = "SELECT available_seats FROM events WHERE event_id = ANY (%s) ORDER BY event_id"
    assert sql(seats, [list(OTHERS)]) == [(0,), (0,), (4,)]
    last = "SELECT count(*), count(DISTINCT batch_id) FROM ledger WHERE version > 1"
    assert sql(last) == [(5, 1)]


def test_an_edit_among_changes_of_other_events_is_made_in_its_place(write_path, others, sql):
    edit = Edit({"total_seats": 2})
    requests = over_events(
        write_path,
        [
            *reserves(("alpha", 1)),
            ("beta", edit),
            *reserves(("beta", 3), ("alpha", 1), ("beta", 2)),
        ],
    )
    assert [request.status for request in requests] == [200, 200, 409, 200, 200]


def test_a_locked_event_holds_up_no_other(write_path, others, row_lock):
    """Neither those in its own batch nor those behind."""
    with row_lock("beta"):
        started = time.monotonic()
        stuck = Submission(write_path, reserve(1, event_id="beta"), "beta")
        wait_until(lambda: write_path.delayed)  # it has found the row locked
        for _ in range(5):
            for event_id in ("alpha", "gamma"):
                assert write_path.submit(event_id, reserve(1, event_id=event_id))
        assert stuck.is_alive()
        assert time.monotonic() - started < limits.LOCK_PATIENCE
    assert stuck.outcome.reservation.version == 1


def test_expired_holds_of_a_locked_event_hold_up_no_other(write_path, others, sql, row_lock):
    write_path.submit("beta", reserve(5, event_id="beta", hold_seconds=60))
    past.end_holds(sql)
    with row_lock("beta"):
        started = time.monotonic()
        look = Submission(write_path, Look(), "beta")
        stuck = Submission(write_path, reserve(1, event_id="beta"), "beta")
        wait_until(lambda: write_path.delayed)  # it has found the row locked
        for _ in range(5):
            assert write_path.submit("alpha", reserve(1, event_id="alpha"))
        assert look.is_alive()
        assert time.monotonic() - started < limits.LOCK_PATIENCE
        assert [look.status, stuck.status] == [503, 503]
        assert time.monotonic() - started < 1
    assert write_path.submit("beta", Look()).available_seats == 5


def test_an_edit_of_an_event_that_stays_locked_is_refused_in_time(write_path, others, row_lock):
    with row_lock("beta"):
        started = time.monotonic()
        edit = Submission(write_path, Edit({"name": "New"}), "beta")
        assert write_path.submit("alpha", reserve(1, event_id="alpha"))
        assert isinstance(edit.error, Unavailable)
        assert time.monotonic() - started < 1
    assert write_path.submit("beta", Edit({"name": "New"})).name == "New"


def test_an_event_that_stays_locked_is_refused_in_time_and_alone(write_path, others, row_lock):
    with row_lock("beta"):
        started = time.monotonic()
        requests = over_events(write_path, reserves(("alpha", 1), ("beta", 1), ("gamma", 1)))
        assert time.monotonic() - started < 1
    assert [request.status for request in requests] == [200, 503, 200]
    assert isinstance(requests[1].error, Unavailable)
    assert write_path.submit("beta", reserve(5, event_id="beta")).reservation.version == 1


TOUCH = """
    WITH touched AS (
        UPDATE events SET version = version + 1 WHERE event_id = 'gamma' RETURNING *
    )
    INSERT INTO ledger (event_id, version, type, seats, available_seats, at, batch_id)
    SELECT event_id, version, 'event_updated', total_seats, available_seats, now(),
           gen_random_uuid()
    FROM touched"""


def test_an_event_that_is_always_locked_but_moves_on_is_waited_for(
    write_path, dsn, others, blocked
):
    """Losing to others who sell is no reason to refuse, for as long as they do sell."""
    with contextlib.ExitStack() as stack:
        one, other = (
            stack.enter_context(contextlib.closing(connect(dsn))).cursor() for _ in range(2)
        )
        one.execute("BEGIN;" + TOUCH)
        request = Submission(write_path, reserve(1, event_id="gamma"), "gamma")
        for _ in range(5):
            # The next has the row as soon as this one commits: it is never free.
            waiting = threading.Thread(target=other.execute, args=("BEGIN;" + TOUCH,))
            waiting.start()
            wait_until(blocked)
            time.sleep(limits.LOCK_PATIENCE / 2)
            one.execute("COMMIT")
            waiting.join()
            one, other = other, one
        one.execute("COMMIT")
    assert request.status == 200


def test_one_key_for_two_events_at_once_is_used_for_the_first(write_path, others, sql):
    requests = over_events(
        write_path, reserves(("beta", 1), ("alpha", 1), ("beta", 1), idempotency_key="k")
    )
    assert [request.status for request in requests] == [200, 422, 200]
    assert requests[2].outcome.replayed
    assert sql("SELECT event_id FROM reservations") == [("beta",)]


def test_a_poisoned_request_fails_no_other_event(write_path, others, sql):
    sql("ALTER TABLE reservations ADD CONSTRAINT no_poison CHECK (partner_id <> 'poison')")
    try:
        poison = reserve(1, "poison", event_id="beta")
        requests = over_events(
            write_path,
            [*reserves(("alpha", 1)), ("beta", poison), *reserves(("beta", 1), ("gamma", 1))],
        )
    finally:
        sql("ALTER TABLE reservations DROP CONSTRAINT no_poison")
    assert [request.status for request in requests] == [200, 500, 200, 200]


def test_an_edit_of_a_locked_event_holds_up_no_other(write_path, others, row_lock):
    with row_lock("beta"):
        started = time.monotonic()
        requests = over_events(write_path, [("beta", Edit({"name": "B"})), *reserves(("alpha", 1))])
        assert [request.status for request in requests] == [503, 200]
        assert requests[1].ended - started < limits.LOCK_PATIENCE / 2


def test_more_who_wait_for_a_locked_event_than_go_into_a_batch_hold_up_no_other(
    write_path, others, row_lock
):
    wanted = [("beta", 1)] * limits.BATCH_CHANGES + [("alpha", 1)]
    with row_lock("beta"):
        started = time.monotonic()
        *stuck, other = over_events(write_path, reserves(*wanted))
        assert other.status == 200
        assert other.ended - started < limits.LOCK_PATIENCE / 2
    assert {request.status for request in stuck} == {503}


def test_whoever_is_answered_does_not_wait_for_the_settling_of_another_event(
    write_path, others, sql, dsn
):
    write_path.submit("beta", reserve(1, event_id="beta", hold_seconds=60))
    past.end_holds(sql)
    with contextlib.closing(connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN; SELECT FROM reservations FOR UPDATE")
        started = time.monotonic()
        look, other = over_events(write_path, [("beta", Look()), *reserves(("alpha", 1))])
        cursor.execute("ROLLBACK")
    assert [look.status, other.status] == [503, 200]
    assert other.ended - started < limits.LOCK_PATIENCE / 2


def test_an_event_that_always_conflicts_fails_no_other(write_path, others, sql):
    """A row that was written by hand has the number that the next change would get."""
    sql(
        "INSERT INTO ledger (event_id, version, type, seats, available_seats, at, batch_id)"
        " VALUES ('beta', 1, 'event_updated', 5, 5, now(), gen_random_uuid())"
    )
    started = time.monotonic()
    stuck = Submission(write_path, reserve(1, event_id="beta"), "beta")
    for _ in range(5):
        assert write_path.submit("alpha", reserve(1, event_id="alpha"))
    assert time.monotonic() - started < 1
    sql("DELETE FROM ledger WHERE event_id = 'beta' AND version = 1")
    assert stuck.status == 200


def test_a_reservation_that_is_locked_fails_no_other_event(write_path, others, dsn):
    made = write_path.submit("beta", reserve(2, event_id="beta")).reservation.reservation_id
    with contextlib.closing(connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN; SELECT FROM reservations FOR UPDATE")
        requests = over_events(
            write_path, [("beta", Cancel(made)), *reserves(("alpha", 1), ("gamma", 1))]
        )
        cursor.execute("ROLLBACK")
    assert [request.status for request in requests] == [503, 200, 200]


def test_a_replay_does_not_wait_for_who_changes_its_reservation(write_path, others, dsn):
    made = write_path.submit("beta", reserve(2, event_id="beta")).reservation.reservation_id
    with contextlib.closing(connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN; UPDATE reservations SET seats = 1")
        started = time.monotonic()
        requests = over_events(write_path, [("beta", Confirm(made)), *reserves(("alpha", 1))])
        assert time.monotonic() - started < limits.LOCK_PATIENCE
        cursor.execute("ROLLBACK")
    assert [request.status for request in requests] == [200, 200]


class Losing(Store):
    """A store whose first write is lost on its way; `deliver` lets it arrive."""

    def __init__(self, database, meanwhile=lambda: None):
        super().__init__(database)
        self._meanwhile = meanwhile
        self._lost = None

    def write(self, plans, batch_id, atomic=False):
        if self._lost is None:
            self._lost = plans, batch_id, atomic
            self._meanwhile()
            raise ConnectionLost
        return super().write(plans, batch_id, atomic)

    def deliver(self):
        return super().write(*self._lost)


def test_who_was_refused_is_not_reserved_by_a_write_that_lands_late(dsn, rival, seats, sql):
    """The seats are taken, and given back, while nobody knows what became of the write."""
    seats(2)
    made = []
    database = Database(dsn, size=4)
    store = Losing(database, lambda: made.append(rival.submit(EVENT, reserve(2)).reservation))
    path = write_path_on(store)
    first = Submission(path, reserve(2, "late"))
    wait_until(lambda: made)
    assert Submission(path, Cancel(made[0].reservation_id)).status in (200, 503)
    assert first.status == 503  # not 409: it may be reserved yet
    if sql("SELECT available_seats FROM events WHERE event_id = %s", [EVENT]) == [(0,)]:
        rival.submit(EVENT, Cancel(made[0].reservation_id))
    assert store.deliver()
    database.close()


def test_who_was_refused_is_not_reserved_because_somebody_else_is_poisoned(
    write_path, rival, others, sql
):
    """The batch goes in pieces then, but what is answered stays answered."""
    made = rival.submit("alpha", reserve(5, event_id="alpha")).reservation.reservation_id

    class Then(Look):
        def apply(self, plan):
            with contextlib.suppress(TicketBossError):
                rival.submit("alpha", Cancel(made))
            return super().apply(plan)

    sql("ALTER TABLE reservations ADD CONSTRAINT no_poison CHECK (partner_id <> 'poison')")
    try:
        requests = over_events(
            write_path,
            [
                ("alpha", Look()),
                *reserves(("alpha", 5)),
                ("gamma", Then()),
                ("beta", reserve(1, "poison", event_id="beta")),
            ],
        )
    finally:
        sql("ALTER TABLE reservations DROP CONSTRAINT no_poison")
    assert [request.status for request in requests] == [200, 409, 200, 500]
    assert sql("SELECT count(*) FROM reservations WHERE status = 'confirmed'") == [(0,)]


def test_poison_and_a_lost_connection_fail_nobody_else(dsn, others, sql):
    database = Database(dsn, size=4)
    path = write_path_on(Losing(database))
    sql("ALTER TABLE reservations ADD CONSTRAINT no_poison CHECK (partner_id <> 'poison')")
    try:
        poison = ("beta", reserve(1, "poison", event_id="beta"))
        requests = over_events(path, [*reserves(("alpha", 1), ("gamma", 1)), poison])
    finally:
        sql("ALTER TABLE reservations DROP CONSTRAINT no_poison")
    # Of the poisoned one nobody can say any more whether its first try was written.
    assert [request.status for request in requests] == [200, 200, 503]
    database.close()


@pytest.mark.parametrize("changed_again", [False, True])
def test_a_batch_that_changed_reservations_is_found(dsn, write_path, changed_again):
    """By a reservation that it changed, though a rival may have changed that again."""
    for change in (made := [reserve(3), reserve(3)]):
        write_path.submit(EVENT, change)
    store = Store(Database(dsn, size=1))
    found, _ = store.read_reservations([(each.reservation_id, None) for each in made], [])
    plan = Plan.supposing(EVENT, found)
    for each, seats in ((made[0], 2), (made[1], 2), (made[0], 1)):
        Reduce(each.reservation_id, seats).apply(plan)
    batch_id = uuid4()
    assert store.find_batch(plan, batch_id) is None
    written = store.write([plan], batch_id)[EVENT]
    if changed_again:
        for each in made:
            write_path.submit(EVENT, Cancel(each.reservation_id))
    assert store.find_batch(plan, batch_id) == written
    assert store.find_batch(plan, uuid4()) is None
    store.database.close()


@pytest.mark.parametrize("each", [2, 10])
def test_processes_that_write_different_events_do_not_conflict(dsn, sql, blocked, each):
    """Whatever the statistics say, and though the events' rows are neighbours."""
    events = [f"neighbour-{number:02}" for number in range(2 * each)]
    for event_id in events:
        Store(Database(dsn, size=1)).create_event(event_id, "Neighbour", 5)
    sql("ANALYZE events")
    stores = [Store(Database(dsn, size=1)) for _ in range(2)]
    outcomes = {}

    def write(store, event_ids):
        plans = [Plan.supposing(event_id) for event_id in event_ids]
        for event_id, plan in zip(event_ids, plans, strict=True):
            reserve(1, event_id=event_id, idempotency_key=event_id).apply(plan)
        outcomes.update(store.write(plans, uuid4()))

    with slow_update(dsn) as lock:
        lock.acquire()  # so that each has read what it reads before any writes
        threads = [
            threading.Thread(target=write, args=(store, events[start::2]))
            for start, store in enumerate(stores)
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(blocked()) == len(stores))
        lock.release()
        for thread in threads:
            thread.join()
    assert {type(outcomes.get(event_id)) for event_id in events} == {Written}
    for store in stores:
        store.database.close()


def test_an_overload_of_one_event_does_not_fail_another(dsn, others, row_lock):
    """Requests hold one connection, however many they are."""
    database = Database(dsn, size=2)
    path = write_path_on(Store(database))
    with row_lock():
        crowd = [Submission(path, reserve(1)) for _ in range(20)]
        wait_until(lambda: path.delayed)  # it has found the row locked
        assert Submission(path, reserve(1, event_id="alpha"), "alpha").status == 200
    assert [request.status for request in crowd] == [200] * 20
    database.close()


@pytest.mark.parametrize("released", [False, True])
def test_a_locked_reservation_holds_up_its_own_change_alone(write_path, others, row_lock, released):
    write_path.submit("alpha", locked := reserve(1, event_id="alpha"))
    with row_lock(reservation_id=locked.reservation_id) as release:
        cancel = ("alpha", Cancel(locked.reservation_id))
        started = time.monotonic()
        if released:
            threading.Timer(0.2, release).start()
        before = reserves(("alpha", 1), ("alpha", 1))
        after = reserves(("alpha", 1), ("beta", 1))
        first, second, stuck, third, other = over_events(write_path, [*before, cancel, *after])
        assert stuck.status == (200 if released else 503)
        assert [each.status for each in (first, second, third, other)] == [200] * 4
        for each in (first, second, third, other):
            assert each.ended < stuck.ended
        assert 0.2 < stuck.ended - started < 1
    assert [first.outcome.reservation.version, third.outcome.reservation.version] == [2, 4]


def test_a_locked_event_beside_a_change_of_a_reservation_waits(write_path, others, row_lock):
    write_path.submit("beta", taken := reserve(1, event_id="beta"))
    with row_lock("alpha"):
        cancel = ("beta", Cancel(taken.reservation_id))
        locked, cancelled = over_events(write_path, [*reserves(("alpha", 1)), cancel])
    assert (locked.status, cancelled.status) == (503, 200)


def test_a_locked_hold_that_has_expired_holds_up_no_other_event(write_path, others, row_lock, sql):
    held = reserve(1, event_id="alpha", hold_seconds=60)
    write_path.submit("alpha", held)
    past.end_holds(sql)
    with row_lock(reservation_id=held.reservation_id):
        stuck, other = over_events(write_path, reserves(("alpha", 1), ("beta", 1)))
        assert (stuck.status, other.status) == (503, 200)
        assert other.ended < stuck.ended - limits.LOCK_PATIENCE / 2
    assert write_path.submit("alpha", reserve(5, event_id="alpha")).reservation.seats == 5


def test_edits_of_other_events_do_not_keep_an_event_from_being_read(write_path, others, seats):
    """It is found not to be as supposed; before it is read comes an edit, which goes alone."""
    seats(0)
    ends = threading.Event()

    def edit(event_id: str) -> None:
        while not ends.is_set():
            write_path.submit(event_id, Edit({"name": "Other"}))

    editors = [threading.Thread(target=edit, args=(event_id,)) for event_id in OTHERS[:2]]
    for editor in editors:
        editor.start()
    started = time.monotonic()
    try:
        assert [Submission(write_path, reserve(1)).status for _ in range(3)] == [409] * 3
    finally:
        ends.set()
        for editor in editors:
            editor.join()
    assert time.monotonic() - started < limits.REQUEST_DEADLINE


@pytest.mark.parametrize("atomic", [False, True])
def test_nothing_is_refused_on_an_event_older_than_a_reservation_of_it(
    write_path, store, rival, seats, atomic
):
    """A rival cancels between the two readings: "cancelled" and "sold out" was never both so."""
    seats(2)
    made = write_path.submit(EVENT, reserve(2)).reservation.reservation_id
    original = store.read_reservations

    def read_later(*arguments):
        del store.read_reservations
        rival.submit(EVENT, Cancel(made))
        return original(*arguments)

    store.read_reservations = read_later
    changes = [Look(), Cancel(made), reserve(1)]
    _, cancel, sale = write_path.submit_all([(EVENT, change) for change in changes], atomic)
    with pytest.raises(CancelledBefore):
        cancel.result()
    assert sale.result().reservation.version == 3


def test_a_refusal_knows_whose_reservation_it_is_about_for_the_log(write_path, others):
    taken = reserve(1, "abc-corp", event_id="alpha")
    write_path.submit("alpha", taken)
    cancel = Cancel(taken.reservation_id)
    write_path.submit("alpha", cancel)
    again = Submission(write_path, cancel, "alpha").error
    elsewhere = Submission(write_path, cancel, "beta").error
    assert (again.partner_id, elsewhere.partner_id) == ("abc-corp", None)


def test_events_are_written_by_themselves_once_they_have_lost_together_too_often(dsn, others):
    class Contended(Store):
        tries: list[int] = []

        def write(self, plans, batch_id, atomic=False):
            self.tries.append(len(plans))
            if len(plans) > 1:
                raise Conflict
            return super().write(plans, batch_id, atomic)

    database = Database(dsn, size=4)
    requests = over_events(write_path_on(Contended(database)), reserves(("alpha", 1), ("beta", 1)))
    assert [request.status for request in requests] == [200, 200]
    assert Contended.tries == [2] * (limits.CONFLICTS_TOGETHER + 1) + [1, 1]
    database.close()


def test_all_of_a_batch_are_told_at_once_that_every_connection_is_in_use(dsn, others):
    class Full(Store):
        tries = 0

        def write(self, plans, batch_id, atomic=False):
            self.tries += 1
            raise Overloaded

    database = Database(dsn, size=4)
    store = Full(database)
    requests = over_events(write_path_on(store), reserves(*((id, 1) for id in OTHERS)))
    assert [type(request.error) for request in requests] == [Overloaded] * 3
    assert store.tries == 1
    database.close()


def test_a_replay_of_one_event_sends_no_other_back_in_line(write_path, store, others):
    used = reserve(1, event_id="alpha", idempotency_key="used")
    write_path.submit("alpha", used)
    again, plain = Request(
        [
            ("alpha", reserve(1, event_id="alpha", idempotency_key="used")),
            ("beta", reserve(1, event_id="beta")),
        ]
    ).turns
    Batches(store).serve([again, plain])
    assert (again.answered, plain.answered) == (False, True)
    assert plain.result().reservation.version == 1


def test_a_change_that_may_have_been_made_is_not_told_that_there_is_no_such_reservation(dsn):
    """It was sent, so it was there; that it is found no more does not say what became of it."""
    database = Database(dsn, size=4)
    store = Losing(database)
    made = write_path_on(Store(database)).submit(EVENT, reserve(1)).reservation.reservation_id
    batches = Batches(store)
    (turn,) = Request([(EVENT, Cancel(made))]).turns
    assert batches.serve([turn])
    store.read_reservations = lambda ids, keys: ([], None)
    batches.serve([turn])
    assert not turn.answered
    del store.read_reservations
    batches.serve([turn])
    assert turn.result().reservation.status == "cancelled"
    database.close()


def test_the_second_half_of_a_poisoned_batch_does_not_overtake_the_first(dsn, seats):
    seats(1)

    class Halving(Store):
        """Rejects what is more than one change, and loses the first single one to a rival."""

        def __init__(self, database):
            super().__init__(database)
            self.lost = False

        def write(self, plans, batch_id, atomic=False):
            if len(plans[0].entries) > 1:
                raise Rejected
            if not self.lost:
                self.lost = True
                raise Conflict
            return super().write(plans, batch_id, atomic)

    database = Database(dsn, size=4)
    batches = Batches(Halving(database))
    held = write_path_on(Store(database)).submit(EVENT, reserve(1, hold_seconds=60))
    place = held.reservation.reservation_id
    turns = Request([(EVENT, Confirm(place)), (EVENT, Cancel(place))]).turns
    assert batches.serve(turns)
    assert [turn.answered for turn in turns] == [False, False]
    while not all(turn.answered for turn in turns):
        batches.serve([turn for turn in turns if not turn.answered])
    assert [turn.result().reservation.version for turn in turns] == [2, 3]
    database.close()


def test_an_unknown_reservation_holds_up_no_lost_write(dsn, others, sql):
    """What is refused was not sent, and can be refused again."""
    database = Database(dsn, size=4)
    unknown = ("alpha", Cancel(uuid4()))
    requests = over_events(
        write_path_on(Losing(database)), [*reserves(("alpha", 1)), unknown, *reserves(("alpha", 2))]
    )
    assert [request.status for request in requests] == [200, 404, 200]
    assert sql("SELECT available_seats FROM events WHERE event_id = 'alpha'") == [(2,)]
    database.close()


def test_a_wrong_mark_ties_a_cancel_to_no_trouble_of_the_other_event(write_path, others, row_lock):
    write_path.submit("beta", mistaken := reserve(1, event_id="beta"))
    with row_lock("alpha"):
        wrong = ("alpha", Cancel(mistaken.reservation_id))
        waits, cancel = over_events(write_path, [*reserves(("alpha", 1)), wrong])
    assert (waits.status, cancel.status) == (503, 404)
    assert cancel.ended < waits.ended - limits.LOCK_PATIENCE / 2


class Piecemeal(Store):
    """A store that takes one event at a time, and takes its time for it."""

    def write(self, plans, batch_id, atomic=False):
        if len(plans) > 1:
            raise Unavailable
        time.sleep(0.25)
        return super().write(plans, batch_id, atomic)


def test_no_event_is_refused_because_others_were_slow(dsn, others):
    database = Database(dsn, size=4)
    wanted = reserves(*((event_id, 1) for event_id in OTHERS))
    requests = over_events(write_path_on(Piecemeal(database)), wanted)
    assert [request.status for request in requests] == [200] * len(OTHERS)
    database.close()


def test_a_locked_table_is_waited_for_once_whatever_the_events(dsn, sql):
    events = [f"event-{number}" for number in range(12)]
    database = Database(dsn, size=4)
    store = Store(database)
    for event_id in events:
        store.create_event(event_id, "Event", 5)
    with contextlib.closing(connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE reservations IN SHARE MODE")
        started = time.monotonic()
        wanted = [(event_id, 1) for event_id in events]
        requests = over_events(write_path_on(store), reserves(*wanted))
        assert {request.status for request in requests} == {503}
        assert max(request.ended for request in requests) - started < 1
        cursor.execute("ROLLBACK")
    database.close()


# --- Transactions that can be stopped -----------------------------------------

LOCK = 74207


class TransactionLock:
    """Stops every transaction, at one point, while it is held."""

    def __init__(self, cursor):
        self._cursor = cursor

    def acquire(self) -> None:
        self._cursor.execute("SELECT pg_advisory_lock(%s)", [LOCK])

    def release(self) -> None:
        self._cursor.execute("SELECT pg_advisory_unlock_all()")


@contextlib.contextmanager
def slow(dsn: str, trigger: str, failure: str = ""):
    """Let transactions wait for a lock where a trigger is run, or let them fail there."""
    with contextlib.closing(connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute("DROP SEQUENCE IF EXISTS passages")
        cursor.execute("CREATE SEQUENCE passages")  # no rollback takes its numbers back
        cursor.execute("GRANT USAGE ON SEQUENCE passages TO PUBLIC")
        cursor.execute(
            f"""CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN {failure} PERFORM pg_advisory_xact_lock_shared({LOCK}); RETURN NEW; END $$"""
        )
        cursor.execute(f"CREATE {trigger} FOR EACH ROW EXECUTE FUNCTION slow()")
        lock = TransactionLock(cursor)
        try:
            yield lock
        finally:
            lock.release()
            cursor.execute("DROP FUNCTION slow CASCADE")
            cursor.execute("DROP SEQUENCE passages")


def slow_update(dsn: str):
    """Let transactions wait before the first event that they change."""
    return slow(dsn, "TRIGGER slow BEFORE UPDATE ON events")


def slow_commit(dsn: str, table: str = "reservations", fails_once_with: str | None = None):
    """Let commits that inserted into a table wait, or the first of them fail.

    A deferred constraint trigger runs inside COMMIT, when all statements are done.
    """
    failure = f"""IF nextval('passages') = 1 THEN
        RAISE EXCEPTION USING ERRCODE = '{fails_once_with}'; END IF;"""
    return slow(
        dsn,
        f"CONSTRAINT TRIGGER slow AFTER INSERT ON {table} DEFERRABLE INITIALLY DEFERRED",
        failure if fails_once_with else "",
    )
