"""The database or the way to it breaks: nothing acknowledged is lost, nothing is done twice."""

import contextlib
import http.client
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import past
import pytest
from proxy import (
    BEFORE,
    HALF_ANSWERED,
    HELD,
    POINTS,
    TORN,
    UNANSWERED,
    Proxy,
    is_exchange,
    is_lookup,
)
from serving import Server, new_folder, postgresql, run_sql, wait_for

from ticketboss import create_app
from ticketboss.config import Config
from ticketboss.data.database import ConnectionLost, Database
from ticketboss.data.store import Store
from ticketboss.data.verify import replay_ledgers
from ticketboss.rules.changes import ReservationChange
from ticketboss.serving import embedded

SECONDS = 10
EVENT = "node-meetup-2025"
URL = "/api/v1/reservations"
BODY = {"partnerId": "abc-corp", "seats": 3}
ONE_SEAT = {"partnerId": "abc-corp", "seats": 1}


def disagreements(dsn: str) -> list:
    """Return what `flask verify` would complain about."""
    replays = replay_ledgers(Database(dsn, 1))
    return [(replay.event_id, replay.differences) for replay in replays if replay.differences]


def wait_until(condition, seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.01)


class Call(threading.Thread):
    """One HTTP call in a thread of its own."""

    def __init__(self, app, method: str, url: str, **more):
        super().__init__(daemon=True)
        self._call = lambda: app.test_client().open(url, method=method, **more)
        self._answer = None
        self.start()

    def run(self):
        self._answer = self._call()

    @property
    def answer(self):
        self.join(SECONDS)
        assert not self.is_alive(), "a request waits in vain"
        return self._answer


# --- The connection, cut and held at known points -----------------------------


@pytest.fixture
def proxy(dsn, serving_dsn, sql):
    """Give a proxy before the session's database; the ledger must give every number at the end."""
    with Proxy(serving_dsn) as running:
        yield running
    # A transaction whose client is gone may still be under way.
    wait_until(
        lambda: (
            sql(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ticketboss'"
                " AND state <> 'idle' AND pid <> pg_backend_pid()"
            )
            == [(0,)]
        )
    )
    assert disagreements(dsn) == []


@pytest.fixture
def app(proxy):
    """Give the application, reaching its database through the proxy."""
    app = create_app(Config(database_url=proxy.dsn))
    yield app
    app.extensions["ticketboss"]["store"].database.close()


@pytest.fixture
def rows(sql):
    """Give a function that returns the statuses of all reservations."""
    return lambda: [status for (status,) in sql("SELECT status FROM reservations")]


@pytest.fixture
def types(sql):
    """Give a function that returns the types of all changes, in order."""
    return lambda: [
        type for (type,) in sql("SELECT type FROM ledger WHERE version > 0 ORDER BY version")
    ]


@pytest.mark.parametrize("point", POINTS)
def test_a_reservation_whose_connection_is_cut_is_made_exactly_once(app, proxy, rows, types, point):
    fault = proxy.fault(point)
    answer = app.test_client().post(URL, json=BODY)
    assert fault.reached.is_set()
    assert answer.status_code == 201
    assert app.test_client().get(answer.location).json == answer.json
    assert rows() == ["confirmed"]
    assert types() == ["reserved"]


@pytest.mark.parametrize("point", POINTS)
def test_a_cancel_whose_connection_is_cut_is_made_exactly_once(app, proxy, rows, types, point):
    client = app.test_client()
    location = client.post(URL, json=BODY).location
    fault = proxy.fault(point)
    assert client.delete(location).status_code == 204
    assert fault.reached.is_set()
    again = client.delete(location)
    assert (again.status_code, again.json["code"]) == (404, "already_cancelled")
    assert client.get(URL).json["availableSeats"] == 500
    assert rows() == ["cancelled"]
    assert types() == ["reserved", "cancelled"]


@pytest.mark.parametrize("point", POINTS)
def test_of_many_cancels_on_a_cut_connection_exactly_one_is_answered_204(app, proxy, types, point):
    location = app.test_client().post(URL, json=BODY).location
    proxy.fault(point)
    calls = [Call(app, "DELETE", location) for _ in range(6)]
    statuses = sorted(call.answer.status_code for call in calls)
    assert statuses == [204] + [404] * 5
    assert types() == ["reserved", "cancelled"]


@pytest.mark.parametrize("point", POINTS)
def test_a_write_for_several_events_whose_connection_is_cut_is_made_exactly_once(
    app, proxy, sql, point
):
    for event_id in ("alpha", "beta"):
        event = {"event_id": event_id, "name": "Other", "total_seats": 5}
        app.extensions["ticketboss"]["store"].create_event(**event)
    path = app.extensions["ticketboss"]["write_path"]
    first = proxy.fault(HELD)
    calls = [Call(app, "POST", URL, json=BODY)]
    first.wait_until_reached()
    for url in ("/api/v1/events/alpha/reservations", "/api/v1/events/beta/reservations", URL):
        calls.append(Call(app, "POST", url, json=BODY))
        wait_until(lambda: path.length == len(calls) - 1)
    fault = proxy.fault(point)
    first.release()
    assert [call.answer.status_code for call in calls] == [201] * 4
    assert fault.reached.is_set()
    ledger = sql(
        "SELECT event_id, version, batch_id FROM ledger WHERE version > 0"
        " ORDER BY event_id, version"
    )
    assert [row[:2] for row in ledger] == [("alpha", 1), ("beta", 1), (EVENT, 1), (EVENT, 2)]
    # The first was alone; the others went together, when they were written at last.
    assert len({batch_id for _, _, batch_id in ledger}) == 2
    for call in calls:
        assert app.test_client().get(call.answer.location).json == call.answer.json


def test_a_lost_confirm_is_found_though_the_reservation_has_been_changed_since(
    app, proxy, application, types
):
    location = app.test_client().post(URL, json={**BODY, "holdSeconds": 60}).location
    proxy.fault(UNANSWERED)
    look_up = proxy.fault(HELD, is_lookup)
    call = Call(app, "POST", location + "/confirm")
    look_up.wait_until_reached()
    assert application.test_client().delete(location).status_code == 204
    look_up.deliver()
    assert (call.answer.status_code, call.answer.json["status"]) == (200, "confirmed")
    assert types() == ["held", "confirmed", "cancelled"]


@pytest.mark.parametrize("points", [(BEFORE, UNANSWERED), (TORN, TORN, HALF_ANSWERED)], ids=str)
def test_a_write_that_is_cut_again_and_again_is_made_exactly_once(app, proxy, types, points):
    faults = [proxy.fault(point) for point in points]
    assert app.test_client().post(URL, json=BODY).status_code == 201
    assert all(fault.reached.is_set() for fault in faults)
    assert types() == ["reserved"]


@pytest.mark.parametrize("point", POINTS)
def test_a_look_up_that_is_cut_too_is_repeated(app, proxy, types, point):
    faults = [proxy.fault(UNANSWERED), proxy.fault(point, is_lookup)]
    assert app.test_client().post(URL, json=BODY).status_code == 201
    assert all(fault.reached.is_set() for fault in faults)
    assert types() == ["reserved"]


@pytest.mark.parametrize("point", POINTS)
def test_when_the_way_stays_cut_the_answer_is_503_and_the_key_settles_it(
    app, proxy, types, dsn, point
):
    fault = proxy.fault(point)
    client = app.test_client()
    client.get(URL)
    proxy.refuse()
    keyed = {"Idempotency-Key": "k-1"}
    # Whatever is still in the pool could be used; the cut takes the only one there is.
    started = time.monotonic()
    answer = client.post(URL, json=BODY, headers=keyed)
    assert time.monotonic() - started < 1.5
    assert fault.reached.is_set()
    assert (answer.status_code, answer.json["code"]) == (503, "unavailable")
    committed = point in (UNANSWERED, HALF_ANSWERED)
    assert types() == (["reserved"] if committed else [])
    proxy.refuse(0)
    again = client.post(URL, json=BODY, headers=keyed)
    assert again.status_code == 201
    assert again.headers.get("Idempotent-Replayed") == ("true" if committed else None)
    assert types() == ["reserved"]


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("makes", ["reserve", "cancel"])
def test_a_lost_write_that_lands_during_its_repetition_is_found(app, proxy, types, makes, place):
    """Before the look-up, before any other message of the second try, or before its write."""
    method, url, more, before = _change(app, makes)
    lost = proxy.fault(HELD)
    call = Call(app, method, url, **more)
    lost.wait_until_reached()
    gap = _hold_at(proxy, place)
    wait_until(lambda: gap.reached.is_set() or not call.is_alive())
    lost.deliver()
    gap.release()
    assert call.answer.status_code in (201, 204)
    assert types() == [*before, "reserved" if makes == "reserve" else "cancelled"]


# The messages of a change: those that read, and the one that writes.
SUPPOSED = [(True, place) for place in range(2)]
READ_FIRST = [(False, place) for place in range(3)]


@pytest.mark.parametrize(("supposes", "place"), SUPPOSED + READ_FIRST)
@pytest.mark.parametrize("rival", ["DELETE", "PATCH"])
def test_a_rival_may_change_the_reservation_at_any_point_of_our_cancel(
    app, proxy, application, types, monkeypatch, supposes, place, rival
):
    """What is read of the event and of the reservation must be one state of both."""
    monkeypatch.setattr(ReservationChange, "may_suppose", supposes)
    client = app.test_client()
    client.post(URL, json=BODY)  # stays: hides a seat given back twice from the constraints
    location = client.post(URL, json=BODY).location
    gap = _hold_at(proxy, place)
    call = Call(app, "DELETE", location)
    wait_until(lambda: gap.reached.is_set() or not call.is_alive())
    other = application.test_client().open(location, method=rival, json={"seats": 1})
    assert other.status_code == (204 if rival == "DELETE" else 200)
    gap.release()
    assert call.answer.status_code == (404 if rival == "DELETE" else 204)
    assert client.get(URL).json["availableSeats"] == 497
    changes = ["cancelled"] if rival == "DELETE" else ["reduced", "cancelled"]
    assert types() == ["reserved", "reserved", *changes]


@pytest.mark.parametrize(("supposes", "place"), SUPPOSED + READ_FIRST)
def test_a_rival_may_cancel_at_any_point_of_our_confirm(
    app, proxy, application, types, monkeypatch, supposes, place
):
    monkeypatch.setattr(ReservationChange, "may_suppose", supposes)
    location = app.test_client().post(URL, json={**BODY, "holdSeconds": 60}).location
    gap = _hold_at(proxy, place)
    call = Call(app, "POST", location + "/confirm")
    wait_until(lambda: gap.reached.is_set() or not call.is_alive())
    assert application.test_client().delete(location).status_code == 204
    gap.release()
    assert (call.answer.status_code, call.answer.json["code"]) == (409, "already_cancelled")
    assert types() == ["held", "cancelled"]


@pytest.mark.parametrize("place", range(3))
def test_a_rival_may_use_the_same_key_at_any_point_of_our_reserve(
    app, proxy, application, types, place
):
    keyed = {"json": BODY, "headers": {"Idempotency-Key": "k-1"}}
    gap = _hold_at(proxy, place)
    call = Call(app, "POST", URL, **keyed)
    wait_until(lambda: gap.reached.is_set() or not call.is_alive())
    other = application.test_client().post(URL, **keyed)
    gap.release()
    assert {other.status_code, call.answer.status_code} == {201}
    assert other.json == call.answer.json
    assert types() == ["reserved"]


@pytest.mark.parametrize("place", range(3))
def test_a_rival_may_take_the_last_seats_at_any_point_of_our_reserve(
    app, proxy, application, types, sql, place
):
    past.create(sql, "UPDATE events SET initial_seats = 3, total_seats = 3, available_seats = 3")
    gap = _hold_at(proxy, place)
    call = Call(app, "POST", URL, json=BODY)
    wait_until(lambda: gap.reached.is_set() or not call.is_alive())
    other = application.test_client().post(URL, json=BODY)
    gap.release()
    statuses = [other.status_code, call.answer.status_code]
    assert sorted(statuses) == [201, 409]
    refused = [other, call.answer][statuses.index(409)]
    assert (refused.json["code"], refused.json["availableSeats"]) == ("sold_out", 0)
    assert types() == ["reserved"]


@pytest.mark.parametrize("makes", ["reserve", "cancel"])
def test_a_lost_write_that_lands_after_its_repetition_does_nothing(app, proxy, types, makes):
    method, url, more, before = _change(app, makes)
    fault = proxy.fault(HELD)
    assert Call(app, method, url, **more).answer.status_code in (201, 204)
    after = [*before, "reserved" if makes == "reserve" else "cancelled"]
    assert types() == after
    fault.deliver()
    assert types() == after


@pytest.mark.parametrize("makes", ["reserve", "cancel"])
def test_a_lost_write_that_lands_after_a_rivals_does_nothing(
    app, proxy, application, types, sql, makes
):
    """Somebody else's change comes between; the second try stands on that."""
    method, url, more, before = _change(app, makes)
    first, second = proxy.fault(HELD), proxy.fault(HELD)
    call = Call(app, method, url, **more)
    second.wait_until_reached()
    assert application.test_client().post(URL, json=BODY).status_code == 201
    second.deliver()
    assert call.answer.status_code in (201, 204)
    first.deliver()
    assert types() == [*before, "reserved", "reserved" if makes == "reserve" else "cancelled"]


def test_a_refusal_is_not_given_while_a_lost_write_may_still_land(app, proxy, types, sql):
    """Sales close after the write was sent: whether it counted is not known yet."""
    fault, lookup = proxy.fault(HELD), proxy.fault(HELD, is_lookup)
    call = Call(app, "POST", URL, json=BODY)
    lookup.wait_until_reached()
    # By hand, so that the version stays and the lost write could still land.
    past.create(sql, "UPDATE events SET sales_close_at = now()")
    lookup.deliver()
    assert call.answer.status_code in (409, 503)
    fault.deliver()
    assert types() == []


def test_a_frozen_way_gives_503_in_time_and_thaws_by_itself(app, proxy, types):
    client = app.test_client()
    assert client.get("/api/v1/health").status_code == 200
    proxy.freeze()
    started = time.monotonic()
    calls = [Call(app, "POST", URL, json=BODY) for _ in range(8)]
    answers = [call.answer for call in calls]
    assert time.monotonic() - started < 2
    assert {answer.status_code for answer in answers} == {503}
    started = time.monotonic()
    assert client.get("/api/v1/health").status_code == 503
    assert client.get("/livez").status_code == 200
    assert time.monotonic() - started < 1
    assert types() == []
    proxy.thaw()
    assert client.post(URL, json=BODY).status_code == 201
    assert client.get("/api/v1/health").status_code == 200


def test_after_a_write_that_timed_out_the_next_host_is_tried_first(dsn):
    """A primary that was replaced takes connections and lets no commit return."""
    with Proxy(dsn) as old, Proxy(dsn) as new:
        ports = ",".join(str(urlsplit(proxy.dsn).port) for proxy in (old, new))
        hosts = f"host=127.0.0.1,127.0.0.1 port={ports} user=postgres sslmode=disable"
        database = Database(hosts, size=2)
        assert database.read("SELECT 1") == [(1,)]
        assert (old.connections, new.connections) == (1, 0)
        old.fault(HELD, lambda message: b"SELECT 2" in message)
        with pytest.raises(ConnectionLost):
            database.write("SELECT 2", {})
        assert database.write("SELECT 3", {}) == [(3,)]
        assert (old.connections, new.connections) == (1, 1)
        # Nor is it asked by those that are connected anew.
        new.cut_all()
        assert wait_for(lambda: database.read("SELECT 4") == [(4,)])
        assert old.connections == 1
        database.close()


def test_one_connection_that_goes_silent_is_replaced(app, proxy, types):
    """Something between has forgotten the connection; the server is well."""
    fault = proxy.fault(HELD)
    client = app.test_client()
    started = time.monotonic()
    assert client.post(URL, json=BODY).status_code == 201
    assert time.monotonic() - started < 1.5
    assert fault.reached.is_set()
    assert client.get("/api/v1/health").status_code == 200
    assert types() == ["reserved"]


def test_a_storm_of_cuts_loses_nothing_and_doubles_nothing(app, proxy, sql):
    """Every few writes another cut, under load; the answers and the database must agree."""
    stop = threading.Event()
    acknowledged, statuses = [], []

    def cut():
        points = 0
        while not stop.is_set() and points < 200:
            fault = proxy.fault(POINTS[points % len(POINTS)])
            points += 1
            fault.reached.wait(0.5)
            stop.wait(0.02)

    def work():
        client = app.test_client()
        for _ in range(15):
            answer = client.post(URL, json=ONE_SEAT)
            statuses.append(answer.status_code)
            if answer.status_code == 201:
                acknowledged.append(answer.json["reservationId"])

    threads = [threading.Thread(target=work) for _ in range(8)]
    cutter = threading.Thread(target=cut)
    for thread in [cutter, *threads]:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    cutter.join()
    written = [str(id) for (id,) in sql("SELECT reservation_id FROM reservations")]
    assert len(acknowledged) == len(set(acknowledged))
    # The way back is open, so every cut could be resolved in time.
    assert set(statuses) == {201}
    assert sorted(written) == sorted(acknowledged)


def _hold_at(proxy: Proxy, place: int):
    """Hold the message after `place` others that the service sends from now on."""
    numbers = iter(range(1000))
    return proxy.fault(HELD, lambda message: is_exchange(message) and next(numbers) == place)


def _change(app, makes: str) -> tuple[str, str, dict, list[str]]:
    """Return a call that changes something, and the changes made before it."""
    if makes == "reserve":
        return "POST", URL, {"json": BODY}, []
    return "DELETE", app.test_client().post(URL, json=BODY).location, {}, ["reserved"]


# --- The server, stopped and killed -------------------------------------------


class Cluster:
    """A PostgreSQL of the test's own, whose processes it may stop and kill."""

    def __init__(self, folder: Path, dsn: str):
        self.dsn = dsn
        self._folder = folder

    def pids(self) -> list[int]:
        """Return the process id of the postmaster and, after it, of all its children."""
        postmaster = int((self._folder / "postgresql/postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text()
        return [postmaster, *map(int, children.split())]

    @contextlib.contextmanager
    def stopped(self):
        # The postmaster first: then there are no new children.
        os.kill(self.pids()[0], signal.SIGSTOP)
        pids = self.pids()
        try:
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            yield
        finally:
            for pid in reversed(pids):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def kill(self) -> None:
        """End everything at once, as a power cut would."""
        pids = self.pids()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(_runs(pid) for pid in pids))
        # Where nobody reaps orphans the process id lives on, and these files
        # would pass for those of a server that runs.
        cluster = self._folder / "postgresql"
        (cluster / "postmaster.pid").unlink()
        (cluster / ".s.PGSQL.5432.lock").unlink(missing_ok=True)

    def start(self) -> None:
        server = embedded.Server(self._folder)
        server.join()
        server.leave()  # the one that started it first still uses it


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="module")
def _cluster():
    folder = new_folder("ticketboss-fault-")
    try:
        with postgresql(folder) as dsn:
            yield Cluster(folder, dsn)
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def cluster(_cluster):
    """Give a PostgreSQL of this file alone; its ledger must give every number at the end."""
    yield _cluster
    assert disagreements(_cluster.dsn) == []


class Load:
    """Clients that reserve one seat after the other, and what they were told."""

    def __init__(self, server: Server, clients: int, event: str):
        self._server = server
        self._url = f"/api/v1/events/{event}/reservations"
        self._stop = threading.Event()
        # (sent at, answered after, status, reservation id)
        self.answers: list[tuple[float, float, int, str | None]] = []
        # (sent at, answered after, path, status)
        self.polls: list[tuple[float, float, str, int]] = []
        self._threads = [threading.Thread(target=self._reserve) for _ in range(clients)]
        self._threads.append(threading.Thread(target=self._poll))

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def acknowledged(self) -> list[str]:
        return [id for _, _, status, id in self.answers if status == 201]

    def during(self, start: float, end: float) -> list[tuple]:
        return [answer for answer in self.answers if start <= answer[0] and answer[0] < end]

    def _reserve(self) -> None:
        client = self._server.client()
        while not self._stop.is_set():
            sent = time.monotonic()
            answer = client.post(self._url, ONE_SEAT)
            took = time.monotonic() - sent
            created = answer.json["reservationId"] if answer.status == 201 else None
            self.answers.append((sent, took, answer.status, created))
            if answer.status == 503:
                self._stop.wait(0.2)  # Retry-After, in short
        client.close()

    def _poll(self) -> None:
        """Ask for the health as load balancers do, on a new connection each time."""
        while not self._stop.is_set():
            for path in ("/api/v1/health", "/livez"):
                client = self._server.client()
                sent = time.monotonic()
                status = client.get(path).status
                self.polls.append((sent, time.monotonic() - sent, path, status))
                client.close()
            self._stop.wait(0.05)


def _big_event(cluster: Cluster, event_id: str) -> str:
    Store(Database(cluster.dsn, 1)).create_event(event_id, "Big", 1_000_000)
    return event_id


def _lost(cluster: Cluster, event_id: str, load: Load) -> set:
    """Return what was acknowledged and is not in the database."""
    rows = run_sql(
        cluster.dsn, "SELECT reservation_id::text FROM reservations WHERE event_id = %s", [event_id]
    )
    assert len(load.acknowledged) == len(set(load.acknowledged))
    return set(load.acknowledged) - {id for (id,) in rows}


@pytest.mark.parametrize(
    ("workers", "threads", "clients"), [(2, 24, 16), (2, 24, 32), (1, 8, 24)], ids=str
)
def test_a_stalled_database_gives_503_in_time_and_serves_again_by_itself(
    cluster, workers, threads, clients
):
    """With more clients than threads, /health has to get past those that wait, too."""
    with Server(cluster.dsn, WORKERS=str(workers), THREADS=str(threads)) as server:
        event = _big_event(cluster, f"stall-{workers}-{threads}-{clients}")
        with Load(server, clients, event) as load:
            wait_until(lambda: len(load.acknowledged) > 50)
            with cluster.stopped():
                stalled = time.monotonic()
                time.sleep(3.5)  # the stall is the subject
                resumed = time.monotonic()
            wait_until(lambda: load.answers[-1][2] == 201)
            resumed_after = time.monotonic() - resumed
            time.sleep(0.3)
            end = time.monotonic()
    # Sent before the stall and answered in it, or sent in it.
    during = [a for a in load.answers if a[0] < resumed and a[0] + a[1] > stalled]
    in_stall = [a for a in during if a[0] > stalled and a[0] + a[1] < resumed]
    assert {status for *_, status, _ in in_stall} == {503}
    assert {status for *_, status, _ in load.answers} == {201, 503}
    assert _lost(cluster, event, load) == set()
    assert resumed_after < 2
    assert {s for _, _, s, _ in load.during(end - 0.2, end)} <= {201}
    livez = [poll for poll in load.polls if poll[2] == "/livez"]
    health = [poll for poll in load.polls if poll[2] != "/livez"]
    assert {status for *_, status in livez} == {200}
    known = [s for sent, _, _, s in health if stalled + 1.5 < sent < resumed - 1]
    assert known and set(known) == {503}
    longest = {
        "reserve": max(took for _, took, _, _ in during),
        "health": max(took for _, took, _, _ in health),
        "livez": max(took for _, took, _, _ in livez),
    }
    assert longest["health"] < 1 and longest["livez"] < 1 and longest["reserve"] < 1.5, longest


def test_a_killed_database_that_starts_again_is_used_again(cluster):
    with Server(cluster.dsn) as server:
        event = _big_event(cluster, "kill")
        with Load(server, 16, event) as load:
            wait_until(lambda: len(load.acknowledged) > 50)
            cluster.kill()
            killed = time.monotonic()
            wait_until(lambda: load.during(killed, time.monotonic()))
            wait_until(lambda: load.polls[-1][3] == 503 or load.polls[-2][3] == 503)
            cluster.start()
            started = time.monotonic()
            wait_until(lambda: load.answers[-1][2] == 201)
            assert time.monotonic() - started < 3
            wait_until(lambda: load.polls[-1][3] == load.polls[-2][3] == 200)
    assert {status for *_, status, _ in load.answers} == {201, 503}
    assert max(took for _, took, _, _ in load.answers) < 2
    assert max(took for _, took, _, _ in load.polls) < 1
    assert {s for _, _, path, s in load.polls if path == "/livez"} == {200}
    assert _lost(cluster, event, load) == set()


def test_a_worker_that_is_killed_takes_no_seats_with_it(serve, dsn, sql):
    """A batch is in the database as a whole or not at all, whenever its process ends."""
    server = serve(WORKERS="2")
    acknowledged = []
    failures = []

    def work():
        client = server.client()
        for _ in range(30):
            try:
                answer = client.post(URL, ONE_SEAT)
            except (OSError, http.client.HTTPException):
                failures.append(1)
                client = server.client()
            else:
                assert answer.status in (201, 409)
                if answer.status == 201:
                    acknowledged.append(answer.json["reservationId"])

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(acknowledged) > 30)
    os.kill(server.worker_pids()[0], signal.SIGKILL)
    for thread in threads:
        thread.join()
    written = {str(id) for (id,) in sql("SELECT reservation_id FROM reservations")}
    assert set(acknowledged) <= written
    assert len(written) <= len(acknowledged) + len(failures)
    assert disagreements(dsn) == []


# --- Several processes --------------------------------------------------------


@pytest.mark.parametrize("workers", ["2", "4", "8"])
def test_nobody_is_refused_while_seats_are_left_whatever_the_number_of_processes(
    serve, dsn, sql, workers
):
    server = serve(WORKERS=workers)
    refused = []
    made = []

    def work():
        client = server.client()
        for _ in range(16):
            answer = client.post(URL, ONE_SEAT)
            (made if answer.status == 201 else refused).append(answer)

    _in_threads(32, work)  # 512 requests for 500 seats
    assert len(made) == 500
    assert {answer.json["code"] for answer in refused} == {"sold_out"}
    assert {answer.json["availableSeats"] for answer in refused} == {0}
    summary = server.client().get(URL).json
    assert (summary["availableSeats"], summary["reservationCount"]) == (0, 500)
    assert summary["version"] == 500
    assert len({answer.json["reservationId"] for answer in made}) == 500
    assert sorted(answer.json["version"] for answer in made) == list(range(1, 501))
    assert disagreements(dsn) == []


def test_who_gives_a_seat_back_can_have_it_again(serve, dsn, sql):
    """As many seats as clients, and nobody ever holds two: every 409 would be a lie."""
    clients = 16
    past.create(
        sql,
        "UPDATE events SET initial_seats = %(n)s, total_seats = %(n)s, available_seats = %(n)s",
        {"n": clients},
    )
    server = serve(WORKERS="4")
    answers = []

    def work():
        client = server.client()
        for _ in range(15):
            made = client.post(URL, ONE_SEAT)
            answers.append((made.status, made.json.get("code")))
            if made.status == 201:
                answers.append((client.delete(made.headers["Location"]).status, None))

    _in_threads(clients, work)
    assert set(answers) == {(201, None), (204, None)}
    assert server.client().get(URL).json["availableSeats"] == clients
    assert disagreements(dsn) == []


def test_of_many_cancels_over_several_processes_exactly_one_is_answered_204(serve, dsn):
    server = serve(WORKERS="4")
    location = server.client().post(URL, BODY).headers["Location"]
    statuses = []
    barrier = threading.Barrier(16)

    def work():
        client = server.client()
        client.get("/livez")
        barrier.wait()
        statuses.append(client.delete(location).status)

    _in_threads(16, work)
    assert sorted(statuses) == [204] + [404] * 15
    assert server.client().get(URL).json["availableSeats"] == 500
    assert disagreements(dsn) == []


def test_an_idle_server_uses_no_cpu(server):
    client = server.client()
    assert client.post(URL, ONE_SEAT).status == 201  # threads and connections exist
    client.close()
    pids = [server.process.pid, *server.worker_pids()]
    before = sum(map(_ticks, pids))
    time.sleep(2)  # idleness is the subject
    assert sum(map(_ticks, pids)) - before <= 4 * len(pids)


def _ticks(pid: int) -> int:
    """Return the CPU time that a process has used, in hundredths of a second (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _in_threads(number: int, work) -> None:
    threads = [threading.Thread(target=work) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
