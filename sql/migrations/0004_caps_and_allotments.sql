-- Let an event have caps for its partners, and allotments.
--
-- serves: 4
--
-- A release before this one would sell past a cap, and take an allotment for a hold of
-- somebody's: it must not serve beside this one.
--
-- An allotment is a hold that a partner owns: a row of reservations, of which seats are
-- those that are left in it and requested_seats those that were granted. It may have no
-- end. What was drawn from it names it, and goes back to it while it is held.
ALTER TABLE events
    ADD COLUMN max_seats_per_partner integer,
    ADD COLUMN max_held_seats_per_partner integer,
    ADD COLUMN allotted_seats integer NOT NULL DEFAULT 0,
    ADD CONSTRAINT events_caps_in_range CHECK (
        max_seats_per_partner BETWEEN 1 AND 10000000
        AND max_held_seats_per_partner BETWEEN 1 AND 10000000
    ),
    DROP CONSTRAINT events_count_matches_seats,
    ADD CONSTRAINT events_count_matches_seats CHECK (
        allotted_seats >= 0
        AND reservation_count BETWEEN 0 AND total_seats - available_seats - allotted_seats
        AND (reservation_count > 0) = (total_seats - available_seats > allotted_seats)
    );

ALTER TABLE reservations
    ADD COLUMN allotment boolean NOT NULL DEFAULT false,
    ADD COLUMN drawn_from uuid,
    DROP CONSTRAINT reservations_seats_positive,
    DROP CONSTRAINT reservations_hold_has_an_end,
    ADD CONSTRAINT reservations_seats_positive CHECK (
        seats BETWEEN CASE WHEN allotment THEN 0 ELSE 1 END AND requested_seats
    ) NOT VALID,
    ADD CONSTRAINT reservations_hold_has_an_end CHECK (
        status <> 'held' OR expires_at IS NOT NULL OR allotment
    ) NOT VALID,
    ADD CONSTRAINT reservations_allotment_is_held_until_it_ends CHECK (
        NOT allotment OR (status <> 'confirmed' AND drawn_from IS NULL)
    ) NOT VALID;

ALTER TABLE ledger
    DROP CONSTRAINT ledger_type_known,
    ADD CONSTRAINT ledger_type_known CHECK (
        type IN ('reserved', 'held', 'confirmed', 'reduced', 'extended', 'cancelled',
                 'expired', 'allotted', 'event_created', 'event_updated')
    ) NOT VALID;
