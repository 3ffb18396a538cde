-- List reservations of an event that are not as their last change in the ledger left them.
--
-- A row each:  the id of a reservation that differs, or is in one table only.
WITH last_change AS (
    SELECT DISTINCT ON (reservation_id) reservation_id, partner_id, version, type, seats,
           min(version) OVER history AS created_version,
           min(partner_id) OVER history = max(partner_id) OVER history AS one_partner
    FROM ledger
    WHERE event_id = %(event_id)s
      AND reservation_id IS NOT NULL
    WINDOW history AS (PARTITION BY reservation_id)
    ORDER BY reservation_id, version DESC
)
SELECT coalesce(last_change.reservation_id, stored.reservation_id) AS reservation_id
FROM last_change
FULL JOIN (
    SELECT reservation_id, partner_id, version, created_version, status, seats
    FROM reservations
    WHERE event_id = %(event_id)s
) AS stored USING (reservation_id)
WHERE (stored.version, stored.created_version, stored.partner_id, stored.seats)
      IS DISTINCT FROM (last_change.version, last_change.created_version,
                        last_change.partner_id, last_change.seats)
   OR NOT one_partner
   OR NOT CASE last_change.type
              WHEN 'reserved' THEN stored.status = 'confirmed'
              WHEN 'extended' THEN stored.status = 'held'
              WHEN 'reduced' THEN stored.status IN ('held', 'confirmed')
              ELSE stored.status = last_change.type
          END
LIMIT %(limit)s;
