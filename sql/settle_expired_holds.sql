-- Enter holds that have expired in the ledger and give their seats back, oldest
-- end first, if nobody has changed the event since it was read, or is about to.
--
-- A row each:  the reservation.
-- No row:      somebody else was first or has the rows, or nothing has expired.
--
-- The rows are found by their ids alone: every other index starts with event_id,
-- and with old statistics the planner may take one that reads the whole event
-- for each of them.
WITH due AS (
    SELECT reservation_id, partner_id, seats, expires_at, created_version
    FROM reservations
    WHERE event_id = %(event_id)s
      AND status = 'held'
      AND expires_at <= now()
    ORDER BY expires_at, created_version
    LIMIT %(limit)s
    FOR NO KEY UPDATE SKIP LOCKED
), expired AS (
    SELECT reservation_id, partner_id, seats,
           row_number() OVER (ORDER BY expires_at, created_version) AS position
    FROM due
), total AS (
    SELECT count(*)::integer AS count, sum(seats)::integer AS seats
    FROM expired
), free AS (
    SELECT event_id
    FROM events
    WHERE event_id = %(event_id)s
      AND version = %(version)s
    FOR NO KEY UPDATE SKIP LOCKED
), written AS (
    UPDATE events
    SET available_seats = available_seats + total.seats,
        reservation_count = reservation_count - total.count,
        version = version + total.count
    FROM free, total
    WHERE events.event_id = free.event_id
      AND version = %(version)s
      AND total.count > 0
    RETURNING events.event_id, version - total.count AS seen_version,
              available_seats - total.seats AS seen_seats
), entry AS (
    SELECT event_id, seen_version + position AS version, 'expired' AS type, reservation_id,
           partner_id, seats,
           (seen_seats + sum(seats) OVER (ORDER BY position))::integer AS available_seats,
           now() AS at, %(batch_id)s::uuid AS batch_id, 'expiry' AS actor,
           NULL::timestamptz AS expires_at, NULL::text AS idempotency_key, NULL::jsonb AS details
    FROM written, expired
), entered AS (
    INSERT INTO ledger (event_id, version, type, reservation_id, partner_id, seats,
                        available_seats, at, batch_id, actor, expires_at, idempotency_key,
                        details, checksum)
    SELECT entry.*, hash_record_extended(entry, 0)
    FROM entry
)
UPDATE reservations
SET status = 'expired',
    version = written.seen_version + expired.position
FROM written, expired
WHERE reservations.reservation_id = expired.reservation_id
RETURNING reservations.reservation_id;
