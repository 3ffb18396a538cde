-- Read one reservation by its id.
--
-- One row:  the reservation. overdue: its hold has expired and is not settled yet.
-- No row:   there is no such reservation.
SELECT reservation_id, event_id, partner_id, seats, status, version, created_version,
       created_at, expires_at, confirmed_at, cancelled_at, requested_seats, hold_seconds, idempotency_key,
       allotment, drawn_from,
       status = 'held' AND expires_at <= now() AS overdue
FROM reservations
WHERE reservation_id = %(reservation_id)s
  AND NOT allotment;
