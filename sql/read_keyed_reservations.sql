-- Read the reservations that were made with the idempotency keys that a batch brings.
--
-- A row each:  the reservation, in the columns of read_reservations.sql.
SELECT reservation_id, event_id, reservations.partner_id, seats, status, version, created_version,
       created_at, expires_at, confirmed_at, cancelled_at, requested_seats, hold_seconds,
       reservations.idempotency_key,
       allotment, drawn_from,
       status = 'held' AND expires_at <= now() AS overdue, now() AS read_at
FROM unnest(%(partner_ids)s::text[], %(idempotency_keys)s::text[])
     AS brought (partner_id, idempotency_key)
JOIN reservations
  ON reservations.partner_id = brought.partner_id
 AND reservations.idempotency_key = brought.idempotency_key;
