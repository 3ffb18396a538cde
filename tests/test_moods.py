"""The database is there, and not well: who is told what, and what it costs the others."""

import contextlib
import logging
import shutil
import threading
import time
from collections import Counter
from pathlib import Path

import psycopg2
import pytest
from proxy import Proxy
from serving import Server, new_folder, postgresql, run_sql

from ticketboss import create_app
from ticketboss.config import Config
from ticketboss.data.database import Database
from ticketboss.rules import limits
from ticketboss.rules.errors import Overloaded, TicketBossError, Unavailable

EVENT = "node-meetup-2025"
URL = "/api/v1/reservations"
HEALTH = "/api/v1/health"
ONE_SEAT = {"partnerId": "abc-corp", "seats": 1}
NOBODYS = "8ff309d0-e5c7-44e9-b621-8ff51427d2f0"
SECONDS = 10


def wait_until(condition, seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.01)


def together(number: int, call) -> list:
    """Return what a number of calls return that are made at once."""
    results = []
    threads = [threading.Thread(target=lambda: results.append(call())) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.fixture
def moods():
    """Give a function that returns what was logged about the database: level and reason."""
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logger = logging.getLogger("ticketboss.data.database")
    logger.addHandler(handler)
    yield lambda: [(r.levelname, getattr(r, "reason", r.getMessage())) for r in records]
    logger.removeHandler(handler)


@contextlib.contextmanager
def application_on(dsn: str):
    """Give the application on a database, and take it away."""
    app = create_app(Config(database_url=dsn))
    try:
        yield app
    finally:
        app.extensions["ticketboss"]["store"].database.close()


@pytest.fixture
def clerk(dsn, sql):
    """Give a connection string for an account that a test may restrict."""
    sql(
        "CREATE ROLE clerk LOGIN;"
        " GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO clerk"
    )
    yield psycopg2.extensions.make_dsn(dsn, user="clerk")
    wait_until(lambda: sql("SELECT FROM pg_stat_activity WHERE usename = 'clerk'") == [])
    sql("DROP OWNED BY clerk; DROP ROLE clerk")


def hang_up(sql) -> None:
    """End the clerk's connections, and see them gone."""
    of_clerk = "FROM pg_stat_activity WHERE usename = 'clerk'"
    sql(f"SELECT pg_terminate_backend(pid) {of_clerk}")
    wait_until(lambda: sql(f"SELECT {of_clerk}") == [])


# --- What is told ---------------------------------------------------------------


def test_why_nobody_is_let_in_is_told_once_and_that_it_is_over_too(clerk, sql, moods):
    """A password that was changed, say."""
    with application_on(clerk) as app:
        client = app.test_client()
        assert client.post(URL, json=ONE_SEAT).status_code == 201
        sql("ALTER ROLE clerk NOLOGIN")
        hang_up(sql)
        for _ in range(3):
            refused = client.post(URL, json=ONE_SEAT)
            assert (refused.status_code, refused.json["code"]) == (503, "unavailable")
        assert client.get(HEALTH).status_code == 503
        ((level, reason),) = moods()
        assert level == "WARNING"
        assert 'FATAL:  role "clerk" is not permitted to log in' in reason
        sql("ALTER ROLE clerk LOGIN")
        assert client.post(URL, json=ONE_SEAT).status_code == 201
        assert client.get(HEALTH).status_code == 200
        assert moods()[1:] == [("INFO", "the database can be used again")]


def test_a_disk_that_is_full_is_told_once_and_reads_go_on(client, sql, moods):
    sql(
        "CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE EXCEPTION 'could not extend file: No space left' USING ERRCODE = '53100';"
        " END $$; CREATE TRIGGER fill BEFORE INSERT ON ledger EXECUTE FUNCTION fill()"
    )
    try:
        for _ in range(3):
            refused = client.post(URL, json=ONE_SEAT)
            assert (refused.status_code, refused.json["code"]) == (503, "unavailable")
            assert client.get(URL).status_code == 200
    finally:
        sql("DROP FUNCTION fill CASCADE")
    assert client.post(URL, json=ONE_SEAT).status_code == 201
    assert moods() == [
        ("WARNING", "could not extend file: No space left (53100)"),
        ("INFO", "the database can be used again"),
    ]


def test_a_read_that_the_server_cannot_do_is_told_once_too(dsn, moods):
    database = Database(dsn, size=1)
    for _ in range(2):
        with pytest.raises(Unavailable):
            database.read("DO $$ BEGIN RAISE 'out of memory' USING ERRCODE = '53200'; END $$")
    assert moods() == [("WARNING", "out of memory (53200)")]
    database.read("SELECT 1")
    assert moods()[1:] == [("INFO", "the database can be used again")]
    database.close()


# --- A server that takes no writes ----------------------------------------------


def test_a_server_that_is_read_only_serves_reads_and_is_not_healthy(clerk, sql, moods):
    with application_on(clerk) as app:
        client = app.test_client()
        made = client.post(URL, json=ONE_SEAT)
        sql("ALTER ROLE clerk SET default_transaction_read_only = on")
        hang_up(sql)
        app.extensions["ticketboss"]["store"].database.last_write = float("-inf")
        assert client.get(HEALTH).status_code == 503
        assert client.get(made.location).json == made.json
        refused = client.post(URL, json=ONE_SEAT)
        assert (refused.status_code, refused.json["code"]) == (503, "unavailable")
        assert client.get(URL).json["availableSeats"] == 499
        ((level, reason),) = moods()
        assert (level, reason[-7:]) == ("WARNING", "(25006)")
        sql("ALTER ROLE clerk SET default_transaction_read_only = off")
        hang_up(sql)
        wait_until(lambda: client.get(HEALTH).status_code == 200)
        assert client.post(URL, json=ONE_SEAT).status_code == 201
        assert moods()[1:] == [("INFO", "the database can be used again")]


def test_while_a_server_takes_no_writes_others_are_told_at_once(clerk, sql):
    with application_on(clerk) as app:
        client = app.test_client()
        client.get(URL)
        sql("ALTER ROLE clerk SET default_transaction_read_only = on")
        hang_up(sql)
        assert client.post(URL, json=ONE_SEAT).status_code == 503
        time.sleep(limits.FRESH_SILENCE)  # or a probe is short

        def reserve() -> float:
            started = time.monotonic()
            assert app.test_client().post(URL, json=ONE_SEAT).status_code == 503
            return time.monotonic() - started

        *quick, probe = sorted(together(8, reserve))
        assert max(quick) < limits.DATABASE_PATIENCE / 2 < probe


@pytest.fixture
def folder():
    path = new_folder("ticketboss-mood-")
    yield path
    shutil.rmtree(path)


def test_a_hot_standby_is_unavailable_until_it_is_promoted(folder, moods):
    with postgresql(folder) as dsn, application_on(dsn) as app:
        made = app.test_client().post(URL, json=ONE_SEAT)
    make_standby(folder / "postgresql")
    with postgresql(folder) as dsn:
        client = app.test_client()
        app.extensions["ticketboss"]["store"].database.last_write = float("-inf")
        assert client.get(HEALTH).status_code == 503
        for _ in range(2):
            refused = client.post(URL, json=ONE_SEAT)
            assert (refused.status_code, refused.json["code"]) == (503, "unavailable")
        assert client.get(made.location).json == made.json
        ((level, _),) = moods()
        assert level == "WARNING"
        assert run_sql(dsn, "SELECT pg_promote()") == [(True,)]
        wait_until(lambda: client.get(HEALTH).status_code == 200)
        assert client.post(URL, json=ONE_SEAT).status_code == 201
        app.extensions["ticketboss"]["store"].database.close()


@pytest.mark.parametrize("names", ["", "nobody"])
@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.delete(f"{URL}/{NOBODYS}"),
        lambda client: client.post(URL, json=ONE_SEAT, headers={"If-Match": '"999"'}),
    ],
)
def test_nothing_can_be_proved_on_a_hot_standby(folder, moods, names, ask):
    """What a refusal rests on is made durable first, and a standby makes nothing durable."""
    with postgresql(folder) as dsn, application_on(dsn) as app:
        run_sql(dsn, f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
    make_standby(folder / "postgresql")
    with postgresql(folder):
        refused = ask(app.test_client())
        assert (refused.status_code, refused.json["code"]) == (503, "unavailable")
        app.extensions["ticketboss"]["store"].database.close()


def make_standby(cluster: Path) -> None:
    """Let a server that is stopped start as a hot standby, of nobody."""
    signal = cluster / "standby.signal"
    signal.touch()
    shutil.chown(signal, cluster.stat().st_uid, cluster.stat().st_gid)


def test_where_commits_hang_everybody_is_told_that_it_is_unavailable(folder, moods):
    """A standby that must confirm is away: reads work, and no write ever ends."""
    with postgresql(folder) as dsn, application_on(dsn) as app:
        client = app.test_client()
        client.post(URL, json={**ONE_SEAT, "holdSeconds": 1})
        run_sql(dsn, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        run_sql(dsn, "SELECT pg_reload_conf()")
        wait_until(lambda: run_sql(dsn, "SHOW synchronous_standby_names") == [("nobody",)])
        for _ in range(2):
            started = time.monotonic()
            refused = client.post(URL, json=ONE_SEAT)
            assert (refused.status_code, refused.json["code"]) == (503, "unavailable")
            assert time.monotonic() - started < 1.5
        wait_until(lambda: run_sql(dsn, "SELECT now() > max(expires_at) FROM reservations")[0][0])
        started = time.monotonic()
        answer = client.get(URL)
        assert (answer.status_code, answer.headers.get("ETag")) == (200, None)
        assert time.monotonic() - started < 1
        assert client.get(HEALTH).status_code == 503
        assert [level for level, _ in moods()] == ["WARNING"]
        run_sql(dsn, "ALTER SYSTEM RESET synchronous_standby_names")
        run_sql(dsn, "SELECT pg_reload_conf()")
        wait_until(lambda: client.get(HEALTH).status_code == 200)
        assert client.post(URL, json=ONE_SEAT).status_code == 201
        assert [level for level, _ in moods()] == ["WARNING", "INFO"]


# --- A server that restarts, or is short of connections -------------------------


@pytest.mark.parametrize("clients", [1, 4])
def test_a_restart_shorter_than_the_patience_costs_nobody_a_refusal(dsn, moods, clients):
    with Proxy(dsn) as proxy, application_on(proxy.dsn) as app:

        def call() -> set[int]:
            client = app.test_client()
            return {client.get(URL).status_code, client.post(URL, json=ONE_SEAT).status_code}

        together(clients, call)
        # Whoever it is that is refused each time: there is time enough for so many pauses.
        proxy.refuse(times=3)
        proxy.cut_all()
        assert set().union(*together(clients, call)) == {200, 201}
    assert moods() == []


def test_one_refused_connection_beside_others_is_no_lack_of_them(clerk, sql, moods):
    database = Database(clerk, size=2)
    sql("ALTER ROLE clerk CONNECTION LIMIT 1")
    together(2, lambda: database.read("SELECT pg_sleep(0.05)"))
    assert database.last_failure and moods() == []
    sql("ALTER ROLE clerk CONNECTION LIMIT -1")
    database.close()


def test_the_connections_that_a_server_grants_serve_everybody(clerk, sql, moods, monkeypatch):
    monkeypatch.setattr(limits, "POOL_REST", 0.02)
    sql("ALTER ROLE clerk CONNECTION LIMIT 3")
    with application_on(clerk) as app:

        def work() -> list[int]:
            client = app.test_client()
            return [client.get(URL).status_code for _ in range(10)] + [
                client.post(URL, json=ONE_SEAT).status_code for _ in range(10)
            ]

        told = Counter(status for each in together(24, work) for status in each)
        # Where the whole machine stands still for half a second, everybody in line may be refused.
        assert told.pop(503, 0) < 24
        assert set(told) == {200, 201}
        (level, reason), *_ = moods()
        assert level == "WARNING"
        assert 'too many connections for role "clerk"' in reason
        sql("ALTER ROLE clerk CONNECTION LIMIT -1")


def test_a_server_that_grants_no_more_is_not_asked_again_and_again(dsn, clerk, sql):
    sql("ALTER ROLE clerk CONNECTION LIMIT 3")
    with Proxy(dsn) as proxy:
        database = Database(psycopg2.extensions.make_dsn(proxy.dsn, user="clerk"), size=8)
        started = time.monotonic()
        together(24, lambda: database.read("SELECT pg_sleep(0.02)"))
        rests = 1 + (time.monotonic() - started) // limits.POOL_REST
        assert proxy.connections <= 4 * 8 * rests
        database.close()


def test_a_pool_that_was_refused_opens_more_again_after_a_while(clerk, sql, monkeypatch):
    monkeypatch.setattr(limits, "POOL_REST", 0.3)
    database = Database(clerk, size=2)

    def sleepers() -> int:
        return sql("SELECT count(*) FROM pg_stat_activity WHERE usename = 'clerk'")[0][0]

    def sleep() -> None:
        with contextlib.suppress(Overloaded):
            database.read("SELECT pg_sleep(0.1)")

    sql("ALTER ROLE clerk CONNECTION LIMIT 1")
    together(2, sleep)
    assert sleepers() == 1
    sql("ALTER ROLE clerk CONNECTION LIMIT 2")

    def both() -> bool:
        together(2, sleep)
        return sleepers() == 2

    wait_until(both)
    database.close()


def test_nobody_to_serve_a_request_is_told_in_time_where_no_connection_is_granted(clerk, sql):
    database = Database(clerk, size=2)
    sql("ALTER ROLE clerk CONNECTION LIMIT 0")
    started = time.monotonic()
    with pytest.raises(TicketBossError):
        database.read("SELECT 1")
    assert time.monotonic() - started < 2 * limits.DATABASE_PATIENCE
    assert "too many connections" in database.last_failure
    assert database.silent


def test_a_real_server_says_in_its_log_why_it_cannot_sell(clerk, sql):
    with Server(clerk, WORKERS="1") as server:
        with contextlib.closing(server.client()) as client:
            assert client.get(HEALTH).status == 200
            sql("ALTER ROLE clerk NOLOGIN")
            hang_up(sql)
            assert client.post(URL, ONE_SEAT).status == 503
            wait_until(lambda: "is not permitted to log in" in server.output())
            sql("ALTER ROLE clerk LOGIN")
            wait_until(lambda: client.get(HEALTH).status == 200)
            wait_until(lambda: "the database can be used again" in server.output())
        assert server.stop() == 0
