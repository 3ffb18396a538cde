-- Read how many seats partners have of the pool of an event, for its caps.
--
-- A sum shows no trace of a row that is gone from it, so the event's version comes with
-- it: one statement, one state. It costs as much as the partner has live reservations,
-- which the cap bounds, and nothing for those that have ended.
--
-- A row each:  the event, its version, the partner, its seats and those of them on hold.
SELECT events.event_id, version, wanted.partner_id, had.seats, had.held_seats
FROM unnest(%(event_ids)s::text[], %(partner_ids)s::text[]) AS wanted (event_id, partner_id)
JOIN events ON events.event_id = wanted.event_id AND archived_version IS NULL
CROSS JOIN LATERAL (
    SELECT coalesce(sum(seats), 0)::integer AS seats,
           coalesce(sum(seats) FILTER (WHERE status = 'held'), 0)::integer AS held_seats
    FROM reservations
    WHERE reservations.event_id = wanted.event_id
      AND reservations.partner_id = wanted.partner_id
      AND status IN ('held', 'confirmed')
      AND drawn_from IS NULL
      AND NOT allotment
) AS had;
