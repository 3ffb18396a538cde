-- Write the changes of one batch, if nobody has changed the event since it was read.
--
-- The event's row, one ledger row per change, and one row per new reservation;
-- update_reservations.sql follows in the same transaction where existing ones
-- change. Nothing is written if the version differs, if a hold has expired
-- and is not settled (its seats belong to the pool, so the decisions may be
-- wrong), or if seats would be sold outside the sales window.
--
-- One row:  it is written; at is the time that all its changes carry.
-- No row:   it is not.
WITH written AS (
    UPDATE events
    SET available_seats = available_seats + %(available_change)s,
        total_seats = total_seats + %(total_change)s,
        reservation_count = reservation_count + %(count_change)s,
        version = version + cardinality(%(types)s),
        name = %(name)s,
        sales_open_at = %(sales_open_at)s,
        sales_close_at = %(sales_close_at)s
    WHERE event_id = %(event_id)s
      AND version = %(version)s
      AND NOT EXISTS (
          SELECT FROM reservations
          WHERE reservations.event_id = %(event_id)s
            AND status = 'held'
            AND expires_at <= now()
      )
      AND (NOT %(sells)s
           OR (sales_open_at IS NULL OR sales_open_at <= now())
          AND (sales_close_at IS NULL OR now() < sales_close_at))
    RETURNING event_id, version - cardinality(%(types)s) AS seen_version
), change AS (
    SELECT written.event_id, seen_version + position AS version, type, reservation_id,
           partner_id, seats, available_seats, hold_seconds, idempotency_key
    FROM written,
         unnest(%(types)s, %(reservation_ids)s::uuid[], %(partner_ids)s::text[],
                %(seats)s::integer[], %(available_seats)s::integer[],
                %(hold_seconds)s::integer[], %(idempotency_keys)s::text[])
         WITH ORDINALITY AS change (type, reservation_id, partner_id, seats, available_seats,
                                    hold_seconds, idempotency_key, position)
), entered AS (
    INSERT INTO ledger (event_id, version, type, reservation_id, partner_id, seats,
                        available_seats, at, batch_id)
    SELECT event_id, version, type, reservation_id, partner_id, seats,
           available_seats, now(), %(batch_id)s
    FROM change
), created AS (
    INSERT INTO reservations (event_id, created_version, reservation_id, partner_id, seats,
                              status, version, created_at, expires_at, confirmed_at,
                              requested_seats, hold_seconds, idempotency_key)
    SELECT event_id, version, reservation_id, partner_id, seats,
           CASE type WHEN 'held' THEN 'held' ELSE 'confirmed' END,
           version, now(), now() + hold_seconds * interval '1 second',
           CASE type WHEN 'reserved' THEN now() END,
           seats, hold_seconds, idempotency_key
    FROM change
    WHERE type IN ('reserved', 'held')
)
SELECT now() AS at FROM written;
