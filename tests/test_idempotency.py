"""Retrying safely: Idempotency-Key (API.md, section 8)."""

import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor

import past
import proxy
import pytest
from serving import ADMIN, new_folder, postgresql, run_sql
from test_conditions import eventually, one_batch

from ticketboss import create_app
from ticketboss.config import Config

RESERVATIONS = "/api/v1/reservations"
OTHER = "/api/v1/events/other/reservations"
BODY = {"partnerId": "abc-corp", "seats": 3}
KEY = {"Idempotency-Key": "order-1"}
REPLAYED = "Idempotent-Replayed"


@pytest.fixture
def reserve(client):
    """Reserve with the key; members of the body can be replaced, or dropped with None."""

    def reserve(to=RESERVATIONS, headers=KEY, **members):
        body = {name: value for name, value in {**BODY, **members}.items() if value is not None}
        return client.post(to, json=body, headers=headers)

    return reserve


@pytest.fixture
def other_event(client):
    body = {"eventId": "other", "name": "Other", "totalSeats": 10}
    assert client.post("/api/v1/events", json=body, headers=ADMIN).status_code == 201


@pytest.fixture
def rows(sql):
    return lambda: sql("SELECT count(*) FROM reservations")[0][0]


@pytest.mark.parametrize("hold", [None, 60])
def test_a_retry_gets_the_same_reservation_marked_as_replayed(reserve, rows, verify, hold):
    first, second = reserve(holdSeconds=hold), reserve(holdSeconds=hold)
    assert (first.status_code, second.status_code) == (201, 201)
    assert second.data == first.data
    assert second.location == first.location
    assert second.headers["ETag"] == first.headers["ETag"]
    assert (REPLAYED in first.headers, second.headers[REPLAYED]) == (False, "true")
    assert rows() == 1
    assert verify() == (0, "node-meetup-2025: 1 changes, ok\n")


def test_twenty_concurrent_requests_with_one_key_over_two_processes_are_one_reservation(
    server, rows, verify
):
    assert len(server.worker_pids()) == 2

    def retry(_):
        return server.client().post(RESERVATIONS, BODY, idempotency_key="order-1")

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(retry, range(20)))
    assert [answer.status for answer in answers] == [201] * 20
    assert len({answer.body for answer in answers}) == 1
    assert [answer.headers[REPLAYED] for answer in answers].count("true") == 19
    assert [answer.headers[REPLAYED] for answer in answers].count(None) == 1
    assert rows() == 1
    assert verify() == (0, "node-meetup-2025: 1 changes, ok\n")


def test_one_key_many_times_in_one_batch_is_one_reservation(application, write_path, rows):
    def retry():
        return application.test_client().post(RESERVATIONS, json=BODY, headers=KEY)

    answers = one_batch(write_path, [retry] * 5)
    assert [answer.status_code for answer in answers] == [201] * 5
    assert len({answer.data for answer in answers}) == 1
    assert [answer.headers.get(REPLAYED) for answer in answers] == [None] + 4 * ["true"]
    assert rows() == 1


def test_concurrent_requests_with_one_key_for_two_events_make_one_reservation(
    server, other_event, rows, verify
):
    def race(number):
        to = RESERVATIONS if number % 2 else OTHER
        return server.client().post(to, BODY, idempotency_key="order-1")

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(race, range(16)))
    made = [answer for answer in answers if answer.status == 201]
    assert len(made) == 8
    assert len({answer.body for answer in made}) == 1
    assert {a.json["code"] for a in answers if a.status != 201} == {"idempotency_key_reused"}
    assert rows() == 1
    assert verify()[0] == 0


def test_a_worker_killed_between_commit_and_answer_leaves_a_reservation_for_the_retry(
    dsn, serve, rows, verify
):
    with proxy.Proxy(dsn) as between, ThreadPoolExecutor(1) as pool:
        server = serve(between.dsn, WORKERS="1")
        (worker,) = server.worker_pids()
        fault = between.fault(proxy.HELD)
        lost = pool.submit(server.client().post, RESERVATIONS, BODY, idempotency_key="order-1")
        fault.wait_until_reached()
        # Stopped, the worker cannot answer what is committed now.
        os.kill(worker, signal.SIGSTOP)
        fault.deliver()
        assert rows() == 1
        os.kill(worker, signal.SIGKILL)
        assert isinstance(lost.exception(), OSError)

        retry = server.client().post(RESERVATIONS, BODY, idempotency_key="order-1")
        assert (retry.status, retry.headers[REPLAYED]) == (201, "true")
        assert retry.json["version"] == 1
        assert server.worker_pids() != [worker]
    assert rows() == 1
    assert verify()[0] == 0


@pytest.mark.parametrize("members", [{"seats": 2}, {"holdSeconds": 60}])
def test_a_key_cannot_be_used_for_another_request(reserve, rows, members):
    reserve()
    refused = reserve(**members)
    assert (refused.status_code, refused.json["code"]) == (422, "idempotency_key_reused")
    assert reserve().status_code == 201
    assert rows() == 1


@pytest.mark.parametrize("members", [{"holdSeconds": 61}, {"holdSeconds": None}])
def test_a_key_of_a_hold_cannot_be_used_for_another_hold_or_a_sale(reserve, members):
    reserve(holdSeconds=60)
    assert reserve(**{"holdSeconds": 60, **members}).json["code"] == "idempotency_key_reused"


def test_a_key_cannot_be_used_for_another_event(reserve, other_event, rows):
    reserve()
    assert reserve(to=OTHER).json["code"] == "idempotency_key_reused"
    assert reserve(to="/api/v1/events/node-meetup-2025/reservations").headers[REPLAYED] == "true"
    assert rows() == 1


@pytest.mark.parametrize("condition", [{}, {"if_match": '"0"'}], ids=str)
def test_a_key_of_an_expired_hold_cannot_be_used_for_another_event(
    serve, other_event, sql, condition
):
    """On a server of its own: a loop without end must not outlast the test."""
    server = serve(WORKERS="1")
    hold = {**BODY, "holdSeconds": 60}
    assert server.client().post(RESERVATIONS, hold, idempotency_key="order-1").status == 201
    past.end_holds(sql)
    refused = server.client(timeout=8).post(OTHER, BODY, idempotency_key="order-1", **condition)
    assert (refused.status, refused.json["code"]) == (422, "idempotency_key_reused")


def test_a_key_belongs_to_its_partner(reserve, rows):
    first = reserve()
    second = reserve(partnerId="other-corp", seats=2)
    assert second.status_code == 201
    assert REPLAYED not in second.headers
    assert second.json["reservationId"] != first.json["reservationId"]
    assert rows() == 2


def test_without_a_key_every_request_is_a_new_one(reserve, rows):
    assert len({reserve(headers={}).location for _ in range(3)}) == 3
    assert rows() == 3


def _sold_out(sql):
    sql("UPDATE events SET available_seats = 0, initial_seats = 0, total_seats = 0")
    return "UPDATE events SET available_seats = 500, initial_seats = 500, total_seats = 500"


def _not_open(sql):
    sql("UPDATE events SET sales_open_at = now() + interval '1 hour'")
    return "UPDATE events SET sales_open_at = NULL"


def _closed(sql):
    sql("UPDATE events SET sales_close_at = now()")
    return "UPDATE events SET sales_close_at = NULL"


@pytest.mark.parametrize("refuse", [_sold_out, _not_open, _closed])
def test_a_refusal_is_not_stored(reserve, sql, refuse):
    undo = refuse(sql)
    assert reserve().status_code == 409
    sql(undo)
    later = reserve()
    assert (later.status_code, REPLAYED in later.headers) == (201, False)


@pytest.mark.parametrize("refusal", [{"seats": 0}, {"seats": 11}, {"holdSeconds": 0}])
def test_a_bad_request_does_not_use_up_its_key(reserve, refusal):
    assert reserve(**refusal).status_code == 400
    assert REPLAYED not in reserve().headers


@pytest.mark.parametrize("refuse", [_sold_out, _not_open, _closed])
def test_a_replay_is_not_judged_by_what_came_after(reserve, sql, refuse):
    first = reserve()
    if refuse is _sold_out:
        sql("UPDATE events SET available_seats = 0, initial_seats = 3, total_seats = 3")
    else:
        refuse(sql)
    assert reserve().data == first.data


def test_a_replay_of_a_conditional_reserve_needs_no_current_version(reserve):
    condition = {**KEY, "If-Match": '"0"'}
    assert reserve(headers=condition).status_code == 201
    again = reserve(headers=condition)
    assert (again.status_code, again.headers[REPLAYED]) == (201, "true")


@pytest.mark.parametrize(
    "key",
    ["", "x" * 256, "caf\xe9", "\xff", "tab\tbed", "\x7f", "\x80"],
    ids=lambda key: repr(key)[:12],
)
def test_a_key_that_is_not_1_to_255_printable_ascii_characters_is_refused(server, rows, key):
    refused = server.client().post(RESERVATIONS, BODY, idempotency_key=key)
    assert (refused.status, refused.json["code"]) == (400, "invalid_request")
    assert "Idempotency-Key" in refused.json["error"] or key == "\x7f"
    assert rows() == 0


@pytest.mark.parametrize("first", ["order-7", '"order-7"'])
@pytest.mark.parametrize("second", ["order-7", '"order-7"'])
def test_a_key_in_quotes_is_the_same_key(reserve, rows, first, second):
    assert REPLAYED not in reserve(headers={"Idempotency-Key": first}).headers
    assert reserve(headers={"Idempotency-Key": second}).headers[REPLAYED] == "true"
    assert rows() == 1


def test_quotes_are_no_part_of_the_length_of_a_key_and_one_pair_is_taken_off(reserve, rows):
    longest = "x" * 255
    assert reserve(headers={"Idempotency-Key": f'"{longest}"'}).status_code == 201
    assert REPLAYED in reserve(headers={"Idempotency-Key": longest}).headers
    for key in ('""', f'"{longest}x"'):
        assert reserve(headers={"Idempotency-Key": key}).status_code == 400
    others = ['"', '"x', 'x"', '""x""']
    for key in others:
        assert REPLAYED not in reserve(headers={"Idempotency-Key": key}).headers
    assert rows() == 1 + len(others)


@pytest.mark.parametrize("key", ["x", "x" * 255, "a b", "'\"%s%(seats)s\\;--", "~!"], ids=repr)
def test_any_printable_key_will_do(reserve, key):
    headers = {"Idempotency-Key": key}
    first = reserve(headers=headers)
    assert (first.status_code, REPLAYED in first.headers) == (201, False)
    assert reserve(headers=headers).headers[REPLAYED] == "true"


def test_a_replay_shows_the_reservation_as_it_is_now(client, reserve, sql):
    def replayed():
        answer = reserve(holdSeconds=60)
        assert (answer.status_code, answer.headers[REPLAYED]) == (201, "true")
        assert answer.json == client.get(answer.location).json
        return answer.json["status"], answer.json["seats"], answer.json["version"]

    place = reserve(holdSeconds=60).location
    assert replayed() == ("held", 3, 1)
    client.patch(place, json={"seats": 2})
    assert replayed() == ("held", 2, 2)
    client.post(place + "/confirm")
    assert replayed() == ("confirmed", 2, 3)
    client.delete(place)
    assert replayed() == ("cancelled", 2, 4)


def test_a_replay_of_a_hold_that_has_expired_shows_it_expired(reserve, sql, verify):
    reserve(holdSeconds=60)
    past.end_holds(sql)
    answer = reserve(holdSeconds=60)
    assert (answer.status_code, answer.json["status"]) == (201, "expired")
    assert verify()[0] == 0


def test_a_replay_right_behind_a_cancel_in_its_batch_shows_it_cancelled(
    application, write_path, reserve
):
    place = reserve().location
    cancelled, replayed = one_batch(
        write_path,
        [
            lambda: application.test_client().delete(place),
            lambda: application.test_client().post(RESERVATIONS, json=BODY, headers=KEY),
        ],
    )
    assert (cancelled.status_code, replayed.status_code) == (204, 201)
    assert (replayed.json["status"], replayed.json["version"]) == ("cancelled", 2)
    assert replayed.json == application.test_client().get(place).json


# --- Durability -------------------------------------------------------------------


@pytest.fixture
def standby():
    """Give a PostgreSQL of its own whose synchronous standby can be made to be absent."""
    folder = new_folder("ticketboss-test-")

    class Standby:
        def __init__(self, dsn):
            self.dsn = dsn
            self.application = create_app(Config(database_url=dsn, admin_key="k" * 16))
            self.sql("CREATE TABLE probe (at timestamptz)")

        def sql(self, statement):
            return run_sql(self.dsn, statement)

        def waiting(self):
            return [
                pid
                for (pid,) in self.sql(
                    "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
                )
            ]

        def cancel_waiting(self):
            """End the wait: what is committed here stays, and no standby has it."""
            for pid in self.waiting():
                self.sql(f"SELECT pg_cancel_backend({pid})")
            eventually(lambda: not self.waiting())

        def leave(self):
            self.sql("ALTER SYSTEM SET synchronous_standby_names = 'absent'")
            self.sql("SELECT pg_reload_conf()")
            # The checkpointer takes it up in its own time: see a commit wait.
            with ThreadPoolExecutor(1) as pool:

                def a_commit_waits():
                    tried = pool.submit(self.sql, "INSERT INTO probe VALUES (now())")
                    eventually(lambda: tried.done() or self.waiting())
                    return not tried.done()

                eventually(a_commit_waits)
                self.cancel_waiting()

        def come_back(self):
            self.sql("ALTER SYSTEM RESET synchronous_standby_names")
            self.sql("SELECT pg_reload_conf()")
            eventually(lambda: not self.waiting())

    try:
        with postgresql(folder) as dsn:
            standby = Standby(dsn)
            yield standby
            standby.come_back()  # or the server waits for its own last commits
    finally:
        shutil.rmtree(folder)


def test_a_replay_is_acknowledged_only_once_the_standby_has_it(standby):
    client = standby.application.test_client()

    def reserve():
        return client.post(RESERVATIONS, json=BODY, headers=KEY)

    standby.leave()
    refused = reserve()
    assert refused.status_code == 503
    # Committed here, and nowhere else: anybody can read it, nobody may promise it.
    standby.cancel_waiting()
    assert standby.sql("SELECT count(*) FROM reservations") == [(1,)]
    assert client.get(RESERVATIONS).json["reservationCount"] == 1
    replayed = reserve()
    assert (replayed.status_code, replayed.json["code"]) == (503, "unavailable")
    standby.cancel_waiting()
    assert reserve().status_code == 503

    standby.come_back()
    replayed = eventually(lambda: (answer := reserve()).status_code != 503 and answer)
    assert (replayed.status_code, replayed.headers[REPLAYED]) == (201, "true")
    assert standby.sql("SELECT count(*) FROM reservations") == [(1,)]
