-- Drop idempotency keys of an event whose sales are closed, some at a time.
--
-- The ledger keeps them. This is no change of a reservation, so it makes no version.
--
-- A row each:  a key was dropped; the version that made the reservation.
UPDATE reservations
SET idempotency_key = NULL
WHERE event_id = %(event_id)s
  AND created_version = ANY (ARRAY(
      SELECT created_version
      FROM reservations AS next_rows
      WHERE next_rows.event_id = %(event_id)s
        AND created_version > %(after)s
        AND idempotency_key IS NOT NULL
      ORDER BY created_version
      LIMIT %(limit)s
  ))
  AND EXISTS (
      SELECT FROM events
      WHERE events.event_id = reservations.event_id
        AND sales_close_at <= now()
  )
RETURNING created_version;
