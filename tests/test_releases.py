"""Two releases beside each other: a deploy, seen from a database under load."""

import contextlib
import re
import shutil
import threading
import time
from pathlib import Path

import pytest
from serving import ROOT, Server, connect, run_sql, wait_for

from ticketboss.data.database import Database
from ticketboss.data.migrations import migrate, migrations
from ticketboss.data.statements import functions, statement
from ticketboss.data.verify import replay_ledgers

EVENT = "/api/v1/reservations"
READER_SECONDS = 10


@pytest.fixture
def checkout(tmp_path) -> Path:
    """Give a copy of the code, laid out as the wheel is, to make another release of."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "ticketboss", tmp_path / "ticketboss", ignore=ignore)
    shutil.copytree(ROOT / "sql", tmp_path / "ticketboss" / "sql", ignore=ignore)
    return tmp_path


class Starved(Exception):
    """On a busy machine the database had no time for a request, which says so with 503."""


class Buyer(threading.Thread):
    """Reserves, reduces, holds, confirms and gives back, over and over."""

    patience = 3  # how often it begins anew when the database was starved

    def __init__(self, server: Server):
        super().__init__()
        self.server = server
        self.stopped = False
        self.calls, self.failures, self.slowest = 0, [], 0.0

    def run(self):
        with contextlib.closing(self.server.client()) as http:
            try:
                while not self.stopped:
                    try:
                        self._buy(http)
                    except Starved:
                        self.patience -= 1
            except Exception as error:
                self.failures.append(error)

    def _buy(self, http) -> None:
        order = {"partnerId": "abc-corp", "seats": 2}
        self._expect(200, http.get, EVENT)
        sale = self._expect(201, http.post, EVENT, order).headers["Location"]
        self._expect(200, http.patch, sale, {"seats": 1})
        self._expect(204, http.delete, sale)
        hold = self._expect(201, http.post, EVENT, {**order, "holdSeconds": 60}).headers["Location"]
        self._expect(200, http.post, hold + "/confirm")
        self._expect(204, http.delete, hold)

    def _expect(self, status: int, call, *arguments):
        began = time.monotonic()
        answer = call(*arguments)
        self.slowest = max(self.slowest, time.monotonic() - began)
        if answer.status == 503 and b'"unavailable"' in answer.body and self.patience:
            raise Starved
        assert answer.status == status, (answer.status, answer.body)
        self.calls += 1
        return answer


@contextlib.contextmanager
def sale(*servers: Server):
    """Sell through servers, before, while and after the block runs. Nothing may fail."""
    buyers = [Buyer(server) for server in servers for _ in range(3)]

    def wait_for_more() -> None:
        aims = [buyer.calls + 30 for buyer in buyers]
        assert wait_for(
            lambda: all(
                buyer.failures or buyer.calls >= aim
                for buyer, aim in zip(buyers, aims, strict=True)
            ),
            seconds=60,
        )

    for buyer in buyers:
        buyer.start()
    try:
        wait_for_more()
        yield buyers
        wait_for_more()
    finally:
        for buyer in buyers:
            buyer.stopped = True
        for buyer in buyers:
            buyer.join()
    assert [failure for buyer in buyers for failure in buyer.failures] == []


def differences(dsn: str) -> list[str]:
    """Return everything that the ledgers, replayed, find wrong."""
    replays = replay_ledgers(Database(dsn, size=1))
    return [difference for replay in replays for difference in replay.differences]


def make_next_release(checkout: Path) -> None:
    """Give a copy of the code a migration that expands the schema, and another function."""
    sql = checkout / "ticketboss" / "sql"
    newest = max(migrations())
    (sql / "migrations" / f"{newest + 1:04}_venue_and_channel.sql").write_text(
        f"-- serves: {newest}\n"
        "ALTER TABLE events ADD COLUMN venue text NOT NULL DEFAULT 'somewhere';\n"
        "ALTER TABLE reservations ADD COLUMN channel text;\n"
    )
    heart = sql / "functions" / "write_batch.sql"
    heart.write_text(heart.read_text().replace("\nBEGIN\n", "\nBEGIN\n    PERFORM 'otherwise';\n"))


def test_releases_with_different_functions_sell_beside_each_other(empty_database, checkout):
    make_next_release(checkout)
    dsn = empty_database + "&options=-ctrack_functions%3Dall"
    with Server(dsn, WORKERS="1") as ours, Server(dsn, checkout, WORKERS="1") as theirs:
        with sale(ours, theirs):
            pass
        assert (ours.stop(), theirs.stop()) == (0, 0)
    called = run_sql(
        dsn,
        "SELECT funcname, calls FROM pg_stat_user_functions WHERE funcname LIKE 'write_batch%'",
    )
    assert len(called) == 2
    assert functions()["write_batch"].name in dict(called)
    assert differences(dsn) == []
    assert all(calls > 10 for _, calls in called), called


def test_a_release_whose_ledger_tells_less_sells_beside_this_one(empty_database, checkout):
    """And what it has entered is verified as far as it tells."""
    heart = checkout / "ticketboss" / "sql" / "functions" / "write_batch.sql"
    new = "reservation_id, partner_id, seats, available_seats, at, batch_id"
    text, changed = re.subn(
        r"available_seats, at, batch_id, actor, .*?checksum\)\n +SELECT .*?\n",
        f"available_seats, at, batch_id)\n SELECT event_id, version, type, {new}\n",
        heart.read_text(),
        flags=re.DOTALL,
    )
    assert changed == 1
    heart.write_text(text)
    with (
        Server(empty_database, WORKERS="1") as ours,
        Server(empty_database, checkout, WORKERS="1") as theirs,
        sale(ours, theirs),
    ):
        pass
    sealed = "SELECT checksum IS NOT NULL, count(*) > 20 FROM ledger GROUP BY 1 ORDER BY 1"
    assert run_sql(empty_database, sealed) == [(False, True), (True, True)]
    assert differences(empty_database) == []


def test_a_ledger_of_before_it_told_more_is_migrated_and_verified(empty_database):
    """What was never edited is known from its creation on, the rest as far as it was told."""
    run_sql(empty_database, migrations()[1].sql)
    run_sql(
        empty_database,
        statement("create_schema_migrations")
        + "INSERT INTO schema_migrations VALUES (1, '0001_schema', 1);"
        " INSERT INTO events (event_id, name, initial_seats, total_seats, available_seats,"
        " reservation_count, version, sales_close_at) VALUES"
        " ('edited', 'Edited', 5, 7, 7, 0, 1, '2030-01-01 12:00:00.5+02'),"
        " ('sold', 'Sold', 5, 5, 3, 1, 2, '2030-01-01 12:00:00.5+02');"
        " INSERT INTO ledger (event_id, version, type, seats, available_seats, at, batch_id)"
        " VALUES ('edited', 1, 'event_updated', 7, 7, now(), gen_random_uuid());"
        " INSERT INTO ledger SELECT 'sold', version, type, md5('')::uuid, 'abc-corp', seats,"
        " 5 - seats, now(), gen_random_uuid()"
        " FROM (VALUES (1, 'held', 3), (2, 'reduced', 2)) AS change (version, type, seats);"
        " INSERT INTO reservations (event_id, created_version, reservation_id, partner_id, seats,"
        " status, version, created_at, expires_at, requested_seats, hold_seconds, idempotency_key)"
        " VALUES ('sold', 1, md5('')::uuid, 'abc-corp', 2, 'held', 2, now(),"
        " now() + interval '1 minute', 3, 60, 'key')",
    )
    migrate(Database(empty_database, size=1))
    replays = {replay.event_id: replay for replay in replay_ledgers(Database(empty_database, 1))}
    assert [(name, r.unsealed, r.differences) for name, r in replays.items()] == [
        ("edited", 1, []),
        ("sold", 2, []),
    ]
    run_sql(empty_database, "UPDATE events SET name = 'Other'")
    assert differences(empty_database) == ["name: stored Other, replayed Sold"]


def test_a_deploy_and_the_way_back_fail_no_request(empty_database, checkout):
    make_next_release(checkout)
    with contextlib.ExitStack() as started:

        def start(*which) -> Server:
            return started.enter_context(Server(empty_database, *which, WORKERS="1"))

        before = start()
        with sale(before):
            after = start(checkout)  # which migrates
        with sale(before, after):
            pass
        before.stop()
        with sale(after):
            again = start()
        with sale(again, after):
            pass
        after.stop()
        with sale(again):
            pass
    newest = max(migrations())
    version = "SELECT max(version), max(serves) FROM schema_migrations"
    assert run_sql(empty_database, version) == [(newest + 1, newest)]
    assert differences(empty_database) == []


def test_a_long_reader_holds_up_a_migration_and_no_request(empty_database, checkout):
    make_next_release(checkout)
    with contextlib.ExitStack() as started:
        before = started.enter_context(Server(empty_database, WORKERS="1"))
        reader = started.enter_context(contextlib.closing(connect(empty_database)))
        with sale(before) as buyers:
            with reader.cursor() as cursor:
                cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM events")
            read_until = time.monotonic() + READER_SECONDS
            after = Server(empty_database, checkout, WORKERS="1").start(wait=False)
            started.enter_context(after)
            told = f"waits for session {reader.info.backend_pid} (client backend), in a transaction"
            assert wait_for(lambda: told in after.output()), after.output()
            time.sleep(max(read_until - time.monotonic(), 0))
            assert after.process.poll() is None
            reader.close()
            after.wait_until_it_answers()
        with sale(after):
            pass
        assert after.output().count(told) == 1
    assert differences(empty_database) == []
    # 0.3 s on a machine that has nothing else to do.
    assert max(buyer.slowest for buyer in buyers) < 1
