-- Read the numbers of events that are on sale now: for people who watch, not for decisions.
--
-- Bounded, however many there are: of the first 10,000 events by their ids the first
-- 200 on sale, and for all of them together 100,000 holds.
--
-- A row each:  the event, and the seats on hold as the ledger has them at its version;
--              null where that would take more.
SELECT event_id, total_seats, available_seats, allotted_seats, version, held_seats
FROM (
    SELECT *, count(*) OVER () AS events
    FROM (
        SELECT *
        FROM (
            SELECT *
            FROM events
            WHERE archived_version IS NULL
            ORDER BY event_id
            LIMIT 10000
        ) AS first_events
        WHERE coalesce(sales_open_at <= now(), true)
          AND coalesce(sales_close_at > now(), true)
        ORDER BY event_id
        LIMIT 200
    ) AS on_sale
) AS chosen,
LATERAL (
    SELECT CASE
               WHEN count(*) <= 100000 / events
               THEN coalesce(sum(seats) FILTER (WHERE NOT allotment), 0)::integer
           END AS held_seats
    FROM (
        SELECT seats, allotment
        FROM reservations
        WHERE reservations.event_id = chosen.event_id
          AND status = 'held'
        LIMIT 100000 / events + 1
    ) AS holds
) AS held
ORDER BY event_id;
