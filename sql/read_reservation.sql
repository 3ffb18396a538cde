-- Read one reservation by its id: anybody's, or a partner's where a scope is given.
--
-- One row:  the reservation. overdue: its hold has expired and is not settled yet.
-- No row:   there is no such reservation.
SELECT reservation_id, event_id, partner_id, seats, status, version, created_version,
       created_at, expires_at, confirmed_at, cancelled_at, requested_seats, hold_seconds, idempotency_key,
       allotment, drawn_from,
       status = 'held' AND expires_at <= now() AS overdue
FROM reservations
WHERE reservation_id = %(reservation_id)s
  AND NOT allotment
  AND (%(scope)s::text IS NULL OR partner_id = %(scope)s)
  AND EXISTS (
      SELECT FROM events
      WHERE events.event_id = reservations.event_id
        AND archived_version IS NULL
  );
