-- Read the reservations that a batch would change, each within its scope.
--
-- A row each:  the reservation, in the columns of read_reservation.sql, and the time.
SELECT reservation_id, event_id, partner_id, seats, status, version, created_version,
       created_at, expires_at, confirmed_at, cancelled_at, requested_seats, hold_seconds,
       idempotency_key, allotment, drawn_from,
       status = 'held' AND expires_at <= now() AS overdue, now() AS read_at
FROM unnest(%(reservation_ids)s::uuid[], %(scopes)s::text[]) AS asked (reservation_id, scope)
JOIN reservations USING (reservation_id)
WHERE (scope IS NULL OR partner_id = scope)
  AND EXISTS (
      SELECT FROM events
      WHERE events.event_id = reservations.event_id
        AND archived_version IS NULL
  );
