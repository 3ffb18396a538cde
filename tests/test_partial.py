"""Giving back part of a reservation: PATCH (API.md, section 6)."""

from concurrent.futures import ThreadPoolExecutor

import past
import pytest
from test_conditions import one_batch

RESERVATIONS = "/api/v1/reservations"


@pytest.fixture
def reserve(client):
    def reserve(seats, **members):
        body = {"partnerId": "abc-corp", "seats": seats, **members}
        return client.post(RESERVATIONS, json=body).location

    return reserve


def test_seats_given_back_are_in_the_pool_and_the_rest_stays_reserved(client, reserve, verify):
    place = reserve(5)
    reduced = client.patch(place, json={"seats": 2})
    assert reduced.status_code == 200
    assert (reduced.json["seats"], reduced.json["status"]) == (2, "confirmed")
    assert (reduced.json["version"], reduced.headers["ETag"]) == (2, '"2"')
    assert client.get(place).json == reduced.json
    summary = client.get(RESERVATIONS).json
    assert (summary["availableSeats"], summary["reservedSeats"]) == (498, 2)
    assert (summary["reservationCount"], summary["version"]) == (1, 2)
    changes = client.get("/api/v1/events/node-meetup-2025/changes?after=1").json["items"]
    assert [(c["type"], c["seats"], c["availableSeats"]) for c in changes] == [("reduced", 2, 498)]
    assert client.delete(place).status_code == 204
    assert client.get(RESERVATIONS).json["availableSeats"] == 500
    assert verify()[0] == 0


def test_seats_that_were_given_back_can_be_sold(client, reserve, sql, verify):
    past.create(sql, "UPDATE events SET initial_seats = 5, total_seats = 5, available_seats = 5")
    place = reserve(5)
    body = {"partnerId": "other-corp", "seats": 3}
    assert client.post(RESERVATIONS, json=body).json["code"] == "sold_out"
    client.patch(place, json={"seats": 2})
    assert client.post(RESERVATIONS, json=body).status_code == 201
    assert verify()[0] == 0


@pytest.mark.parametrize("seats", [4, 10])
def test_a_reservation_cannot_grow(client, reserve, seats):
    place = reserve(3)
    refused = client.patch(place, json={"seats": seats})
    assert (refused.status_code, refused.json["code"]) == (409, "cannot_grow")
    assert client.get(RESERVATIONS).json["version"] == 1


def test_a_reduction_is_safe_to_repeat(client, reserve, verify):
    place = reserve(5)
    condition = {"If-Match": '"1"'}
    reduced = client.patch(place, json={"seats": 4}, headers=condition)
    assert (reduced.status_code, reduced.json["version"]) == (200, 2)
    # Its answer may have been lost: the condition was met when the change was made.
    for again in (condition, {}, {"If-Match": '"7"'}):
        repeated = client.patch(place, json={"seats": 4}, headers=again)
        assert (repeated.status_code, repeated.data) == (200, reduced.data)
        assert repeated.headers["ETag"] == '"2"'
    assert verify() == (0, "node-meetup-2025: 2 changes, ok\n")


def test_the_number_of_seats_that_a_reservation_has_already_changes_nothing(client, reserve):
    for place in (reserve(3), reserve(3, holdSeconds=60)):
        before = client.get(place)
        kept = client.patch(place, json={"seats": 3})
        assert (kept.status_code, kept.data) == (200, before.data)
    assert client.get(RESERVATIONS).json["version"] == 2


def test_many_reductions_to_one_number_at_once_are_one_change(server, reserve, verify):
    place = reserve(5)
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: server.client().patch(place, {"seats": 2}), range(12)))
    assert {(answer.status, answer.body) for answer in answers} == {(200, answers[0].body)}
    assert verify() == (0, "node-meetup-2025: 2 changes, ok\n")


def test_what_was_given_back_does_not_come_back_by_growing(client, reserve):
    place = reserve(3)
    client.patch(place, json={"seats": 1})
    assert client.patch(place, json={"seats": 3}).json["code"] == "cannot_grow"


@pytest.mark.parametrize(
    "body",
    [
        {},
        *({"seats": s} for s in (0, -1, 11, 1.5, "1", True, None)),
        {"seats": 1, "partnerId": "a"},
    ],
    ids=str,
)
def test_a_wrong_body_changes_nothing(client, reserve, body):
    place = reserve(3)
    refused = client.patch(place, json=body)
    assert (refused.status_code, refused.json["code"]) == (400, "invalid_request")
    assert refused.json["fields"]
    assert client.get(RESERVATIONS).json["version"] == 1


def test_part_of_a_hold_can_be_given_back_and_the_hold_goes_on(client, reserve, verify):
    place = reserve(5, holdSeconds=60)
    before = client.get(place).json
    reduced = client.patch(place, json={"seats": 2}).json
    assert reduced == {**before, "seats": 2, "version": 2}
    assert client.post(place + "/confirm").json["seats"] == 2
    assert verify()[0] == 0


def test_nothing_can_be_given_back_of_what_has_ended(client, reserve, sql):
    cancelled, expired = reserve(3), reserve(3, holdSeconds=60)
    client.delete(cancelled)
    past.end_holds(sql)
    refusals = [client.patch(place, json={"seats": 1}) for place in (cancelled, expired)]
    assert [r.status_code for r in refusals] == [409, 409]
    assert [r.json["code"] for r in refusals] == ["already_cancelled", "hold_expired"]
    assert refusals[0].json["cancelledAt"] == client.get(cancelled).json["cancelledAt"]


@pytest.mark.parametrize("place", ["00000000-0000-7000-8000-000000000000", "x", "%00"])
def test_nothing_can_be_given_back_of_what_never_was(client, place):
    refused = client.patch(f"{RESERVATIONS}/{place}", json={"seats": 1})
    assert (refused.status_code, refused.json["code"]) == (404, "not_found")


def test_changes_of_one_reservation_in_one_batch_follow_each_other(
    application, write_path, reserve, sql, verify
):
    place = reserve(5)

    def keep(seats):
        return lambda: application.test_client().patch(place, json={"seats": seats})

    def cancel():
        return application.test_client().delete(place)

    answers = one_batch(write_path, [keep(4), keep(4), keep(1), cancel, cancel, keep(1)])
    assert [answer.status_code for answer in answers] == [200, 200, 200, 204, 404, 409]
    assert answers[1].data == answers[0].data
    assert [answers[0].json["version"], answers[2].json["version"]] == [2, 3]
    assert [answers[0].json["seats"], answers[2].json["seats"]] == [4, 1]
    gone, ended = answers[4:]
    assert (gone.json["code"], ended.json["code"]) == ("already_cancelled", "already_cancelled")
    cancelled_at = application.test_client().get(place).json["cancelledAt"]
    assert gone.json["cancelledAt"] == ended.json["cancelledAt"] == cancelled_at
    assert sql("SELECT count(DISTINCT batch_id) FROM ledger WHERE version > 1") == [(1,)]
    assert verify()[0] == 0
