-- Read an event as it is now, for an answer or for a decision; or, at the end of
-- the transaction that writes a batch, whether the batch was written.
--
-- One row:  the event. unsettled: a hold has expired and is not in the ledger
--           yet. written_at: when the batch was written, null if it was not.
-- No row:   there is no such event.
SELECT event_id, name, total_seats, available_seats, reservation_count, version,
       sales_open_at, sales_close_at, created_at, now() AS read_at,
       EXISTS (
           SELECT FROM reservations
           WHERE reservations.event_id = events.event_id
             AND status = 'held'
             AND expires_at <= now()
       ) AS unsettled,
       (
           SELECT at
           FROM ledger
           WHERE ledger.event_id = events.event_id
             AND ledger.version = %(version)s::bigint + 1
             AND batch_id = %(batch_id)s::uuid
       ) AS written_at
FROM events
WHERE event_id = %(event_id)s;
