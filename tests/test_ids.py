"""Reservation ids: what they are, and that a wrong guess of their event changes nothing."""

import itertools
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from uuid import RFC_4122, UUID

import pytest

from ticketboss.rules import ids as make
from ticketboss.rules.ids import MARKS, ReservationIds


def test_an_id_is_a_uuid_of_version_7():
    before = time.time_ns() // 1_000_000
    made = [ReservationIds().new("concert") for _ in range(1000)]
    after = time.time_ns() // 1_000_000
    assert {(id.version, id.variant) for id in made} == {(7, RFC_4122)}
    assert all(before <= id.int >> 80 <= after for id in made)
    assert len(set(made)) == 1000
    # Nothing is the same in all of them but the time, the version, the mark and the variant.
    low = [id.int & (1 << 62) - 1 for id in made]
    assert all(0 < sum(value >> bit & 1 for value in low) < 1000 for bit in range(62))


def test_the_event_of_an_id_is_known_once_it_has_been_seen():
    ids, other = ReservationIds(), ReservationIds()
    made = ids.new("concert")
    assert ids.event(made) == "concert"
    assert other.event(made) is None
    other.remember("concert")
    assert other.event(made) == "concert"


@pytest.fixture
def alike(store) -> tuple[str, str]:
    """Give two events that share a mark."""
    marks = {}
    for number in itertools.count():
        name = f"alike-{number}"
        first = marks.setdefault(ReservationIds().remember(name), name)
        if first != name:
            break
    for event_id in (first, name):
        store.create_event(event_id, "Alike", 10)
    return first, name


@pytest.mark.parametrize("method", ["DELETE", "PATCH", "confirm", "extend"])
def test_a_change_finds_its_reservation_whichever_event_was_guessed(client, verify, alike, method):
    one, other = alike

    def hold(event_id: str) -> str:
        body = {"partnerId": "abc-corp", "seats": 3, "holdSeconds": 60}
        return client.post(f"/api/v1/events/{event_id}/reservations", json=body).location

    places = hold(one), hold(other), hold(one)
    for place in places:
        if method.isupper():
            answer = client.open(place, method=method, json={"seats": 1})
        else:
            body = {"holdSeconds": 90} if method == "extend" else None
            answer = client.post(f"{place}/{method}", json=body)
        assert answer.status_code in (200, 204), answer.json
    left = [client.get(f"/api/v1/events/{event_id}").json["availableSeats"] for event_id in alike]
    assert left == {"DELETE": [10, 10], "PATCH": [8, 9]}.get(method, [4, 7])
    assert verify()[0] == 0


def test_an_id_that_only_looks_like_one_of_an_event_is_not_found(client):
    body = {"partnerId": "abc-corp", "seats": 3}
    place = client.post("/api/v1/reservations", json=body).location
    known = UUID(place.rpartition("/")[2])
    stranger = UUID(int=known.int ^ 1)
    answer = client.delete(f"/api/v1/reservations/{stranger}")
    assert (answer.status_code, answer.json["code"]) == (404, "not_found")
    assert client.get("/api/v1/reservations").json["version"] == 1
    assert client.delete(place).status_code == 204


def test_what_is_remembered_does_not_grow():
    ids = ReservationIds()
    for number in range(3 * MARKS):
        ids.remember(f"event-{number}")
    assert len(ids) == MARKS


def test_a_forked_process_makes_ids_of_its_own():
    here = [make.random_bytes()]  # the next ones are there before the fork
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as child:
        there = list(child.map(_random_bytes, range(300)))
    here += [make.random_bytes() for _ in range(300)]
    assert len({*here, *there}) == len(here) + len(there)


def _random_bytes(_) -> bytes:
    return make.random_bytes()
