"""Starts: many at once, starts that must fail and say why, starts that are interrupted."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from serving import (
    ROOT,
    Server,
    connect,
    free_port,
    new_folder,
    of_the_embedded,
    postgresql,
    run_sql,
    wait_for,
)

from ticketboss.data import migrations
from ticketboss.data.database import Database
from ticketboss.data.migrations import MigrationError
from ticketboss.data.statements import statement
from ticketboss.rules import limits
from ticketboss.serving import embedded
from ticketboss.serving.embedded import EmbeddedError

GUNICORN = [sys.executable, "-m", "gunicorn", "-c", "python:ticketboss.serving.gunicorn_conf"]
VERIFY = [sys.executable, "-m", "flask", "--app", "wsgi", "verify"]
MIGRATE = [sys.executable, "-m", "flask", "--app", "ticketboss", "migrate"]


@pytest.fixture
def folder():
    """Give an empty folder, short enough for a Unix socket."""
    path = new_folder("ticketboss-")
    yield path
    assert wait_for(lambda: not running_in(path)), running_in(path)
    shutil.rmtree(path)


def running_in(folder: Path) -> list[str]:
    """Return the command lines of the processes that name a folder or work in it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if str(folder) in command or folder in (process / "cwd").readlink().parents:
                found.append(command)
        except OSError:  # gone, or not ours
            continue
    return found


def start(command: list[str], environment: dict, stdin=subprocess.DEVNULL) -> subprocess.Popen:
    """Start a command on nothing but the environment given."""
    settings = Server(None, DATABASE_URL="")
    settings.log.close()
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**settings.environment, **environment},
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def refusals(environment: dict, commands=(GUNICORN, VERIFY)) -> list[str]:
    """Return the one line that each command ends with, all started at once."""
    processes = [start(command, environment) for command in commands]
    lines = []
    for process in processes:
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 1, errors
        assert errors.startswith("ticketboss: ") and errors.endswith("\n"), errors
        assert len(errors.splitlines()) == 1, errors
        lines.append(errors)
    return lines


def test_ten_starts_at_once_leave_one_schema_and_one_event(empty_database):
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ticketboss'"
        " AND datname = current_database()"
        " AND state = 'idle in transaction' AND query LIKE '%pg_locks%'"
    )
    with closing(connect(empty_database)) as watcher, watcher.cursor() as cursor:
        # All of them are seen waiting for their turn before the first one may go on.
        cursor.execute(statement("lock_migrations").replace("_xact", ""))

        def all_wait() -> bool:
            cursor.execute(waiting)
            return cursor.fetchone() == (10,)

        processes = [start(VERIFY, {"DATABASE_URL": empty_database}) for _ in range(10)]
        assert wait_for(all_wait, seconds=30)
        cursor.execute("SELECT pg_advisory_unlock_all(), pg_backend_pid()")
        _, pid = cursor.fetchone()
    for process in processes:
        output, errors = process.communicate(timeout=30)
        assert (output, process.returncode) == ("node-meetup-2025: 0 changes, ok\n", 0)
        assert errors.startswith(f"the migration waits for session {pid} (client backend), ")
    applied = run_sql(empty_database, "SELECT version FROM schema_migrations ORDER BY version")
    assert [version for (version,) in applied] == sorted(migrations.migrations())
    event = "SELECT event_id, name, total_seats, available_seats, version FROM events"
    assert run_sql(empty_database, event) == [("node-meetup-2025", "Node.js Meet-up", 500, 500, 0)]


def test_a_start_that_lacks_nothing_waits_for_nobody(empty_database):
    start(VERIFY, {"DATABASE_URL": empty_database}).communicate(timeout=30)
    with closing(connect(empty_database)) as migrating, migrating.cursor() as cursor:
        cursor.execute(statement("lock_migrations").replace("_xact", ""))
        done = start(VERIFY, {"DATABASE_URL": empty_database})
        assert done.communicate(timeout=30) == ("node-meetup-2025: 0 changes, ok\n", "")


def test_a_start_that_may_not_migrate_leaves_that_to_the_command(empty_database):
    settings = {"DATABASE_URL": empty_database, "AUTO_MIGRATE": "off"}
    for line in refusals(settings):
        assert "the database lacks 0001_schema, " in line and "write_batch_" in line
    assert run_sql(empty_database, "SELECT to_regclass('events')") == [(None,)]
    for _ in range(2):
        migrating = start(MIGRATE, settings)
        output, errors = migrating.communicate(timeout=30)
        assert (migrating.returncode, errors) == (0, "")
        assert "nothing is left to migrate" in output.splitlines()[-1]
    assert run_sql(empty_database, "SELECT count(*) FROM events") == [(0,)]
    done = start(VERIFY, settings)
    assert done.communicate(timeout=30) == ("node-meetup-2025: 0 changes, ok\n", "")


def test_a_start_leaves_an_event_that_exists_alone(empty_database):
    start(VERIFY, {"DATABASE_URL": empty_database}).communicate(timeout=30)
    run_sql(empty_database, "UPDATE events SET name = 'Renamed', sales_close_at = now()")
    before = run_sql(empty_database, "SELECT * FROM events")
    start(VERIFY, {"DATABASE_URL": empty_database}).communicate(timeout=30)
    assert run_sql(empty_database, "SELECT * FROM events") == before


def test_a_start_creates_the_event_that_is_configured(empty_database):
    done = start(VERIFY, {"DATABASE_URL": empty_database, "EVENT_ID": "a-2.b_c"})
    assert done.communicate(timeout=30) == ("a-2.b_c: 0 changes, ok\n", "")


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"PORT": "abc"}, "PORT takes a whole number from 1 to 65535, not 'abc'"),
        ({"PORT": "99999"}, "PORT takes a whole number from 1 to 65535, not '99999'"),
        ({"EVENT_ID": "Bad Id"}, "EVENT_ID takes 1 to 64 characters of a-z 0-9 . _ -, not . or .."),
        ({"EVENT_ID": "a\nb"}, "EVENT_ID takes 1 to 64 characters of a-z 0-9 . _ -, not . or .."),
        ({"DATABASE_URL": "postgresql://me:hunter2@[x"}, "DATABASE_URL takes a PostgreSQL"),
        ({"TICKETBOSS_DATA": "/dev/null/data"}, "TICKETBOSS_DATA takes a folder that can be"),
    ],
)
def test_a_bad_setting_stops_the_start_with_one_line(environment, says):
    for line in refusals(environment):
        assert says in line
        assert "hunter2" not in line


def test_a_database_that_cannot_be_reached_stops_the_start_within_seconds():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ports = (free_port(), silent.getsockname()[1])
        started = time.monotonic()
        processes = [
            start(command, {"DATABASE_URL": f"postgresql://me:hunter2@127.0.0.1:{port}/x"})
            for command in (GUNICORN, VERIFY)
            for port in ports
        ]
        for process in processes:
            _, errors = process.communicate(timeout=30)
            assert process.returncode == 1
            assert errors.startswith("ticketboss: the database cannot be reached: ")
            assert len(errors.splitlines()) == 1
            assert "hunter2" not in errors
        assert time.monotonic() - started < 15


def test_a_database_that_serves_only_newer_releases_stops_the_start(empty_database):
    run_sql(empty_database, statement("create_schema_migrations"))
    run_sql(empty_database, "INSERT INTO schema_migrations VALUES (9999, '9999_future', 9998)")
    for line in refusals({"DATABASE_URL": empty_database}):
        assert "has schema version 9999, for releases that know version 9998; this one" in line
    assert run_sql(empty_database, "SELECT to_regclass('events')") == [(None,)]


def test_a_database_of_before_the_first_release_is_told_to_start_anew(empty_database):
    run_sql(
        empty_database,
        "CREATE TABLE schema_migrations (version integer, name text);"
        " INSERT INTO schema_migrations"
        " VALUES (1, '0001_events_reservations_ledger'), (2, '0002_write_batch')",
    )
    for line in refusals({"DATABASE_URL": empty_database}):
        assert "remove the data folder, or use an empty database" in line
    assert run_sql(empty_database, "SELECT to_regclass('events')") == [(None,)]


def test_a_migration_that_fails_stops_the_start_and_leaves_nothing(empty_database):
    run_sql(empty_database, "CREATE TABLE ledger (something text)")
    for command in (GUNICORN, VERIFY):  # side by side, one may first tell for whom it waits
        (line,) = refusals({"DATABASE_URL": empty_database}, [command])
        assert 'cannot be prepared: relation "ledger" already exists' in line
    assert run_sql(empty_database, "SELECT to_regclass('events')") == [(None,)]


def test_a_migration_gives_up_to_whoever_has_its_lock_and_names_the_session(
    empty_database, monkeypatch
):
    database = Database(empty_database, size=1)
    migrations.migrate(database)
    following = {**migrations.migrations(), 9999: VENUE}
    monkeypatch.setattr(migrations, "migrations", lambda: following)
    with closing(connect(empty_database)) as reader:
        with reader.cursor() as cursor:
            cursor.execute("BEGIN; SELECT FROM events")
        with monkeypatch.context() as impatient:
            impatient.setattr(limits, "MIGRATION_PATIENCE", 0)
            since = f"session {reader.info.backend_pid} .client backend., in a transaction since 20"
            with pytest.raises(MigrationError, match=f"9999_venue waits for {since}"):
                migrations.migrate(database)
    migrations.migrate(database)
    assert run_sql(empty_database, "SELECT venue FROM events") == []
    database.close()


VENUE = migrations.Migration("9999_venue", "ALTER TABLE events ADD COLUMN venue text;", 1)


def test_an_address_that_cannot_be_listened_on_stops_the_start(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for host, reason in (
            ("127.0.0.1", "Address already in use"),
            ("192.0.2.1", "Cannot assign requested address"),
        ):
            environment = {"HOST": host, "PORT": port, "TICKETBOSS_DATA": str(folder)}
            (line,) = refusals(environment, [GUNICORN])
            assert f"cannot listen on {host} port {port}: {reason}" in line
    # It is found out before the embedded database is started.
    assert list(folder.iterdir()) == []


@of_the_embedded
def test_an_embedded_database_that_does_not_start_says_where_its_log_is(folder):
    with postgresql(folder):
        pass
    (folder / "postgresql" / "PG_VERSION").write_text("9\n")
    (line,) = refusals({"TICKETBOSS_DATA": str(folder)}, [VERIFY])
    assert f"pg_ctl failed: Examine the log output. ({folder}/postgresql/server.log)" in line
    assert "incompatible" in (folder / "postgresql" / "server.log").read_text()


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("postgresql.new-*/PG_VERSION", signal.SIGINT),
        ("postgresql.new-*/PG_VERSION", signal.SIGKILL),
        ("postgresql/postmaster.pid", signal.SIGTERM),
    ],
)
def test_an_interrupted_first_start_leaves_nothing_that_the_next_one_trips_on(
    folder, moment, number
):
    settings = {"DATABASE_URL": "", "TICKETBOSS_DATA": str(folder)}
    with Server(None, **settings).start(wait=False) as interrupted:
        assert wait_for(lambda: list(folder.glob(moment))), interrupted.output()
        if number == signal.SIGINT:  # as a terminal does it: to the whole group
            os.killpg(interrupted.process.pid, number)
        else:
            interrupted.process.send_signal(number)
        interrupted.process.wait(timeout=30)
        assert "Traceback" not in interrupted.output()
        if number != signal.SIGKILL:
            assert running_in(folder) == []
    with Server(None, **settings) as server, closing(server.client()) as http:
        answer = http.post("/api/v1/reservations", {"partnerId": "abc-corp", "seats": 1})
        assert answer.status == 201
        assert server.stop() == 0


@pytest.fixture
def room(folder, monkeypatch):
    """Let root keep in a folder of the test's own what the account has to reach."""
    if os.geteuid() != 0:
        pytest.skip("only root has somebody else run PostgreSQL")
    monkeypatch.setattr(embedded, "ROOM", folder / "room")
    embedded.programs.cache_clear()
    yield folder / "room"
    embedded.programs.cache_clear()


@of_the_embedded
def test_root_opens_no_folder_of_the_operator(folder, room):
    private = folder / "private"
    private.mkdir(mode=0o700)
    data = private / "checkout" / "data"
    for _ in range(2):  # the second finds what the first has made
        server = embedded.Server(data)
        server.join()
        try:
            run_sql(server.dsn, "CREATE TABLE IF NOT EXISTS once ()")
        finally:
            server.leave()
        private.chmod(0o700)
        assert server.cluster.is_relative_to(room)
        assert embedded.place(data) == server.cluster.parent  # which is what a start tells
        private.chmod(0o755)  # an operator may, and his data stay where they are
    assert [place.name for place in data.iterdir() if place.is_dir()] == []


@of_the_embedded
def test_root_opens_no_way_to_the_programs_either(folder, room, monkeypatch):
    monkeypatch.setattr(
        embedded, "_within_reach", lambda path: path.name != "postgres" or room in path.parents
    )
    before = {place: place.stat().st_mode for place in (folder, *folder.parents)}
    server = embedded.Server(folder / "data")
    server.join()
    server.leave()
    assert embedded.programs().is_relative_to(room)
    assert {place: place.stat().st_mode for place in before} == before


@of_the_embedded
def test_data_at_a_place_that_is_out_of_reach_are_told_and_not_replaced(folder, room):
    private = folder / "private"
    (private / "postgresql").mkdir(parents=True)
    private.chmod(0o700)
    with pytest.raises(EmbeddedError, match=r"may not pass to .*: mkdir -p .* && mv ") as told:
        embedded.Server(private).join()
    assert len(str(told.value).splitlines()) == 1


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="it takes Linux's /proc")
def test_a_process_that_has_the_number_of_a_server_that_crashed_is_left_alone(folder):
    server = embedded.Server(folder)
    server.join()
    postmaster = int((server.cluster / "postmaster.pid").read_text().split()[0])
    os.kill(postmaster, signal.SIGKILL)
    assert wait_for(lambda: not Path(f"/proc/{postmaster}").exists())
    owner = embedded.owner_account()
    account = {} if owner is None else {"user": owner.pw_uid}
    with subprocess.Popen(["sleep", "60"], cwd="/", **account) as stranger:
        try:
            told = (server.cluster / "postmaster.pid").read_text()
            (server.cluster / "postmaster.pid").write_text(
                told.replace(str(postmaster), str(stranger.pid), 1)
            )
            server.leave()  # which has nothing to stop
            assert stranger.poll() is None
            again = embedded.Server(folder)
            again.join()
            assert run_sql(again.dsn, "SELECT 1") == [(1,)]
            again.leave()
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_why_there_is_no_database_is_told_and_not_what_is_cleaned_up(folder, monkeypatch):
    broken = folder / "initdb"
    broken.write_text("#!/bin/sh\necho 'x FATAL:  no room'\necho 'initdb: removing data'\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(embedded, "programs", lambda: folder)
    with pytest.raises(EmbeddedError, match="initdb failed: x FATAL:  no room$"):
        embedded.Server(folder / "data").join()


# --- Who may call -------------------------------------------------------------------

BIND = [*GUNICORN, "--bind", "0.0.0.0:{port}"]
# As systemd hands over a socket: the third descriptor, to a process of this id.
HANDED_OVER = [
    *("sh", "-c", 'exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"', "sh"),
    *GUNICORN,
]


def serve_on_all_addresses(how: str, database: str, **environment) -> subprocess.Popen:
    """Start on every address of the machine, which is told in one of three ways."""
    port = free_port()
    command = {"HOST": GUNICORN, "--bind": BIND, "socket": HANDED_OVER}[how]
    environment = {"DATABASE_URL": database, "PORT": str(port), **environment}
    if how == "HOST":
        environment["HOST"] = "::"
    with socket.create_server(("0.0.0.0", 0)) as listener:
        return start(
            [part.format(port=port) for part in command],
            environment,
            stdin=listener if how == "socket" else subprocess.DEVNULL,
        )


@pytest.mark.parametrize("how", ["HOST", "--bind", "socket"])
def test_beyond_the_loopback_a_start_asks_who_may_call(empty_database, how):
    process = serve_on_all_addresses(how, empty_database)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert len(errors.splitlines()) == 1
    assert "is not the loopback" in errors and "AUTH=keys" in errors and "AUTH=open" in errors


@pytest.mark.parametrize("how", ["HOST", "--bind", "socket"])
@pytest.mark.parametrize("auth", ["open", "keys"])
def test_beyond_the_loopback_either_answer_will_do(empty_database, how, auth):
    process = serve_on_all_addresses(how, empty_database, AUTH=auth, LOG_FORMAT="text")
    lines = iter(process.stdout.readline, "")
    first = next(lines)
    assert ("partner ids are believed" in first) == (auth == "open")
    assert any("Booting worker" in line for line in lines)
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 0
