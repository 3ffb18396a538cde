-- Read what a batch must know of existing reservations: those it would change,
-- and those made with an idempotency key that it brings.
--
-- A row each:  the reservation, in the columns of read_reservation.sql, and the time.
WITH wanted AS (
    SELECT unnest(%(reservation_ids)s::uuid[]) AS reservation_id
    UNION
    SELECT reservations.reservation_id
    FROM unnest(%(partner_ids)s::text[], %(idempotency_keys)s::text[])
         AS brought (partner_id, idempotency_key)
    JOIN reservations
      ON reservations.partner_id = brought.partner_id
     AND reservations.idempotency_key = brought.idempotency_key
)
SELECT reservation_id, event_id, partner_id, seats, status, version, created_version,
       created_at, expires_at, confirmed_at, cancelled_at, requested_seats, hold_seconds, idempotency_key,
       status = 'held' AND expires_at <= now() AS overdue, now() AS read_at
FROM wanted
JOIN reservations USING (reservation_id);
