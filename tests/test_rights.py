"""The role that serves has no right that it does not need, and the documents say how.

The fixtures of the whole suite serve with such a role: what it needs is tested by
everything else, lost answers included. Here is what it lacks, and how it came to that.
"""

import psycopg2
import pytest
from conftest import RIGHTS
from serving import Server, run_sql

from ticketboss.data.database import Database
from ticketboss.data.migrations import migrate
from ticketboss.data.statements import functions

RESERVATIONS = "/api/v1/reservations"
OFFER = {"partnerId": "abc-corp", "seats": 2}


def as_role(dsn: str, role: str) -> str:
    return dsn.replace("postgres@", f"{role}@")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger SET seats = seats",
        "UPDATE ledger SET actor = 'nobody'",
        "DELETE FROM ledger",
        "TRUNCATE ledger",
        "SELECT FROM ledger FOR UPDATE",
        "SELECT FROM ledger FOR NO KEY UPDATE",
        "SELECT FROM ledger FOR SHARE",
        "SELECT FROM ledger FOR KEY SHARE",
        "BEGIN; LOCK ledger IN SHARE MODE",
        "DELETE FROM reservations",
        "TRUNCATE events, reservations, ledger",
        "DELETE FROM events",
        "INSERT INTO schema_migrations VALUES (1000, 'more', 1)",
        "UPDATE schema_migrations SET serves = 0",
        "DELETE FROM schema_migrations",
        "ALTER TABLE ledger ADD COLUMN more text",
        "DROP TABLE ledger",
        "CREATE TABLE more ()",
        "CREATE FUNCTION more() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
        "CREATE INDEX ON ledger (at)",
        f"DROP FUNCTION {functions()['write_batch'].name}",
        "CREATE SCHEMA more",
    ],
)
def test_the_role_that_serves_is_refused(serving_dsn, client, statement):
    assert client.post(RESERVATIONS, json=OFFER).status_code == 201
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        run_sql(serving_dsn, statement)


def test_the_suite_serves_with_that_role(application, server, sql):
    assert server.client().post(RESERVATIONS, OFFER).status == 201
    assert application.test_client().post(RESERVATIONS, json=OFFER).status_code == 201
    assert sql(
        "SELECT DISTINCT usename::text FROM pg_stat_activity"
        " WHERE application_name = 'ticketboss' AND query LIKE '%FROM write_batch_%'"
    ) == [("ticketboss",)]


def test_one_role_that_has_done_all_becomes_two(serving_dsn, empty_database):
    """The one that owned everything goes on serving; only the other can migrate now."""
    database = empty_database.rpartition("/")[2].partition("?")[0]
    run_sql(empty_database, f"GRANT CREATE ON DATABASE {database} TO ticketboss")
    run_sql(empty_database, "GRANT CREATE ON SCHEMA public TO ticketboss")
    serving, owner = (as_role(empty_database, name) for name in ("ticketboss", "ticketboss_owner"))
    with Server(serving, WORKERS="1") as server:
        assert server.client().post(RESERVATIONS, OFFER).status == 201
        run_sql(empty_database, RIGHTS)
        assert server.client().post(RESERVATIONS, OFFER).status == 201
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        run_sql(serving, "UPDATE ledger SET seats = 1")
    write_batch = functions()["write_batch"].name
    run_sql(owner, f"DROP FUNCTION {write_batch}")  # as if a release brought another
    migrate(Database(owner, size=1))
    with Server(serving, WORKERS="1") as server:  # which finds nothing left to migrate
        made = server.client().post(RESERVATIONS, OFFER)
        assert (made.status, made.json["version"]) == (201, 3)
