-- Read at which versions events and reservations are, for what was decided on them.
--
-- Only where a standby is waited for: elsewhere what was read was as durable as it gets.
--
-- A row for each of both that is asked for:  its version; none where there is no such.
-- No row:  no standby is waited for.
SELECT asked.event_id, NULL::uuid AS reservation_id, (
    SELECT version
    FROM events
    WHERE events.event_id = asked.event_id
      AND archived_version IS NULL
) AS version
FROM unnest(%(event_ids)s::text[]) AS asked (event_id)
WHERE current_setting('synchronous_standby_names') <> ''
UNION ALL
SELECT NULL, asked.reservation_id, (
    SELECT version
    FROM reservations
    WHERE reservations.reservation_id = asked.reservation_id
)
FROM unnest(%(reservation_ids)s::uuid[]) AS asked (reservation_id)
WHERE current_setting('synchronous_standby_names') <> '';
