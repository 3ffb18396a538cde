"""What is told is durable: a refusal as well as an acceptance, under synchronous replication."""

from uuid import uuid4

import pytest
from test_idempotency import eventually, standby  # noqa: F401 (a fixture)

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
