"""Rewrite the past, so that no test has to wait for it: every table tells the same."""

ENTRY = (
    "event_id, version, type, reservation_id, partner_id, seats, available_seats, at, batch_id,"
    " actor, expires_at, idempotency_key, details"
)
SEAL = f"UPDATE ledger SET checksum = hash_record_extended(ROW({ENTRY}), 0)"
EDITED = "SELECT event_id FROM ledger WHERE type = 'event_updated'"
TIME = """to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US+00:00')"""


def create(sql, statement: str, parameters=None) -> None:
    """Run a statement on events as if they, where they were never edited, had been created so."""
    sql(statement, parameters)
    sql(
        f"""
        DELETE FROM ledger WHERE version = 0 AND event_id NOT IN ({EDITED});
        INSERT INTO ledger ({ENTRY})
        SELECT event_id, 0, 'event_created', NULL, NULL, initial_seats, initial_seats, created_at,
               gen_random_uuid(), NULL, NULL, NULL,
               jsonb_build_object('event', jsonb_build_object(
                   'name', name,
                   'total_seats', initial_seats,
                   'sales_open_at', {TIME.format("sales_open_at")},
                   'sales_close_at', {TIME.format("sales_close_at")}
               ))
        FROM events WHERE event_id NOT IN ({EDITED});
        {SEAL} WHERE version = 0
        """
    )


def move(sql, by: str, where: str) -> None:
    """Let reservations have been made, and changed so far, earlier by an interval."""
    sql(
        f"""
        SELECT FROM reservations WHERE {where} FOR UPDATE;
        CREATE TEMPORARY TABLE moved ON COMMIT DROP AS
            SELECT reservation_id, {by} AS by FROM reservations WHERE {where};
        UPDATE reservations
        SET created_at = created_at - by,
            expires_at = expires_at - by,
            confirmed_at = confirmed_at - by
        FROM moved
        WHERE reservations.reservation_id = moved.reservation_id;
        UPDATE ledger
        SET at = at - by,
            expires_at = expires_at - by
        FROM moved
        WHERE ledger.reservation_id = moved.reservation_id;
        {SEAL} WHERE reservation_id IN (SELECT reservation_id FROM moved)
        """
    )


def end_holds(sql, where: str = "true", ago: str = "0 s") -> None:
    """Let holds have ended some time ago."""
    move(sql, f"expires_at - now() + interval '{ago}'", f"status = 'held' AND {where}")


def make_earlier(sql, reservation_id: str, seconds: int) -> None:
    """Let a hold that has been extended since have been made earlier."""
    this = f"reservation_id = '{reservation_id}'"
    sql(
        f"""
        UPDATE reservations SET created_at = created_at - interval '{seconds} s' WHERE {this};
        UPDATE ledger
        SET at = at - interval '{seconds} s',
            expires_at = expires_at - interval '{seconds} s'
        WHERE {this} AND type = 'held';
        {SEAL} WHERE {this} AND type = 'held'
        """
    )
