"""Caps: how many seats of an event one partner may have, and how many of those on hold."""

import re
from concurrent.futures import ThreadPoolExecutor

import past
import pytest
from serving import ADMIN_KEY

from ticketboss.data.statements import statement

EVENT = "/api/v1/events/concert"
AUTH = {"Authorization": f"Bearer {ADMIN_KEY}"}


@pytest.fixture(autouse=True)
def _concert(store, verify):
    """Make an event of a hundred seats, ten a partner, four on hold; its ledger agrees."""
    store.create_event(
        "concert", "Concert", 100, max_seats_per_partner=10, max_held_seats_per_partner=4
    )
    yield
    status, output = verify()
    assert status == 0, output


@pytest.fixture
def reserve(client):
    def post(seats, partner="abc-corp", **members):
        body = {"partnerId": partner, "seats": seats, **members}
        return client.post(f"{EVENT}/reservations", json=body)

    return post


def test_a_partner_gets_as_many_seats_as_the_cap_and_no_more(reserve, client):
    assert reserve(7).status_code == 201
    refused = reserve(4)
    assert refused.status_code == 409
    told = {**refused.json}
    del told["requestId"], told["error"]
    assert told == {
        "code": "partner_limit",
        "cap": "maxSeatsPerPartner",
        "limit": 10,
        "partnerSeats": 7,
        "remaining": 3,
        "version": 1,
    }
    assert reserve(3).status_code == 201
    assert reserve(1).json["remaining"] == 0
    assert reserve(10, "xyz-inc").status_code == 201
    assert client.get(EVENT).json["maxSeatsPerPartner"] == 10


def test_what_is_given_back_counts_no_more(reserve, client):
    place = reserve(10).headers["Location"]
    client.patch(place, json={"seats": 4})
    assert reserve(6).status_code == 201
    client.delete(place)
    assert reserve(4).status_code == 201
    assert reserve(1).json["code"] == "partner_limit"


def test_holds_have_a_cap_of_their_own_and_count_for_the_other(reserve, client, sql):
    place = reserve(3, holdSeconds=60).headers["Location"]
    refused = reserve(2, holdSeconds=60).json
    assert (refused["cap"], refused["partnerSeats"]) == ("maxHeldSeatsPerPartner", 3)
    assert client.post(f"{place}/confirm").status_code == 200
    assert reserve(4, holdSeconds=60).status_code == 201
    assert reserve(4).json["cap"] == "maxSeatsPerPartner"
    past.end_holds(sql)
    assert reserve(4).status_code == 201


def test_confirming_extending_and_reducing_are_never_refused_for_a_cap(reserve, client):
    held = reserve(4, holdSeconds=60).headers["Location"]
    sold = reserve(6).headers["Location"]
    tag = client.get(EVENT).headers["ETag"]
    lower = {"maxSeatsPerPartner": 1, "maxHeldSeatsPerPartner": 1}
    edited = client.patch(EVENT, json=lower, headers={**AUTH, "If-Match": tag})
    assert edited.json["maxSeatsPerPartner"] == 1
    told = client.get(f"{EVENT}/changes").json["items"][-1]["event"]
    assert (told["maxSeatsPerPartner"], told["maxHeldSeatsPerPartner"]) == (1, 1)
    # Lowering takes nothing away.
    assert client.get(EVENT).json["reservedSeats"] == 10
    assert client.post(f"{held}/extend", json={"holdSeconds": 90}).status_code == 200
    assert client.post(f"{held}/confirm").status_code == 200
    assert client.patch(sold, json={"seats": 5}).status_code == 200
    assert reserve(1).json["remaining"] == 0


def test_a_cap_can_be_taken_away(reserve, client):
    reserve(10)
    tag = client.get(EVENT).headers["ETag"]
    gone = {"maxSeatsPerPartner": None, "maxHeldSeatsPerPartner": None}
    edited = client.patch(EVENT, json=gone, headers={**AUTH, "If-Match": tag})
    assert "maxSeatsPerPartner" not in edited.json
    assert reserve(5).status_code == 201
    after = client.get(f"{EVENT}/changes?after=1&limit=1").json["items"][0]["event"]
    assert "maxSeatsPerPartner" not in after


def test_the_cap_comes_behind_the_sales_window_and_before_the_pool(reserve, client):
    def open_at(time):
        headers = {**AUTH, "If-Match": client.get(EVENT).headers["ETag"]}
        assert client.patch(EVENT, json={"salesOpenAt": time}, headers=headers).status_code == 200

    open_at("2100-01-01T00:00:00Z")
    assert reserve(10).json["code"] == "sales_not_open"
    open_at(None)
    for number in range(9):
        reserve(10, f"partner-{number}")
    reserve(8)
    assert reserve(3).json["code"] == "partner_limit"
    reserve(1, "other")
    assert reserve(2).json["code"] == "sold_out"


def test_draws_and_allotments_do_not_count(reserve, client):
    body = {"partnerId": "abc-corp", "seats": 20}
    assert client.put(f"{EVENT}/allotments", json=body, headers=AUTH).status_code == 201
    for _ in range(2):
        assert reserve(10).json["allotted"] is True
    assert reserve(10).status_code == 201
    assert reserve(1).json["partnerSeats"] == 10


def test_one_batch_of_a_partner_ends_exactly_at_the_cap(client):
    operation = {"op": "reserve", "eventId": "concert", "partnerId": "abc-corp", "seats": 3}
    answer = client.post("/api/v1/batch", json={"operations": [operation] * 5}).json
    assert [item["status"] for item in answer["items"]] == [201, 201, 201, 409, 409]
    assert answer["items"][-1]["remaining"] == 1


def test_a_key_that_was_used_gives_its_reservation_at_the_cap_too(client):
    body = {"partnerId": "abc-corp", "seats": 10}
    for _ in range(2):
        made = client.post(f"{EVENT}/reservations", json=body, headers={"Idempotency-Key": "k"})
        assert made.status_code == 201


@pytest.mark.parametrize("cap", ["maxSeatsPerPartner", "maxHeldSeatsPerPartner"])
@pytest.mark.parametrize("value", [0, -1, 10_000_001, 2.5, "3", True])
def test_a_cap_is_a_whole_number_in_its_range(client, cap, value):
    tag = client.get(EVENT).headers["ETag"]
    refused = client.patch(EVENT, json={cap: value}, headers={**AUTH, "If-Match": tag})
    assert (refused.status_code, list(refused.json["fields"])) == (400, [cap])


def test_a_hundred_at_once_over_four_processes_end_exactly_at_the_cap(serve, sql):
    servers = [serve(WORKERS="2") for _ in range(2)]

    def take(number):
        client = servers[number % 2].client()
        body = {"partnerId": "abc-corp", "seats": 1}
        return client.post(f"{EVENT}/reservations", body).status

    with ThreadPoolExecutor(32) as pool:
        statuses = list(pool.map(take, range(100)))
    assert sorted(statuses) == [201] * 10 + [409] * 90
    assert sql("SELECT sum(seats) FROM reservations") == [(10,)]


def test_the_sums_read_nothing_of_what_is_cancelled(dsn, store, sql):
    """As many rows are looked at for a partner with ten thousand cancelled as for one with ten."""
    sql(
        "INSERT INTO reservations (event_id, created_version, reservation_id, partner_id, seats,"
        " status, version, created_at, cancelled_at, requested_seats)"
        " SELECT 'concert', n, gen_random_uuid(), CASE WHEN n <= 10 THEN 'few' ELSE 'many' END,"
        " 1, 'cancelled', n, now(), now(), 1 FROM generate_series(1, 10010) AS n;"
        " ANALYZE reservations"
    )
    explained = {}
    for partner in ("few", "many"):
        lines = sql(
            "EXPLAIN (ANALYZE, BUFFERS, TIMING off) " + statement("read_partner_seats"),
            {"event_ids": ["concert"], "partner_ids": [partner]},
        )
        text = "\n".join(line for (line,) in lines)
        assert "Seq Scan on reservations" not in text
        explained[partner] = int(re.search(r"shared hit=(\d+)", text)[1])
    assert explained["many"] <= explained["few"] + 4
    sql("DELETE FROM reservations")
