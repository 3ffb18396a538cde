-- Check the rows that are there against the constraints of 0004: a migration of its
-- own, which reads whole tables and locks out nobody.
--
-- serves: 4
ALTER TABLE reservations VALIDATE CONSTRAINT reservations_seats_positive;
ALTER TABLE reservations VALIDATE CONSTRAINT reservations_hold_has_an_end;
ALTER TABLE reservations VALIDATE CONSTRAINT reservations_allotment_is_held_until_it_ends;
ALTER TABLE ledger VALIDATE CONSTRAINT ledger_type_known;
