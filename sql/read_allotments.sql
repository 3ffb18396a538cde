-- Read the allotments of partners, each in one event, as far as they live.
--
-- A row each:  the allotment, in the columns of read_reservations.sql.
SELECT found.reservation_id, found.event_id, found.partner_id, found.seats, found.status, found.version, found.created_version,
       found.created_at, found.expires_at, found.confirmed_at, found.cancelled_at, found.requested_seats, found.hold_seconds, found.idempotency_key,
       found.allotment, found.drawn_from,
       found.status = 'held' AND found.expires_at <= now() AS overdue, now() AS read_at
FROM unnest(%(event_ids)s::text[], %(partner_ids)s::text[]) AS wanted (event_id, partner_id)
JOIN reservations AS found
  ON found.event_id = wanted.event_id
 AND found.partner_id = wanted.partner_id
 AND found.status = 'held'
 AND found.allotment;
