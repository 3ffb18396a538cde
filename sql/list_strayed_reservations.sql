-- List reservations that the ledger does not tell of where they say they were made.
--
-- A row each:  the reservation's event, and its id.
SELECT piece.event_id, made.reservation_id::text
FROM unnest(%(event_ids)s::text[], %(first_versions)s::bigint[], %(last_versions)s::bigint[],
            %(ends)s::boolean[]) AS piece (event_id, first_version, last_version, ends)
CROSS JOIN LATERAL (
    SELECT created_version, reservation_id
    FROM reservations
    WHERE reservations.event_id = piece.event_id
      AND created_version >= first_version
      AND (ends OR created_version <= last_version)
    ORDER BY created_version
) AS made
WHERE reservation_id IS DISTINCT FROM (
    SELECT reservation_id
    FROM ledger
    WHERE ledger.event_id = piece.event_id
      AND version = created_version
      AND type IN ('reserved', 'held', 'allotted')
);
