-- Make sure that reservations acknowledged a second time are durable.
--
-- The row lock makes this a transaction that writes: under synchronous
-- replication it returns only when everything before it is on the standby.
--
-- A row each:  the reservation is there, and stays.
SELECT reservation_id
FROM reservations
WHERE reservation_id = ANY (%(reservation_ids)s::uuid[])
ORDER BY reservation_id
FOR UPDATE;
