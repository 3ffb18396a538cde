-- Write the changes of one batch, if the event is as their decisions suppose it.
--
-- The event's row, one ledger row per change, and one row per new reservation;
-- update_reservations.sql follows in the same transaction where existing ones
-- change. Nothing is written if the event's version differs from the one seen
-- (where one was seen), if it has fewer seats than the batch needs on its way,
-- if seats would be sold outside the sales window, if a hold has expired and is
-- not settled (its seats belong to the pool), or if a reservation that the batch
-- changes has been changed since it was read.
--
-- One row:  it is written, on top of seen_version and seen_seats; at is the time
--           that all its changes carry.
-- No row:   it is not.
WITH seen AS (
    SELECT version, available_seats
    FROM events
    WHERE event_id = %(event_id)s
      AND version = coalesce(%(version)s, version)
      AND available_seats >= %(needed_seats)s
      AND (NOT %(sells)s
           OR (sales_open_at IS NULL OR sales_open_at <= now())
          AND (sales_close_at IS NULL OR now() < sales_close_at))
      AND NOT EXISTS (
          SELECT FROM reservations
          WHERE reservations.event_id = %(event_id)s
            AND status = 'held'
            AND expires_at <= now()
      )
      AND (cardinality(%(changed_ids)s::uuid[]) = 0 OR NOT EXISTS (
          SELECT FROM unnest(%(changed_ids)s::uuid[], %(changed_from)s::bigint[])
                      AS was (reservation_id, version)
          JOIN reservations USING (reservation_id)
          WHERE reservations.version <> was.version
      ))
), written AS (
    UPDATE events
    SET available_seats = events.available_seats + %(available_change)s,
        total_seats = total_seats + %(total_change)s,
        reservation_count = reservation_count + %(count_change)s,
        version = events.version + cardinality(%(types)s),
        name = CASE WHEN %(edits)s THEN %(name)s ELSE name END,
        sales_open_at = CASE WHEN %(edits)s THEN %(sales_open_at)s ELSE sales_open_at END,
        sales_close_at = CASE WHEN %(edits)s THEN %(sales_close_at)s ELSE sales_close_at END
    FROM seen
    WHERE events.event_id = %(event_id)s
      AND events.version = seen.version
    RETURNING event_id, seen.version AS seen_version, seen.available_seats AS seen_seats
), change AS (
    SELECT event_id, seen_version + position AS version, type, reservation_id, partner_id, seats,
           seen_seats + available_change AS available_seats, hold_seconds, idempotency_key
    FROM written,
         unnest(%(types)s, %(reservation_ids)s::uuid[], %(partner_ids)s::text[],
                %(seats)s::integer[], %(available_changes)s::integer[],
                %(hold_seconds)s::integer[], %(idempotency_keys)s::text[])
         WITH ORDINALITY AS change (type, reservation_id, partner_id, seats, available_change,
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
SELECT now() AS at, seen_version FROM written;
