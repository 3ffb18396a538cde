-- Make sure that what is acknowledged a second time is durable.
--
-- The row lock makes this a transaction that writes: under synchronous
-- replication it returns only when everything before it is on the standby.
-- It is the weakest there is, which waits for nobody who changes the reservation.
--
-- One row:  the reservation is there, and stays.
SELECT reservation_id
FROM reservations
WHERE reservation_id = %(reservation_id)s
FOR KEY SHARE;
