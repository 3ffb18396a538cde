"""Many changes at once through the one door: each alone, or all of them or none."""

import contextlib
import threading
import time

import past
import pytest
from serving import connect
from test_write_path import (
    EVENT,
    Failing,
    Submission,
    as_one_batch,
    conflicts,
    reserve,
    wait_until,
    write_path_on,
)

from ticketboss.data.database import ConnectionLost, Database
from ticketboss.data.store import Store
from ticketboss.rules import limits
from ticketboss.rules.changes import Cancel, Change, Confirm, Extend, IfMatch, Reduce
from ticketboss.rules.errors import TicketBossError

OTHERS = ("alpha", "beta")


@pytest.fixture(autouse=True)
def _others(store, write_path, verify):
    """Make two more events, of five seats each; afterwards every ledger gives every number."""
    for event_id in OTHERS:
        store.create_event(event_id, "Other", 5)
    yield
    assert write_path.at_rest
    status, output = verify()
    assert status == 0, output


@pytest.fixture
def available(sql):
    return lambda event_id: sql(
        "SELECT available_seats FROM events WHERE event_id = %s", [event_id]
    )[0][0]


def at(event_id: str, seats: int = 1, **more) -> tuple[str, Change]:
    return event_id, reserve(seats, event_id=event_id, **more)


def codes(turns) -> list[str]:
    """Return for every turn the code that refused it, or the status of its reservation."""
    found = []
    for turn in turns:
        try:
            found.append(turn.result().reservation.status)
        except TicketBossError as fact:
            found.append(fact.code)
    return found


def all_of(path, *changes):
    return path.submit_all(changes, atomic=True)


# --- Each alone ---------------------------------------------------------------------


def test_several_changes_of_one_request_are_decided_in_their_order_in_one_transaction(
    write_path, sql
):
    turns = write_path.submit_all([at("alpha", 4), at("alpha", 2), at("beta", 5), at("alpha", 1)])
    assert codes(turns) == ["confirmed", "sold_out", "confirmed", "confirmed"]
    assert sql("SELECT count(*) FROM ledger WHERE version > 0") == [(3,)]


# --- All or none ------------------------------------------------------------------


def test_all_of_a_package_are_made_in_one_transaction(write_path, sql, available):
    held = write_path.submit(*at("beta", 2, hold_seconds=60)).reservation.reservation_id
    turns = all_of(write_path, at("alpha", 3), at(EVENT, 10), ("beta", Confirm(held)))
    assert codes(turns) == ["confirmed"] * 3
    assert [turn.result().reservation.version for turn in turns] == [1, 1, 2]
    assert sql(
        "SELECT count(DISTINCT batch_id), count(*) FROM ledger"
        " WHERE type IN ('reserved', 'confirmed')"
    ) == [(1, 3)]
    assert (available("alpha"), available("beta"), available(EVENT)) == (2, 3, 490)


def test_of_a_package_that_is_refused_nothing_is_made_and_each_learns_why(write_path, sql):
    turns = all_of(write_path, at("alpha", 3), at("beta", 4), at("alpha", 3), at("beta", 1))
    assert codes(turns) == ["not_made", "not_made", "sold_out", "not_made"]
    with pytest.raises(TicketBossError) as refusal:
        turns[2].result()
    # What the operations before it would have left.
    assert refusal.value.members["available_seats"] == 2
    assert sql("SELECT count(*) FROM ledger WHERE version > 0") == [(0,)]


def test_what_only_the_operations_before_it_make_room_for_is_not_refused(write_path):
    """It could have been made with them: alone, with none of them made, it could not."""
    made = write_path.submit(*at("alpha", 5)).reservation.reservation_id
    held = write_path.submit(*at("beta", 2, hold_seconds=60)).reservation.reservation_id
    turns = all_of(
        write_path,
        ("alpha", Cancel(made)),
        at("alpha", 5),
        ("beta", Confirm(held)),
        ("beta", Extend(held, 90)),
        at("alpha", 1),
    )
    assert codes(turns) == ["not_made", "not_made", "not_made", "not_held", "sold_out"]


def test_an_event_that_does_not_exist_refuses_the_package(write_path, sql):
    assert codes(all_of(write_path, at("alpha"), at("none"))) == ["not_made", "event_not_found"]
    assert sql("SELECT count(*) FROM ledger WHERE version > 0") == [(0,)]


def test_conditions_of_a_package_are_judged_on_the_state_before_it(write_path):
    made = write_path.submit(*at("alpha", 3)).reservation.reservation_id
    first = IfMatch(frozenset({"1"}))
    turns = all_of(
        write_path,
        at("alpha", 1, if_match=first),
        ("alpha", Reduce(made, 2, if_match=first)),
        ("alpha", Cancel(made, if_match=first)),
        at("alpha", 5, if_match=first),
    )
    assert codes(turns) == ["not_made", "not_made", "not_made", "sold_out"]
    turns = all_of(write_path, at("alpha"), at("alpha", if_match=IfMatch(frozenset({"2"}))))
    assert codes(turns) == ["not_made", "precondition_failed"]
    with pytest.raises(TicketBossError) as refusal:
        turns[1].result()
    assert refusal.value.members["version"] == 1


def test_a_package_may_be_sent_again_whatever_became_of_its_answer(write_path, sql):
    made = write_path.submit(*at("beta", 5)).reservation.reservation_id

    def send():
        return all_of(
            write_path,
            at("alpha", 2, idempotency_key="a"),
            ("beta", Cancel(made)),
            at("beta", 5, idempotency_key="b"),
        )

    first, again = send(), send()
    assert codes(first) == ["confirmed", "cancelled", "confirmed"]
    assert codes(again) == ["confirmed", "already_cancelled", "confirmed"]
    assert [again[place].result().replayed for place in (0, 2)] == [True, True]
    assert sql("SELECT count(*) FROM ledger WHERE version > 0") == [(4,)]


def test_in_a_refused_package_what_was_done_before_is_shown_as_it_is(write_path):
    made = write_path.submit(*at("alpha", 2, idempotency_key="k")).reservation.reservation_id
    turns = all_of(
        write_path,
        ("alpha", Cancel(made)),
        at("alpha", 2, idempotency_key="k"),
        at("beta", 6),
        at("alpha", 1, idempotency_key="new"),
        at("alpha", 1, idempotency_key="new"),
    )
    assert codes(turns) == ["not_made", "confirmed", "sold_out", "not_made", "not_made"]


def test_a_key_that_two_operations_of_a_package_bring_for_two_events_refuses_it(write_path, sql):
    turns = all_of(write_path, at("alpha", idempotency_key="k"), at("beta", idempotency_key="k"))
    assert codes(turns) == ["not_made", "idempotency_key_reused"]
    assert sql("SELECT count(*) FROM ledger WHERE version > 0") == [(0,)]


def test_a_package_is_decided_again_where_a_rival_was_first_at_one_of_its_events(
    write_path, store, dsn
):
    """Between the reading and the writing; nothing of the first try is written."""
    rival = write_path_on(Store(Database(dsn, size=1)))
    original = store.write
    tries = []

    def write(plans, batch_id, atomic=False):
        if not tries:
            rival.submit(*at("beta", 1))
        tries.append(original(plans, batch_id, atomic))
        return tries[-1]

    store.write = write
    before = conflicts()
    try:
        turns = all_of(write_path, at("alpha", 5), at("beta", 4))
    finally:
        del store.write
    assert tries[0] == {}
    assert conflicts() == before + 2  # neither of its events was written
    assert [turn.result().reservation.version for turn in turns] == [1, 2]


def test_a_package_gets_the_seats_of_a_hold_that_has_ended(write_path, sql):
    all_of(write_path, at("alpha", 4, hold_seconds=60), at("alpha", 1))
    past.end_holds(sql)
    turns = all_of(write_path, at("alpha", 2), at("alpha", 2), at("beta", 1))
    assert [turn.result().reservation.version for turn in turns] == [4, 5, 1]


def test_a_package_that_is_refused_knows_of_a_hold_that_has_ended(write_path, sql):
    all_of(write_path, at("alpha", 5, hold_seconds=60))
    past.end_holds(sql)
    turns = all_of(write_path, at("nowhere", 1), at("alpha", 1))
    assert codes(turns) == ["event_not_found", "not_made"]


def test_a_package_waits_for_a_locked_event_and_is_then_refused_as_a_whole(
    write_path, dsn, available
):
    with contextlib.closing(connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN; SELECT FROM events WHERE event_id = 'beta' FOR UPDATE")
        started = time.monotonic()
        turns = all_of(write_path, at("alpha", 1), at("beta", 1))
        assert codes(turns) == ["unavailable"] * 2
        assert time.monotonic() - started < 2 * limits.LOCK_PATIENCE
        cursor.execute("ROLLBACK")
    assert available("alpha") == 5


def test_a_package_whose_reservation_stays_locked_is_refused_though_its_event_moves_on(
    write_path, dsn
):
    (turn,) = all_of(write_path, at("alpha", 1))
    cancel = Cancel(turn.result().reservation.reservation_id)
    rival = write_path_on(Store(Database(dsn, size=1)))
    ended = threading.Event()

    def sell():
        while not ended.wait(0.05):
            made = rival.submit(*at("alpha", 1)).reservation
            rival.submit("alpha", Cancel(made.reservation_id))

    with contextlib.closing(connect(dsn)) as connection, connection.cursor() as cursor:
        lock = "BEGIN; SELECT FROM reservations WHERE reservation_id = %s FOR UPDATE"
        cursor.execute(lock, [str(cancel.reservation_id)])
        selling = threading.Thread(target=sell)
        selling.start()
        try:
            turns = all_of(write_path, ("alpha", cancel))
        finally:
            ended.set()
            selling.join()
        cursor.execute("ROLLBACK")
    assert codes(turns) == ["unavailable"]


def test_a_package_of_which_the_database_rejects_a_row_fails_as_a_whole(write_path, sql, available):
    sql("ALTER TABLE reservations ADD CONSTRAINT no_poison CHECK (partner_id <> 'poison')")
    try:
        poison = reserve(1, "poison", event_id="beta")
        turns = all_of(write_path, at("alpha", 1), ("beta", poison))
    finally:
        sql("ALTER TABLE reservations DROP CONSTRAINT no_poison")
    assert codes(turns) == ["internal_error"] * 2
    assert available("alpha") == 5


def test_a_bug_in_one_change_of_a_package_fails_all_of_it_and_says_so(write_path, available):
    for turn in all_of(write_path, at("alpha", 1), ("beta", Failing(ZeroDivisionError()))):
        with pytest.raises(ZeroDivisionError):
            turn.result()
    assert available("alpha") == 5
    assert all_of(write_path, at("alpha", 1))[0].result().reservation.version == 1


class Losing(Store):
    """A store whose first answer is lost, the write itself being made or not."""

    def __init__(self, database, makes):
        super().__init__(database)
        self.makes = makes
        self.lost = False

    def write(self, plans, batch_id, atomic=False):
        if not self.lost:
            self.lost = True
            if self.makes:
                super().write(plans, batch_id, atomic)
            raise ConnectionLost
        return super().write(plans, batch_id, atomic)


@pytest.mark.parametrize("makes", [False, True])
def test_a_package_whose_answer_is_lost_is_made_exactly_once(dsn, sql, makes):
    database = Database(dsn, size=2)
    turns = all_of(write_path_on(Losing(database, makes)), at("alpha", 3), at("beta", 3))
    assert codes(turns) == ["confirmed"] * 2
    assert sql("SELECT count(*), count(DISTINCT batch_id) FROM ledger WHERE version > 0") == [
        (2, 1)
    ]
    database.close()


def test_an_extension_whose_answer_is_lost_is_made_exactly_once(dsn, sql):
    database = Database(dsn, size=2)
    held = write_path_on(Store(database)).submit(*at("alpha", 1, hold_seconds=60)).reservation
    path = write_path_on(Losing(database, makes=True))
    extended = path.submit("alpha", Extend(held.reservation_id, 90)).reservation
    assert (extended.version, extended.status) == (2, "held")
    assert sql("SELECT count(*) FROM ledger WHERE type = 'extended'") == [(1,)]
    database.close()


def test_a_package_is_taken_alone_and_in_its_place(write_path, sql):
    requests = []
    package = threading.Thread(
        target=lambda: requests.append(all_of(write_path, at(EVENT, 1), at("alpha", 1)))
    )

    class Start(Change):
        """Lets the package join the line while its own batch is decided."""

        def apply(self, plan):
            package.start()
            wait_until(lambda: write_path.length >= 2)
            return plan.event

    first = Submission(write_path, Start())
    assert first.status == 200
    package.join()
    batch = as_one_batch(write_path, [reserve(1), reserve(1)])
    assert [request.status for request in batch] == [200, 200]
    assert codes(requests[0]) == ["confirmed"] * 2
