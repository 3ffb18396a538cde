-- Read an event as it is now, for an answer or for a decision.
--
-- One row:  the event. unsettled: a hold has expired and is not in the ledger yet.
-- No row:   there is no such event.
SELECT event_id, name, total_seats, available_seats, reservation_count, version,
       sales_open_at, sales_close_at, max_seats_per_partner, max_held_seats_per_partner,
       allotted_seats, created_at, now() AS read_at,
       EXISTS (
           SELECT FROM reservations
           WHERE reservations.event_id = %(event_id)s
             AND status = 'held'
             AND expires_at <= now()
       ) AS unsettled
FROM events
WHERE event_id = %(event_id)s;
