"""What is told is durable: a refusal as well as an acceptance, under synchronous replication."""

from uuid import uuid4

import pytest
from test_idempotency import eventually, standby  # noqa: F401 (a fixture)

from ticketboss.rules.changes import Reserve
from ticketboss.rules.plan import Plan

RESERVATIONS = "/api/v1/reservations"


@pytest.fixture
def undurable(standby):  # noqa: F811
    """Give a standby that is absent, and three reservations changed here and nowhere else.

    The event is sold out and one of its reservations cancelled, for all who can read
    it; a failover would bring all that back.
    """
    client = standby.application.test_client()
    standby.sql(
        "UPDATE events SET initial_seats = 6, total_seats = 6, available_seats = 6"
        " WHERE event_id = 'node-meetup-2025'"
    )
    made = [
        client.post(RESERVATIONS, json={"partnerId": "abc-corp", "seats": 2}).json for _ in range(2)
    ]
    standby.leave()
    place = f"{RESERVATIONS}/{made[0]['reservationId']}"
    for change in (
        lambda: client.delete(place),
        lambda: client.post(RESERVATIONS, json={"partnerId": "abc-corp", "seats": 4}),
    ):
        assert change().status_code == 503
        standby.cancel_waiting()
    assert client.get(RESERVATIONS).json["availableSeats"] == 0
    return standby, client, place


def refusals(client, place):
    """Return what would be refused, as calls that return their status and code."""

    def told(answer):
        return answer.status_code, answer.json["code"]

    other = f"{RESERVATIONS}/{uuid4()}"
    assert told(client.get(other)) == (404, "not_found")
    return [
        lambda: told(client.post(RESERVATIONS, json={"partnerId": "xyz-inc", "seats": 1})),
        lambda: told(client.delete(place)),
        lambda: told(client.patch(place, json={"seats": 1})),
        lambda: told(client.delete(other)),
        lambda: told(client.get("/api/v1/events/node-meetup-2025/changes?after=99")),
        lambda: told(
            client.post(
                RESERVATIONS,
                json={"partnerId": "xyz-inc", "seats": 1},
                headers={"If-Match": '"2"'},
            )
        ),
    ]


def test_nothing_is_refused_on_a_state_that_no_standby_has(undurable):
    standby, client, place = undurable  # noqa: F811
    calls = refusals(client, place)
    for call in calls:
        assert call() == (503, "unavailable")
        standby.cancel_waiting()
    standby.come_back()
    eventually(lambda: calls[0]() == (409, "sold_out"))
    assert [call() for call in calls[1:]] == [
        (404, "already_cancelled"),
        (409, "already_cancelled"),
        (404, "not_found"),
        (409, "cursor_ahead"),
        (412, "precondition_failed"),
    ]


def test_what_was_done_before_is_acknowledged_only_once_a_standby_has_it(standby):  # noqa: F811
    """Without its event having been read."""
    client = standby.application.test_client()
    hold = {"partnerId": "abc-corp", "seats": 2, "holdSeconds": 600}
    confirm = f"{client.post(RESERVATIONS, json=hold).location}/confirm"
    standby.leave()
    for _ in range(3):  # the first makes it, for all who can read it
        assert client.post(confirm).status_code == 503
        standby.cancel_waiting()
    standby.come_back()
    confirmed = eventually(lambda: (a := client.post(confirm)).status_code != 503 and a)
    assert (confirmed.status_code, confirmed.json["version"]) == (200, 2)


def test_a_refusal_writes_nothing_where_no_standby_is_waited_for(client, sql):
    """And costs no commit: what can be seen there is as durable as it gets."""
    client.post(RESERVATIONS, json={"partnerId": "abc-corp", "seats": 1})
    sql("UPDATE events SET sales_close_at = now()")
    (before,) = sql("SELECT pg_current_wal_insert_lsn()")
    for _ in range(20):
        answer = client.post(RESERVATIONS, json={"partnerId": "abc-corp", "seats": 1})
        assert answer.json["code"] == "sales_closed"
    ((written,),) = sql(
        "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), %s)::integer", [before[0]]
    )
    assert written < 20 * 100


# --- A message to one server, the next to another ---------------------------------------


@pytest.fixture
def replaced(standby, monkeypatch):  # noqa: F811
    """Give a client, and a way to let the first reading of a kind come from an old primary.

    It reads what the reading returned when the way was taken: what has been told of
    since is not in it. All that follows comes from the server that can commit.
    """
    # A standby is waited for, by name, and is always quick enough.
    standby.sql("ALTER SYSTEM SET synchronous_commit = 'local'")
    standby.sql("ALTER SYSTEM SET synchronous_standby_names = 'quick'")
    standby.sql("SELECT pg_reload_conf()")
    eventually(lambda: standby.sql("SHOW synchronous_standby_names") == [("quick",)])
    store = standby.application.extensions["ticketboss"]["store"]

    def old_primary(name, *arguments):
        current = getattr(store, name)
        old = [current(*arguments)]

        def read(*arguments, **more):
            return old.pop() if old else current(*arguments, **more)

        def comes_back():
            monkeypatch.setattr(store, name, read)
            return old

        return comes_back

    return standby.application.test_client(), old_primary


def sold_out(client) -> dict:
    """Sell what is left of the event; return the last reservation."""
    made = {}
    while client.get(RESERVATIONS).json["availableSeats"]:
        made = client.post(RESERVATIONS, json={"partnerId": "abc-corp", "seats": 10}).json
    return made


EVENT = "node-meetup-2025"


@pytest.mark.parametrize("package", [0, 1, 2])
def test_sold_out_is_not_said_on_what_an_old_primary_shows(replaced, monkeypatch, package):
    monkeypatch.setattr(Reserve, "may_suppose", False)
    client, old_primary = replaced
    last = sold_out(client)
    wanted = {"partnerId": "xyz-inc", "seats": 1}
    assert client.post(RESERVATIONS, json=wanted).json["code"] == "sold_out"
    if package > 1:  # all but the last of it could be made, and would prove what was read
        less = client.patch(f"{RESERVATIONS}/{last['reservationId']}", json={"seats": 9})
        assert less.status_code == 200
    comes_back = old_primary("read_events", [EVENT])
    assert client.delete(f"{RESERVATIONS}/{last['reservationId']}").status_code == 204
    left = comes_back()
    if package:
        operations = [{"op": "reserve", **wanted}] * package
        answer = client.post("/api/v1/batch", json={"atomic": True, "operations": operations})
        assert [item["status"] for item in answer.json["items"]] == [201] * package, answer.json
    else:
        assert client.post(RESERVATIONS, json=wanted).status_code == 201
    assert left == [], "the old state was never read"


def test_no_event_is_denied_on_what_an_old_primary_shows(replaced):
    client, old_primary = replaced
    admin = {"Authorization": "Bearer " + "k" * 16}
    comes_back = old_primary("read_events", ["new"])
    new = {"eventId": "new", "name": "New", "totalSeats": 5}
    assert client.post("/api/v1/events", json=new, headers=admin).status_code == 201
    left = comes_back()
    wanted = {"partnerId": "xyz-inc", "seats": 1}
    operations = [{"op": "reserve", "eventId": "new", **wanted}]
    answer = client.post("/api/v1/batch", json={"atomic": True, "operations": operations})
    assert [item["status"] for item in answer.json["items"]] == [201]
    assert left == []


@pytest.mark.parametrize("batch", [False, True])
def test_no_reservation_is_denied_on_what_an_old_primary_shows(replaced, batch):
    client, old_primary = replaced
    made = client.post(RESERVATIONS, json={"partnerId": "abc-corp", "seats": 2}).json
    left = [old_primary("read_reservations", [(uuid4(), None)])()]
    if batch:
        operations = [{"op": "cancel", "reservationId": made["reservationId"]}]
        answer = client.post("/api/v1/batch", json={"operations": operations})
        assert [item["status"] for item in answer.json["items"]] == [204], answer.json
    else:
        left.append(old_primary("read_reservation", uuid4(), None)())
        assert client.delete(f"{RESERVATIONS}/{made['reservationId']}").status_code == 204
    assert not any(left)


def test_a_cursor_is_not_ahead_of_what_an_old_primary_shows(replaced):
    client, old_primary = replaced
    before = client.get(RESERVATIONS).json["version"]
    comes_back = old_primary("list_changes", EVENT, None, before, 10)
    for _ in range(2):
        client.post(RESERVATIONS, json={"partnerId": "abc-corp", "seats": 1})
    left = comes_back()
    answer = client.get(f"/api/v1/events/{EVENT}/changes?after={before + 1}")
    assert (answer.status_code, len(answer.json["items"])) == (200, 1)
    assert left == []


def test_what_proves_a_reading_is_in_one_message_with_it(replaced, statements):
    client, _ = replaced
    store = client.application.extensions["ticketboss"]["store"]
    sold_out(client)
    client.post(RESERVATIONS, json={"partnerId": "xyz-inc", "seats": 1})
    other = f"{RESERVATIONS}/{uuid4()}"
    operations = [{"op": "cancel", "reservationId": str(uuid4())}]
    for call, reads in (
        (lambda: client.post(RESERVATIONS, json={"partnerId": "xyz", "seats": 1}), "events"),
        (lambda: client.delete(other), "reservations"),
        (lambda: client.post("/api/v1/batch", json={"operations": operations}), "reservations"),
        (lambda: client.get(f"/api/v1/events/{EVENT}/changes?after=999"), "ledger"),
        (lambda: store.find_batch(Plan.supposing(EVENT), uuid4()), "ledger"),
    ):
        statements.clear()
        call()
        (proof,) = [sql for sql in statements if "pg_logical_emit_message" in sql]
        assert reads in proof.partition(";")[2]


def test_where_no_standby_is_waited_for_a_refusal_is_one_reading(client, statements):
    sold_out(client)
    client.post(RESERVATIONS, json={"partnerId": "xyz-inc", "seats": 1})
    statements.clear()
    refused = client.post(RESERVATIONS, json={"partnerId": "xyz-inc", "seats": 1})
    assert refused.json["code"] == "sold_out"
    assert len(statements) == 1
