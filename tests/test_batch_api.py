"""`POST /api/v1/batch`: many operations in one request."""

import json
import threading
from uuid import uuid4

import pytest

from ticketboss.rules import limits

BATCH = "/api/v1/batch"
# An id that no reservation has: one that is made anew would give the tests names that change.
NOBODYS = "8ff309d0-e5c7-44e9-b621-8ff51427d2f0"
RESERVE = {"op": "reserve", "partnerId": "abc-corp", "seats": 1}


@pytest.fixture
def send(client):
    def post(*operations, **members):
        return client.post(BATCH, json={"operations": list(operations), **members})

    return post


@pytest.fixture(autouse=True)
def _small(store, verify):
    """Make an event of five seats beside the default one; afterwards the ledgers agree."""
    store.create_event("small", "Small", 5)
    yield
    assert verify()[0] == 0


def statuses(answer) -> list[int]:
    return [item["status"] for item in answer.json["items"]]


def test_every_operation_is_answered_as_the_single_call_would_be(send, client):
    made = client.post("/api/v1/reservations", json={"partnerId": "abc-corp", "seats": 4}).json
    hold = client.post(
        "/api/v1/reservations", json={"partnerId": "abc-corp", "seats": 2, "holdSeconds": 60}
    ).json
    answer = send(
        {**RESERVE, "idempotencyKey": "k"},
        {"op": "reduce", "reservationId": made["reservationId"], "seats": 3},
        {"op": "extend", "reservationId": hold["reservationId"], "holdSeconds": 90},
        {"op": "confirm", "reservationId": hold["reservationId"]},
        {"op": "cancel", "reservationId": made["reservationId"]},
        {**RESERVE, "eventId": "small", "seats": 6},
        {"op": "cancel", "reservationId": str(uuid4())},
        {"op": "cancel", "reservationId": "no-id"},
        {**RESERVE, "eventId": "none"},
        {**RESERVE, "idempotencyKey": "k"},
        {**RESERVE, "ifMatch": '"1"'},
    )
    assert answer.status_code == 200
    assert statuses(answer) == [201, 200, 200, 200, 204, 409, 404, 404, 404, 201, 412]
    first, reduced, *_, again, _ = answer.json["items"]
    assert first["location"] == f"/api/v1/reservations/{first['reservationId']}"
    assert first["etag"] == f'"{first["version"]}"'
    assert first["reservationStatus"] == "confirmed"
    assert (reduced["seats"], reduced["partnerId"]) == (3, "abc-corp")
    assert again["idempotentReplayed"]
    assert again["reservationId"] == first["reservationId"]
    shown = client.get(first["location"]).json
    assert {**shown, "status": 201} == {
        name: value
        for name, value in first.items()
        if name not in ("location", "etag", "reservationStatus")
    }


def test_operations_on_one_event_are_decided_in_their_order(send):
    five = [{**RESERVE, "eventId": "small", "seats": seats} for seats in (3, 3, 2, 1)]
    answer = send(*five)
    assert statuses(answer) == [201, 409, 201, 409]
    assert answer.json["items"][1]["availableSeats"] == 2
    assert answer.json["items"][1]["code"] == "sold_out"


def test_one_key_for_two_events_goes_to_the_operation_that_comes_first(send):
    keyed = {**RESERVE, "idempotencyKey": "k"}
    answer = send(RESERVE, {**keyed, "eventId": "small"}, keyed, RESERVE)
    assert statuses(answer) == [201, 201, 422, 201]


@pytest.mark.parametrize(
    "operation",
    [
        None,
        7,
        [],
        {},
        {"op": "sell"},
        {"op": ["reserve"]},
        {"op": "reserve", "partnerId": "abc-corp"},
        {**RESERVE, "seats": 11},
        {**RESERVE, "seats": 2.5},
        {**RESERVE, "seat": 1},
        {**RESERVE, "idempotencyKey": ""},
        {**RESERVE, "idempotencyKey": "é"},
        {**RESERVE, "idempotencyKey": 7},
        {**RESERVE, "ifMatch": "14"},
        {**RESERVE, "ifMatch": 14},
        {"op": "cancel"},
        {"op": "cancel", "reservationId": 7},
        {"op": "cancel", "reservationId": NOBODYS, "seats": 1},
        {"op": "extend", "reservationId": NOBODYS},
        {"op": "reduce", "reservationId": NOBODYS, "seats": 0},
    ],
    ids=json.dumps,
)
def test_a_malformed_operation_is_refused_in_its_item_alone(send, operation):
    answer = send(RESERVE, operation, RESERVE)
    assert statuses(answer) == [201, 400, 201]
    item = answer.json["items"][1]
    assert item["code"] == "invalid_request"
    assert item["error"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"operations": []},
        {"operations": RESERVE},
        {"operations": "reserve"},
        {"operations": [RESERVE] * 65},
        {"operations": [RESERVE], "atomic": 1},
        {"operations": [RESERVE], "atomic": None},
        {"operations": [RESERVE], "atom": True},
    ],
)
def test_a_malformed_list_is_refused_as_a_whole(client, body, sql):
    answer = client.post(BATCH, json=body)
    assert (answer.status_code, answer.json["code"]) == (400, "invalid_request")
    assert sql("SELECT count(*) FROM reservations") == [(0,)]


def test_the_largest_honest_batch_fits_and_a_larger_one_is_told(client):
    longest = {
        **RESERVE,
        "partnerId": "\U0001f600" * 64,
        "idempotencyKey": "k" * 255,
        "eventId": "e" * 64,
        "ifMatch": '"1"',
    }
    body = json.dumps({"operations": [longest] * 64})
    assert limits.BODY_BYTES < len(body) < limits.BATCH_BODY_BYTES
    answer = client.post(BATCH, data=body, content_type="application/json")
    assert statuses(answer) == [404] * 64
    answer = client.post(BATCH, data=body + " " * 2**17, content_type="application/json")
    assert (answer.status_code, answer.json["error"]) == (413, "The body is larger than 128 KiB")


def test_the_largest_honest_batch_passes_the_front_door(server):
    operations = [{**RESERVE, "eventId": "small", "idempotencyKey": "k" * 255}] * 64
    body = {"operations": operations, "atomic": False}
    assert len(json.dumps(body)) > limits.BODY_BYTES
    for address in (BATCH, f"{BATCH}/"):
        answer = server.client().post(address, body)
        assert {item["status"] for item in answer.json["items"]} == {201}
    text = json.dumps(body).encode().ljust(2**17 + 1)
    too_large = server.client().post(BATCH, text, content_type="application/json")
    assert too_large.status == 413


def test_an_answer_has_at_most_128_kib(send):
    names = {f"{'m' * 90}{number}": 1 for number in range(15)}
    answer = send(*[{**RESERVE, **names}] * 64)
    assert statuses(answer) == [400] * 64
    assert len(answer.data) <= 128 * 1024


# --- Atomic -----------------------------------------------------------------------------


def test_all_of_a_package_are_made(send, client):
    answer = send(RESERVE, {**RESERVE, "eventId": "small", "seats": 5}, atomic=True)
    assert (answer.status_code, statuses(answer)) == (200, [201, 201])
    assert client.get("/api/v1/events/small").json["availableSeats"] == 0


@pytest.mark.parametrize(
    ("operation", "status"),
    [
        ({**RESERVE, "eventId": "small", "seats": 6}, 409),
        ({**RESERVE, "seats": 11}, 400),
        ({**RESERVE, "eventId": "none"}, 404),
        ({**RESERVE, "eventId": "No Event"}, 404),
        ({"op": "cancel", "reservationId": NOBODYS}, 404),
        ({"op": "confirm", "reservationId": "no-id"}, 404),
        ({"op": "sell"}, 400),
    ],
    ids=json.dumps,
)
def test_one_that_is_refused_refuses_the_package(send, sql, operation, status):
    answer = send(RESERVE, operation, RESERVE, atomic=True)
    assert (answer.status_code, answer.json["code"]) == (409, "batch_refused")
    assert answer.json["requestId"]
    assert statuses(answer) == [424, status, 424]
    assert answer.json["items"][0]["code"] == "not_made"
    assert sql("SELECT count(*) FROM reservations") == [(0,)]


def test_a_package_of_nothing_but_mistakes_is_refused(send):
    answer = send({"op": "sell"}, {**RESERVE, "seats": 0}, atomic=True)
    assert (answer.status_code, statuses(answer)) == (409, [400, 400])


def test_a_package_whose_answer_was_lost_can_be_sent_again(send, client, sql):
    made = client.post("/api/v1/reservations", json={"partnerId": "abc-corp", "seats": 4}).json
    operations = [
        {**RESERVE, "eventId": "small", "seats": 3, "idempotencyKey": "a"},
        {"op": "cancel", "reservationId": made["reservationId"]},
        {**RESERVE, "idempotencyKey": "b"},
    ]
    first, again = send(*operations, atomic=True), send(*operations, atomic=True)
    assert (first.status_code, statuses(first)) == (200, [201, 204, 201])
    assert (again.status_code, statuses(again)) == (200, [201, 404, 201])
    assert again.json["items"][1]["code"] == "already_cancelled"
    assert again.json["items"][0]["reservationId"] == first.json["items"][0]["reservationId"]
    assert sql("SELECT count(*) FROM ledger WHERE version > 0") == [(4,)]


def test_batches_that_overlap_in_their_keys_have_one_effect_a_key(server, sql):
    """From several connections and two processes, each key in two batches, some atomic."""
    threads = []
    answers = []

    def post(start, atomic):
        operations = [
            {**RESERVE, "idempotencyKey": f"key-{number % 40}"}
            for number in range(start, start + 16)
        ]
        body = {"operations": operations, "atomic": atomic}
        answers.append(server.client().post(BATCH, body).json)

    for number in range(20):
        threads.append(threading.Thread(target=post, args=(8 * number, number % 3 == 0)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert {item["status"] for answer in answers for item in answer["items"]} == {201}
    assert sql("SELECT count(*), count(DISTINCT idempotency_key) FROM reservations") == [(40, 40)]
