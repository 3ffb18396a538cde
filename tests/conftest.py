"""One real PostgreSQL per session, emptied for every test."""

import contextlib
import itertools
import re
import secrets
import shutil
import signal

import pytest
from serving import ADMIN_KEY, ROOT, Server, new_folder, postgresql, run_sql

from ticketboss import cli, create_app, logs
from ticketboss.config import Config
from ticketboss.data.database import Database
from ticketboss.data.migrations import migrate
from ticketboss.selling.batch import Batches
from ticketboss.selling.line import Line

# What makes two roles of one, as docs/operations.md has it.
OPERATIONS = (ROOT / "docs" / "operations.md").read_text("utf-8")
(RIGHTS,) = re.findall(r"^```postgresql\n(.*?)^```$", OPERATIONS, re.DOTALL | re.MULTILINE)


def pytest_configure():
    """Let a SIGTERM end the tests as Ctrl-C does, with everything they started."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Where it is ignored, as in `nohup make test &`, whatever they start would ignore it, too.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda *_: None)


@pytest.fixture(scope="session")
def dsn():
    """Give the connection string of a PostgreSQL that belongs to this session alone."""
    # A short path outside the checkout: two runs go side by side.
    folder = new_folder("ticketboss-test-")
    try:
        with postgresql(folder) as connection_string:
            # Several of these share a disk that now and then takes longer than the service waits.
            # What is killed here is a process, never the system, which has all that was written.
            run_sql(connection_string, "ALTER SYSTEM SET fsync = off")
            run_sql(connection_string, "SELECT pg_reload_conf()")
            yield connection_string
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def serving_dsn(dsn):
    """Give that of a role with the rights that the documents give to the role that serves."""
    migrate(Database(dsn, size=1))
    run_sql(dsn, "CREATE ROLE ticketboss_owner LOGIN; CREATE ROLE ticketboss LOGIN")
    run_sql(dsn, RIGHTS)
    return dsn.replace("postgres@", "ticketboss@")


@pytest.fixture(scope="session")
def application(serving_dsn):
    return create_app(Config(database_url=serving_dsn, admin_key=ADMIN_KEY))


@pytest.fixture
def sql(dsn):
    """Give a function that runs a statement in a transaction of its own."""
    return lambda statement, parameters=None: run_sql(dsn, statement, parameters)


@pytest.fixture(autouse=True)
def _empty(store, sql):
    """Empty the tables, and leave the default event as a first start makes it."""
    sql("TRUNCATE events, reservations, ledger, keys")
    store.create_event("node-meetup-2025", "Node.js Meet-up", 500)
    yield
    logs.flush()  # or pytest shows the last lines of a test with the next one


@pytest.fixture
def empty_database(dsn):
    """Give the connection string of a database without any table."""
    name = f"empty_{secrets.token_hex(4)}"
    run_sql(dsn, f"CREATE DATABASE {name}")
    yield dsn.replace("/postgres?", f"/{name}?")
    run_sql(dsn, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def client(application):
    """Give Flask's test client, without gunicorn, for everything that needs no concurrency."""
    return application.test_client()


@pytest.fixture
def store(application):
    return application.extensions["ticketboss"]["store"]


@pytest.fixture(autouse=True)
def write_path(application, store):
    """Give the application a write path of its own for every test, and return it.

    What one test has left in doubt is not the next one's business.
    """
    path = application.extensions["ticketboss"]["write_path"] = Line(Batches(store))
    return path


@pytest.fixture(scope="session")
def server(serving_dsn, application):
    """Give a running gunicorn with two workers on the session's database."""
    with Server(serving_dsn) as running:
        yield running


@pytest.fixture
def serve(serving_dsn):
    """Give a function that starts another server with an environment of its own."""
    with contextlib.ExitStack() as stack:
        yield lambda database=serving_dsn, **environment: stack.enter_context(
            Server(database, **environment)
        )


@pytest.fixture
def verify(application, monkeypatch):
    """Give a function that replays ledgers and returns the exit status and output."""
    # However long it takes, it does not tell how far it is.
    monkeypatch.setattr(cli, "PROGRESS_SECONDS", float("inf"))

    def run(*arguments):
        result = application.test_cli_runner().invoke(args=["verify", *arguments])
        return result.exit_code, result.output

    return run


# --- With keys ------------------------------------------------------------------------

ADDRESSES = (f"198.51.{n // 256 % 256}.{n % 256}" for n in itertools.count())


@pytest.fixture
def keyed(serving_dsn):
    """Give an application that knows its callers by their keys."""
    app = create_app(Config(database_url=serving_dsn, admin_key=ADMIN_KEY, auth="keys"))
    yield app
    app.extensions["ticketboss"]["store"].database.close()


@pytest.fixture
def call(keyed):
    """Give a function that makes a request with a key, from an address of its own."""

    def call(method, path, key=None, address=None, **more):
        headers = more.pop("headers", {})
        if key is not None:
            headers = {**headers, "Authorization": f"Bearer {key}"}
        environ = {"REMOTE_ADDR": address or next(ADDRESSES)}
        return keyed.test_client().open(
            path, method=method, headers=headers, environ_overrides=environ, **more
        )

    return call


@pytest.fixture
def create_key(call):
    """Give a function that makes a key, of a partner or else an admin, and returns it."""

    def create_key(partner_id=None):
        members = {"admin": True} if partner_id is None else {"partnerId": partner_id}
        made = call("POST", "/api/v1/keys", ADMIN_KEY, json=members)
        assert made.status_code == 201
        return made.json["key"]

    return create_key


@pytest.fixture
def statements(monkeypatch):
    """Record every statement on its way to the database."""
    sent = []

    def recording(plain):
        def send(self, sql, parameters=None, **more):
            sent.append(sql)
            return plain(self, sql, parameters, **more)

        return send

    for name in ("read", "read_durably", "write"):
        monkeypatch.setattr(Database, name, recording(getattr(Database, name)))
    return sent
