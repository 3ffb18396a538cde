-- List pieces of several ledgers for the replay, each with what is stored of the
-- reservations that it tells of.
--
-- Nothing is joined that the planner could read as a whole: subqueries with an order,
-- with a LIMIT or in place of a value find each piece and each row by their indexes.
--
-- A row each:  the change, in the columns of the ledger. stored: the state of the
--              reservation, if this was its last change; goes_on: the ledger has its
--              last change further on; one of the two must be. as_made: it is stored
--              as it was made; key_forgotten: but for its key. sealed: the row has a checksum; altered: it is wrong.
--              What has none was entered by a release that told no more than 0001 has:
--              a hold's end and a key are then taken as they are stored.
SELECT entry.event_id, entry.version, entry.type, entry.reservation_id::text, entry.seats,
       entry.available_seats, entry.at, entry.details, sealed,
       CASE WHEN sealed
            THEN checksum <> hash_record_extended(ROW(
                entry.event_id, entry.version, entry.type, entry.reservation_id, entry.partner_id,
                entry.seats, entry.available_seats, entry.at, entry.batch_id, entry.actor,
                entry.expires_at, entry.idempotency_key, entry.details
            ), 0)
            ELSE num_nonnulls(actor, entry.expires_at, entry.idempotency_key, details) > 0
       END AS altered,
       CASE WHEN sealed THEN entry.expires_at ELSE stored.expires_at END AS expires_at,
       (stored.event_id, stored.partner_id) = (entry.event_id, entry.partner_id)
       AND (
           entry.type NOT IN ('reserved', 'held')
           OR (stored.created_version, stored.created_at, stored.requested_seats)
              = (entry.version, entry.at, entry.seats)
          AND (stored.hold_seconds IS NULL) = (entry.type = 'reserved')
          AND (NOT sealed
               OR (coalesce(stored.idempotency_key, entry.idempotency_key),
                   entry.at + stored.hold_seconds * interval '1 second')
                  IS NOT DISTINCT FROM (entry.idempotency_key, entry.expires_at))
       ) AS as_made,
       sealed AND stored.idempotency_key IS NULL AND entry.idempotency_key IS NOT NULL
       AS key_forgotten,
       stored.version = entry.version AS is_last,
       stored.version > entry.version AND entry.reservation_id = (
           SELECT reservation_id
           FROM ledger AS later
           WHERE later.event_id = entry.event_id
             AND later.version = stored.version
       ) AS goes_on,
       stored.status AS stored_status, stored.seats AS stored_seats,
       stored.expires_at AS stored_expires_at, stored.confirmed_at AS stored_confirmed_at,
       stored.cancelled_at AS stored_cancelled_at, stored.drawn_from AS stored_drawn_from,
       CASE WHEN stored.allotment THEN stored.requested_seats END AS stored_granted
FROM unnest(%(event_ids)s::text[], %(first_versions)s::bigint[], %(last_versions)s::bigint[])
     WITH ORDINALITY AS piece (event_id, first_version, last_version, position)
CROSS JOIN LATERAL (
    SELECT *, checksum IS NOT NULL AS sealed
    FROM ledger
    WHERE ledger.event_id = piece.event_id
      AND version BETWEEN first_version AND last_version
    ORDER BY version
) AS entry
LEFT JOIN LATERAL (
    SELECT *
    FROM reservations
    WHERE reservations.reservation_id = entry.reservation_id
    LIMIT 1
) AS stored ON true
ORDER BY piece.position, entry.version;
