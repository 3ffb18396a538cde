"""Holds and their end: by itself, at its instant, on the database's clock (API.md, section 7)."""

import time
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import past
import proxy
import pytest
from serving import ADMIN
from test_conditions import eventually, one_batch

from ticketboss import create_app
from ticketboss.config import Config
from ticketboss.rules import limits
from ticketboss.rules.changes import Change, Confirm, Expire, Extend, Reduce, ReservationChange
from ticketboss.rules.plan import Plan
from ticketboss.web.reads import page

RESERVATIONS = "/api/v1/reservations"
EVENTS = "/api/v1/events"
EVENT = EVENTS + "/node-meetup-2025"
LIST, CHANGES = EVENT + "/reservations", EVENT + "/changes"


@pytest.fixture
def hold(client):
    def hold(seats=4, seconds=60, partner="abc-corp", **headers):
        body = {"partnerId": partner, "seats": seats, "holdSeconds": seconds}
        made = client.post(RESERVATIONS, json=body, headers=headers)
        assert made.status_code == 201
        return made

    return hold


@pytest.fixture
def expire(sql):
    """Move the end of a reservation, or of every hold, into the past."""

    def expire(place=None):
        which = f"reservation_id = '{place.rpartition('/')[2]}'" if place else "true"
        past.end_holds(sql, which, ago="1 second")

    return expire


def _insert_holds(sql, count):
    """Write holds of one seat each as the service would have, many at once."""
    past.create(
        sql,
        "UPDATE events SET initial_seats = %(count)s, total_seats = %(count)s,"
        " available_seats = 0, reservation_count = %(count)s, version = %(count)s",
        {"count": count},
    )
    sql(
        "WITH made AS (SELECT n, gen_random_uuid() AS id, now() - interval '1 s' AS ends"
        " FROM generate_series(1, %(count)s) n), entered AS ("
        " INSERT INTO ledger (event_id, version, type, reservation_id, partner_id, seats,"
        " available_seats, at, batch_id, expires_at)"
        " SELECT 'node-meetup-2025', n, 'held', id, 'abc-corp', 1, %(count)s - n,"
        " ends - interval '59 s', '00000000-0000-0000-0000-000000000000', ends FROM made)"
        " INSERT INTO reservations (event_id, created_version, reservation_id, partner_id, seats,"
        " status, version, created_at, expires_at, requested_seats, hold_seconds)"
        " SELECT 'node-meetup-2025', n, id, 'abc-corp', 1, 'held', n, ends - interval '59 s',"
        " ends, 1, 59 FROM made",
        {"count": count},
    )
    sql(past.SEAL)


# --- A hold's life ------------------------------------------------------------------


def test_a_hold_takes_seats_and_says_when_it_ends(client, hold, sql, verify):
    made = hold(4, 60)
    assert (made.json["status"], made.json["seats"], made.json["version"]) == ("held", 4, 1)
    assert "confirmedAt" not in made.json
    assert sql("SELECT expires_at - created_at = interval '60 seconds' FROM reservations") == [
        (True,)
    ]
    assert client.get(made.location).json == made.json
    summary = client.get(RESERVATIONS).json
    assert (summary["availableSeats"], summary["reservedSeats"]) == (496, 4)
    assert summary["reservationCount"] == 1
    assert verify()[0] == 0


@pytest.mark.parametrize("seconds", [1, 3600])
def test_a_hold_lasts_from_one_second_to_an_hour(hold, seconds):
    assert hold(seconds=seconds).json["status"] == "held"


@pytest.mark.parametrize("seconds", [0, -1, 3601, 1.5, "60", True, None, [60]], ids=repr)
def test_a_wrong_length_of_a_hold_is_refused(client, hold, seconds):
    body = {"partnerId": "abc-corp", "seats": 1, "holdSeconds": seconds}
    extension = hold().location + "/extend"
    for refused in (
        client.post(RESERVATIONS, json=body),
        client.post(extension, json={"holdSeconds": seconds}),
    ):
        assert (refused.status_code, list(refused.json["fields"])) == (400, ["holdSeconds"])
        assert "holdSeconds" in refused.json["error"]
    assert client.get(RESERVATIONS).json["version"] == 1


def test_confirming_is_safe_to_retry(client, hold, verify):
    place = hold().location
    confirmed = client.post(place + "/confirm")
    assert confirmed.status_code == 200
    assert (confirmed.json["status"], confirmed.json["version"]) == ("confirmed", 2)
    assert confirmed.json["confirmedAt"] >= confirmed.json["createdAt"]
    assert "expiresAt" not in confirmed.json
    for again in (client.post(place + "/confirm"), client.post(place + "/confirm", json={})):
        assert (again.status_code, again.data) == (200, confirmed.data)
        assert again.headers["ETag"] == '"2"'
    assert client.get(place).json == confirmed.json
    assert client.get(RESERVATIONS).json["version"] == 2
    assert verify()[0] == 0


def test_many_confirms_of_one_hold_at_once_are_one_change(server, hold, verify):
    place = hold().location
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: server.client().post(place + "/confirm"), range(12)))
    assert {(answer.status, answer.body) for answer in answers} == {(200, answers[0].body)}
    assert verify() == (0, "node-meetup-2025: 2 changes, ok\n")


def test_confirms_in_one_batch_get_the_same_answer(application, write_path, hold, verify):
    place = hold().location

    def confirm():
        return application.test_client().post(place + "/confirm")

    answers = one_batch(write_path, [confirm] * 3)
    assert {(answer.status_code, answer.data) for answer in answers} == {(200, answers[0].data)}
    assert answers[0].json == application.test_client().get(place).json
    assert verify() == (0, "node-meetup-2025: 2 changes, ok\n")


def test_a_confirmed_hold_does_not_expire(client, hold, expire, sql):
    place = hold(4).location
    client.post(place + "/confirm")
    sql("UPDATE reservations SET created_at = created_at - interval '1 day'")
    expire()
    assert client.get(place).json["status"] == "confirmed"
    assert client.get(RESERVATIONS).json["availableSeats"] == 496


def test_a_hold_that_is_released_gives_its_seats_back_once(client, hold, expire, verify):
    place = hold().location
    assert client.delete(place).status_code == 204
    released = client.get(place).json
    assert released["status"] == "cancelled"
    assert client.get(RESERVATIONS).json["availableSeats"] == 500
    again = client.delete(place)
    assert (again.status_code, again.json["code"]) == (404, "already_cancelled")
    assert again.json["cancelledAt"] == released["cancelledAt"]
    expire()
    refused = client.post(place + "/confirm")
    assert (refused.status_code, refused.json["code"]) == (409, "already_cancelled")
    assert refused.json["cancelledAt"] == released["cancelledAt"]
    assert verify() == (0, "node-meetup-2025: 2 changes, ok\n")


def test_a_confirm_right_behind_a_cancel_in_its_batch_is_refused(
    application, write_path, hold, verify
):
    place = hold().location
    client = application.test_client
    answers = one_batch(
        write_path,
        [
            lambda: client().delete(place),
            lambda: client().post(place + "/confirm"),
            lambda: client().post(place + "/extend", json={"holdSeconds": 5}),
            lambda: client().delete(place),
        ],
    )
    assert [answer.status_code for answer in answers] == [204, 409, 409, 404]
    assert {answer.json["code"] for answer in answers[1:]} == {"already_cancelled"}
    cancelled_at = client().get(place).json["cancelledAt"]
    assert {answer.json["cancelledAt"] for answer in answers[1:]} == {cancelled_at}
    assert verify()[0] == 0


def test_of_a_cancel_and_a_confirm_at_once_both_may_win_but_in_one_order(server, hold, verify):
    for _ in range(5):
        place = hold(1).location
        with ThreadPoolExecutor(4) as pool:
            confirms = [
                pool.submit(lambda place=place: server.client().post(place + "/confirm"))
                for _ in range(2)
            ]
            cancels = [
                pool.submit(lambda place=place: server.client().delete(place)) for _ in range(2)
            ]
        assert sorted(cancel.result().status for cancel in cancels) == [204, 404]
        assert {confirm.result().status for confirm in confirms} <= {200, 409}
    assert server.client().get(RESERVATIONS).json["availableSeats"] == 500
    assert verify()[0] == 0


# --- Extend -------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [1, 60, 3600])
def test_an_extension_counts_from_now(client, hold, sql, verify, seconds):
    place = hold(seconds=60).location
    past.move(sql, "interval '30 seconds'", "true")
    extended = client.post(place + "/extend", json={"holdSeconds": seconds})
    assert extended.status_code == 200
    assert (extended.json["status"], extended.json["version"]) == ("held", 2)
    assert client.get(place).json == extended.json
    # From now: between the change's time and a moment before it, when it was decided.
    (late,) = sql(
        "SELECT extract(epoch FROM at + %s * interval '1 second' - ledger.expires_at)::float"
        " FROM ledger JOIN reservations USING (reservation_id) WHERE type = 'extended'",
        [seconds],
    )[0]
    assert -0.001 <= late < 1
    assert verify()[0] == 0


def test_a_hold_lasts_at_most_two_hours_in_all(client, hold, sql):
    place = hold().location

    def age(seconds):
        sql("UPDATE reservations SET created_at = now() - %s * interval '1 second'", [seconds])

    age(7200 - 3600 + 30)
    refused = client.post(place + "/extend", json={"holdSeconds": 3600})
    assert (refused.status_code, refused.json["code"]) == (409, "hold_limit")
    assert client.get(place).json["version"] == 1
    age(7200 - 3600 - 30)
    assert client.post(place + "/extend", json={"holdSeconds": 3600}).status_code == 200
    age(7201)
    assert client.post(place + "/extend", json={"holdSeconds": 1}).json["code"] == "hold_limit"


def test_only_a_hold_can_be_extended(client, hold, expire):
    confirmed, cancelled, expired = (hold().location for _ in range(3))
    client.post(confirmed + "/confirm")
    client.delete(cancelled)
    expire(expired)
    refusals = [
        client.post(place + "/extend", json={"holdSeconds": 60})
        for place in (confirmed, cancelled, expired)
    ]
    assert [refusal.status_code for refusal in refusals] == [409, 409, 409]
    assert [r.json["code"] for r in refusals] == ["not_held", "already_cancelled", "hold_expired"]
    assert client.post(confirmed + "/extend").status_code in (400, 415)


# --- The end ------------------------------------------------------------------------


def test_a_hold_ends_by_itself_at_its_instant(client, hold, sql, verify):
    place = hold(10, 1).location
    before, at_end = 0, None
    deadline = time.monotonic() + 20
    while at_end is None and time.monotonic() < deadline:
        over_before = sql("SELECT now() >= expires_at FROM reservations")[0][0]
        status = client.get(place).json["status"]
        over_after = sql("SELECT now() >= expires_at FROM reservations")[0][0]
        if not over_after:
            assert status == "held"
            before += 1
        elif over_before:
            at_end = status
        time.sleep(0.02)
    assert before > 0
    assert at_end == "expired"
    assert sql(
        "SELECT at >= reservations.expires_at FROM ledger JOIN reservations USING (reservation_id)"
        " WHERE type = 'expired'"
    ) == [(True,)]
    assert verify() == (0, "node-meetup-2025: 2 changes, ok\n")


def _summary(client, place):
    summary = client.get(RESERVATIONS).json
    assert (summary["availableSeats"], summary["reservationCount"]) == (490, 1)
    assert summary["version"] == 3


def _single(client, place):
    reservation = client.get(place).json
    assert (reservation["status"], reservation["version"]) == ("expired", 3)


def _events(client, place):
    (event,) = client.get(EVENTS).json["items"]
    assert (event["availableSeats"], event["version"]) == (490, 3)


def _list(client, place):
    items = client.get(LIST).json["items"]
    assert [item["status"] for item in items] == ["expired", "confirmed"]


def _list_of_held(client, place):
    assert client.get(LIST + "?status=held").json["items"] == []


def _list_of_expired(client, place):
    (item,) = client.get(LIST + "?status=expired").json["items"]
    assert item["version"] == 3


def _list_of_somebody_else(client, place):
    assert client.get(LIST + "?partnerId=nobody").json["items"] == []


def _feed(client, place):
    changes = client.get(CHANGES).json["items"]
    assert [change["type"] for change in changes] == ["held", "reserved", "expired"]
    assert (changes[-1]["seats"], changes[-1]["availableSeats"]) == (4, 490)


def _end_of_feed(client, place):
    page = client.get(CHANGES + "?after=2", headers={"If-None-Match": '"2"'})
    assert [change["version"] for change in page.json["items"]] == [3]


def _unchanged_summary(client, place):
    assert client.get(EVENT, headers={"If-None-Match": '"2"'}).headers["ETag"] == '"3"'


def _stale_reserve(client, place):
    body = {"partnerId": "abc-corp", "seats": 1}
    refused = client.post(RESERVATIONS, json=body, headers={"If-Match": '"2"'})
    assert (refused.status_code, refused.json["version"]) == (412, 3)


def _confirm(client, place):
    refused = client.post(place + "/confirm")
    assert (refused.status_code, refused.json["code"]) == (409, "hold_expired")


def _extend(client, place):
    refused = client.post(place + "/extend", json={"holdSeconds": 60})
    assert (refused.status_code, refused.json["code"]) == (409, "hold_expired")


def _reduce(client, place):
    refused = client.patch(place, json={"seats": 1})
    assert (refused.status_code, refused.json["code"]) == (409, "hold_expired")


def _cancel(client, place):
    refused = client.delete(place)
    assert (refused.status_code, refused.json["code"]) == (404, "hold_expired")


def _reserve(client, place):
    body = {"partnerId": "abc-corp", "seats": 1}
    made = client.post(RESERVATIONS, json=body)
    assert made.json["version"] == 4
    assert client.delete(made.location).status_code == 204
    assert client.get(EVENT).json["version"] == 5


def _edit(client, place):
    body = {"name": "B"}
    edited = client.patch(EVENT, json=body, headers={**ADMIN, "If-Match": "*"})
    assert (edited.json["version"], edited.json["availableSeats"]) == (4, 490)


TOUCHES = [
    *(_summary, _single, _events, _list, _list_of_held, _list_of_expired),
    *(_list_of_somebody_else, _feed, _end_of_feed, _unchanged_summary, _stale_reserve),
    *(_confirm, _extend, _reduce, _cancel, _reserve, _edit),
]


@pytest.mark.parametrize("touch", TOUCHES, ids=lambda touch: touch.__name__[1:])
def test_whoever_touches_the_event_next_finds_the_hold_settled(
    client, hold, expire, sql, verify, touch
):
    place = hold(4).location
    client.post(RESERVATIONS, json={"partnerId": "abc-corp", "seats": 10})
    expire()
    touch(client, place)
    assert sql("SELECT version, seats FROM ledger WHERE type = 'expired'") == [(3, 4)]
    for later in TOUCHES[:10] if touch not in (_reserve, _edit) else [_confirm, _cancel]:
        later(client, place)
    assert sql("SELECT version, seats FROM ledger WHERE type = 'expired'") == [(3, 4)]
    assert verify()[0] == 0


def test_an_expired_hold_is_kept(client, hold, expire, sql, verify):
    made = hold(4).json
    expire()
    kept = client.get(f"{RESERVATIONS}/{made['reservationId']}").json
    assert kept.keys() == made.keys()
    same = ("reservationId", "eventId", "partnerId", "seats")
    assert [kept[name] for name in same] == [made[name] for name in same]
    assert sql("SELECT status, seats FROM reservations") == [("expired", 4)]
    assert verify()[0] == 0  # its times, too


def test_the_seats_of_an_expired_hold_can_be_sold_at_once(client, hold, expire, sql, verify):
    past.create(sql, "UPDATE events SET initial_seats = 4, total_seats = 4, available_seats = 4")
    body = {"partnerId": "other-corp", "seats": 4}
    place = hold(4).location
    assert client.post(RESERVATIONS, json=body).json["code"] == "sold_out"
    expire()
    assert client.post(RESERVATIONS, json=body).status_code == 201
    assert client.post(place + "/confirm").json["code"] == "hold_expired"
    assert client.get(RESERVATIONS).json["availableSeats"] == 0
    assert verify()[0] == 0


def test_holds_expire_in_the_order_of_their_ends(client, hold, sql):
    places = [hold(n).json["reservationId"] for n in (1, 2, 3)]
    for seconds, place in zip((5, 1, 3), places, strict=True):
        past.end_holds(sql, f"reservation_id = '{place}'", ago=f"{seconds} seconds")
    changes = client.get(CHANGES + "?after=3").json["items"]
    assert [change["seats"] for change in changes] == [1, 3, 2]
    assert [change["availableSeats"] for change in changes] == [495, 498, 500]


def test_ten_thousand_expired_holds_are_settled_in_bounded_batches(client, sql, verify):
    _insert_holds(sql, 10_000)
    answer = client.get(RESERVATIONS)
    # With a tag: settled, not only computed.
    assert (answer.status_code, answer.headers["ETag"]) == (200, '"20000"')
    assert (answer.json["availableSeats"], answer.json["reservationCount"]) == (10_000, 0)
    largest, batches, entries = sql(
        "SELECT max(size), count(*), sum(size)::integer FROM"
        " (SELECT count(*) AS size FROM ledger WHERE type = 'expired' GROUP BY batch_id) AS batch"
    )[0]
    assert largest <= limits.SETTLE_HOLDS
    assert (batches, entries) == (10_000 // limits.SETTLE_HOLDS, 10_000)
    assert verify() == (0, "node-meetup-2025: 20000 changes, ok\n")


def test_many_who_find_expired_holds_at_once_settle_each_of_them_once(server, sql, verify):
    _insert_holds(sql, 2500)

    def touch(number):
        if number % 3:
            return server.client().get(RESERVATIONS)
        body = {"partnerId": "abc-corp", "seats": 1}
        return server.client().post(RESERVATIONS, body)

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(touch, range(12)))
    assert {answer.status for answer in answers} == {200, 201}
    assert server.client().get(RESERVATIONS).json["availableSeats"] == 2496
    assert verify() == (0, "node-meetup-2025: 5004 changes, ok\n")


def test_nobody_settles_for_longer_than_a_request_may_take(client, sql, verify, monkeypatch):
    _insert_holds(sql, 2000)
    monkeypatch.setattr(limits, "SETTLE_HOLDS", 1)
    monkeypatch.setattr(limits, "REQUEST_DEADLINE", 0.1)
    refused = client.post(RESERVATIONS, json={"partnerId": "abc-corp", "seats": 1})
    assert (refused.status_code, refused.json["code"]) == (503, "contention")
    monkeypatch.setattr(limits, "REQUEST_DEADLINE", 1.0)  # on a busy machine, too
    computed = client.get(RESERVATIONS)
    assert (computed.status_code, computed.json["availableSeats"]) == (200, 2000)
    assert "ETag" not in computed.headers
    # Each left it a little further.
    assert 2 <= sql("SELECT count(*) FROM ledger WHERE type = 'expired'")[0][0] < 2000
    assert verify()[0] == 0


def test_a_page_shows_no_hold_past_its_end_that_expired_while_it_was_settled(
    application, store, hold, expire
):
    first, second = hold().location, hold().location
    expire(first)
    calls = []

    def read(*_):
        calls.append(None)
        if len(calls) == 2:  # the first is settled by now
            expire(second)
        return store.list_reservations("node-meetup-2025", None, None, 0, 10)

    with application.app_context():
        found = page("node-meetup-2025", read)
    assert [item.status for item in found.items] == ["expired", "expired"]


# --- At the very instant --------------------------------------------------------------


class JustAfter(Change):
    """A change that is made once something else has happened, after everything was read."""

    def __init__(self, change, happens):
        self.change, self._happens = change, happens

    @property
    def may_suppose(self):
        return self.change.may_suppose

    @property
    def reads(self):
        return self.change.reads

    def apply(self, plan):
        happens, self._happens = self._happens, lambda: None
        happens()
        return self.change.apply(plan)


@pytest.mark.parametrize("change", [Confirm, lambda id: Extend(id, 60), lambda id: Reduce(id, 1)])
@pytest.mark.parametrize("settles", [False, True], ids=["unsettled", "settled by a rival"])
def test_a_hold_that_ends_between_the_reading_and_the_writing_has_ended(
    write_path, client, hold, expire, server, verify, change, settles
):
    place = hold(4).location

    def ends():
        expire()
        if settles:
            assert server.client().get(RESERVATIONS).json["availableSeats"] == 500

    late = JustAfter(change(UUID(place.rpartition("/")[2])), ends)
    with pytest.raises(Exception, match="The hold has expired"):
        write_path.submit("node-meetup-2025", late)
    assert client.get(place).json["status"] == "expired"
    assert verify() == (0, "node-meetup-2025: 2 changes, ok\n")


def test_a_hold_that_is_confirmed_between_the_reading_and_the_settling_is_sold(
    write_path, store, client, hold, expire, sql, server, verify
):
    """Its end was seen by a reader, whose settling then comes too late."""
    place = hold(4).location
    held = store.read_reservation(UUID(place.rpartition("/")[2]), None)
    event = store.read_event("node-meetup-2025")
    plan = Plan(event, [held], event.read_at)
    plan.settles = True
    Expire(held.reservation_id).apply(plan)
    assert server.client().post(place + "/confirm").status == 200
    sql("UPDATE reservations SET expires_at = now() - interval '1 second'")
    assert store.write([plan], uuid4()) == {}
    sql("UPDATE reservations SET expires_at = NULL")
    assert client.get(place).json["status"] == "confirmed"
    assert client.get(RESERVATIONS).json["availableSeats"] == 496
    assert verify() == (0, "node-meetup-2025: 2 changes, ok\n")


def test_of_confirm_and_expiry_at_the_same_instant_exactly_one_wins(
    server, client, hold, sql, verify
):
    """Holds that end one by one while everybody tries to confirm, read and sell them."""
    places = [hold(1).location for _ in range(24)]
    end = "now() + interval '50 ms' + created_version * interval '20 ms'"
    past.move(sql, f"expires_at - ({end})", "true")

    def race(worker):
        http, answers = server.client(), {}
        for number, place in enumerate(places):
            ((left,),) = sql(
                "SELECT extract(epoch FROM expires_at - clock_timestamp())::float"
                " FROM reservations WHERE created_version = %s",
                [number + 1],
            )
            if left is not None:  # nobody has confirmed it: ask about when it ends
                time.sleep(max(0, left - 0.002 * worker))
            answers[place] = http.post(place + "/confirm")
            if worker % 2:
                http.get(RESERVATIONS)
        return answers

    with ThreadPoolExecutor(4) as pool:
        everybody = list(pool.map(race, range(4)))
    for place in places:
        answers = [answers[place] for answers in everybody]
        final = client.get(place).json["status"]
        assert final in ("confirmed", "expired")
        statuses = {answer.status for answer in answers}
        assert statuses == ({200} if final == "confirmed" else {409})
        if final == "expired":
            assert {answer.json["code"] for answer in answers} == {"hold_expired"}
    ended = sql(
        "SELECT count(*), count(DISTINCT reservation_id) FROM ledger"
        " WHERE type IN ('confirmed', 'expired')"
    )
    assert ended == [(24, 24)]
    assert verify()[0] == 0


# What the message that reads the reservations of a batch says.
READ = b"JOIN reservations USING (reservation_id)"


@pytest.mark.parametrize("change", ["cancel", "confirm", "extend", "reduce"])
@pytest.mark.parametrize(
    ("reading", "supposes"),
    [(b"FROM events", False), (READ, False), (READ, True)],
    ids=["event", "reservation", "reservation alone"],
)
def test_nothing_is_changed_on_an_older_state_of_the_reservation_than_of_the_event(
    dsn, client, hold, verify, monkeypatch, reading, supposes, change
):
    """A rival process cancels while one of the two is being read; the seats come back once."""
    monkeypatch.setattr(ReservationChange, "may_suppose", supposes)
    monkeypatch.setattr(limits, "DATABASE_PATIENCE", 20)  # for the one that is held up below
    place = hold(4).location
    with proxy.Proxy(dsn) as between, ThreadPoolExecutor(1) as pool:
        slow = create_app(Config(database_url=between.dsn)).test_client()
        fault = between.fault(proxy.HELD, lambda message: reading in message)
        late = pool.submit(
            {
                "cancel": lambda: slow.delete(place),
                "confirm": lambda: slow.post(place + "/confirm"),
                "extend": lambda: slow.post(place + "/extend", json={"holdSeconds": 9}),
                "reduce": lambda: slow.patch(place, json={"seats": 1}),
            }[change]
        )
        fault.wait_until_reached()
        assert client.delete(place).status_code == 204
        fault.deliver()
        refused = late.result()
    assert refused.status_code == (404 if change == "cancel" else 409)
    assert refused.json["code"] == "already_cancelled"
    assert client.get(RESERVATIONS).json["availableSeats"] == 500
    assert verify() == (0, "node-meetup-2025: 2 changes, ok\n")


# --- A database that takes no writes ----------------------------------------------------


@pytest.fixture
def read_only(dsn, sql):
    """Give a client of a service whose database has become read-only, as a standby is."""
    sql("DROP ROLE IF EXISTS reader")
    sql("CREATE ROLE reader LOGIN SUPERUSER")
    application = create_app(Config(database_url=dsn.replace("postgres@", "reader@")))
    try:
        sql("ALTER ROLE reader SET default_transaction_read_only = on")
        yield application.test_client()
    finally:
        application.extensions["ticketboss"]["store"].database.close()
        sql("DROP ROLE reader")


def test_while_the_database_takes_no_writes_readers_get_computed_numbers_without_a_tag(
    read_only, client, hold, expire, sql, verify
):
    places = [hold(4).location, hold(3).location]
    client.post(RESERVATIONS, json={"partnerId": "abc-corp", "seats": 10})
    settled_answer = read_only.get(RESERVATIONS)
    assert (settled_answer.json["availableSeats"], settled_answer.headers["ETag"]) == (483, '"3"')
    expire(places[0])

    summary = read_only.get(RESERVATIONS, headers={"If-None-Match": '"3"'})
    assert (summary.status_code, "ETag" in summary.headers) == (200, False)
    assert (summary.json["availableSeats"], summary.json["reservedSeats"]) == (487, 13)
    assert (summary.json["reservationCount"], summary.json["totalSeats"]) == (2, 500)
    listed = read_only.get(EVENTS)
    assert (listed.json["items"], "ETag" in listed.headers) == ([summary.json], False)

    single = read_only.get(places[0])
    assert (single.json["status"], "ETag" in single.headers) == ("expired", False)
    assert read_only.get(places[1]).json["status"] == "held"
    items = read_only.get(LIST).json["items"]
    assert [item["status"] for item in items] == ["expired", "held", "confirmed"]
    for status, count in (("expired", 1), ("held", 1), ("confirmed", 1), ("cancelled", 0)):
        items = read_only.get(f"{LIST}?status={status}").json["items"]
        assert [item["status"] for item in items] == [status] * count
    assert read_only.get(CHANGES).json["next"] == 3

    for refused in (
        read_only.post(RESERVATIONS, json={"partnerId": "abc-corp", "seats": 1}),
        read_only.post(places[0] + "/confirm"),
        read_only.post(places[1] + "/confirm"),
        read_only.delete(places[1]),
    ):
        assert refused.status_code == 503
        assert refused.headers["Retry-After"]
    assert sql("SELECT max(version) FROM ledger") == [(3,)]
    # And where writes are taken, the next reader settles.
    assert client.get(RESERVATIONS).headers["ETag"] == '"4"'
    assert {**client.get(RESERVATIONS).json, "version": 3} == summary.json
    assert verify()[0] == 0


def test_a_service_whose_database_takes_writes_again_serves_them(read_only, sql, verify):
    body = {"partnerId": "abc-corp", "seats": 1}
    assert read_only.post(RESERVATIONS, json=body).status_code == 503
    sql("ALTER ROLE reader RESET default_transaction_read_only")
    sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'reader'")
    made = eventually(
        lambda: (answer := read_only.post(RESERVATIONS, json=body)).status_code != 503 and answer
    )
    assert made.status_code == 201
    assert verify() == (0, "node-meetup-2025: 1 changes, ok\n")
