-- List every event with the numbers that its ledger must give.
--
-- A row each:  the event.
SELECT event_id, initial_seats, total_seats, available_seats, reservation_count, version
FROM events
ORDER BY event_id;
