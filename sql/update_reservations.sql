-- Change reservations of an event, after write_batch.sql in its transaction.
--
-- Nothing is changed unless that statement has entered the batch in the ledger.
UPDATE reservations
SET status = change.status,
    seats = change.seats,
    version = change.version,
    expires_at = change.expires_at,
    confirmed_at = CASE WHEN change.confirms THEN now() ELSE reservations.confirmed_at END,
    cancelled_at = CASE change.status WHEN 'cancelled' THEN now() END
FROM unnest(%(changed_ids)s::uuid[], %(changed_statuses)s::text[], %(changed_seats)s::integer[],
            %(changed_versions)s::bigint[], %(changed_expires_at)s::timestamptz[],
            %(changed_confirms)s::boolean[])
     AS change (reservation_id, status, seats, version, expires_at, confirms)
WHERE reservations.event_id = %(event_id)s
  AND reservations.reservation_id = change.reservation_id
  AND EXISTS (
      SELECT FROM ledger
      WHERE ledger.event_id = %(event_id)s
        AND ledger.version = %(version)s + 1
        AND batch_id = %(batch_id)s
  );
