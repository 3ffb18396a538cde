-- Read the reservations that a batch would change.
--
-- A row each:  the reservation, in the columns of read_reservation.sql, and the time.
SELECT reservation_id, event_id, partner_id, seats, status, version, created_version,
       created_at, expires_at, confirmed_at, cancelled_at, requested_seats, hold_seconds, idempotency_key,
       allotment, drawn_from,
       status = 'held' AND expires_at <= now() AS overdue, now() AS read_at
FROM reservations
WHERE reservation_id = ANY (%(reservation_ids)s::uuid[]);
