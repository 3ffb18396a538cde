-- Read the holds of an event that have ended and are not in the ledger yet, those that
-- ended first first.
--
-- A row each:  the reservation, or allotment, in the columns of read_reservations.sql.
SELECT reservation_id, event_id, partner_id, seats, status, version, created_version,
       created_at, expires_at, confirmed_at, cancelled_at, requested_seats, hold_seconds, idempotency_key,
       allotment, drawn_from,
       status = 'held' AND expires_at <= now() AS overdue, now() AS read_at
FROM reservations
WHERE event_id = %(event_id)s
  AND status = 'held'
  AND expires_at <= now()
ORDER BY expires_at, created_version
LIMIT %(limit)s;
