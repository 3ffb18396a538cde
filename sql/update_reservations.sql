-- Change reservations of an event, after write_batch.sql in its transaction.
--
-- Nothing is changed unless that statement has entered the batch in the ledger,
-- as the event's last changes. Versions are counted back from the last one.
UPDATE reservations
SET status = change.status,
    seats = change.seats,
    version = events.version - change.versions_back,
    expires_at = change.expires_at,
    confirmed_at = CASE WHEN change.confirms THEN now() ELSE reservations.confirmed_at END,
    cancelled_at = CASE change.status WHEN 'cancelled' THEN now() END
FROM unnest(%(changed_ids)s::uuid[], %(changed_statuses)s::text[], %(changed_seats)s::integer[],
            %(changed_versions_back)s::bigint[], %(changed_expires_at)s::timestamptz[],
            %(changed_confirms)s::boolean[])
     AS change (reservation_id, status, seats, versions_back, expires_at, confirms),
     events
JOIN ledger USING (event_id, version)
WHERE events.event_id = %(event_id)s
  AND ledger.batch_id = %(batch_id)s
  AND reservations.event_id = events.event_id
  AND reservations.reservation_id = change.reservation_id;
