"""The rules alone, as the pure functions they are: order, limits, and the very instants."""

from datetime import datetime, timedelta, timezone
from uuid import uuid4

import pytest

from ticketboss.rules import limits
from ticketboss.rules.changes import (
    Allot,
    Archive,
    Cancel,
    Confirm,
    Edit,
    Extend,
    IfMatch,
    Look,
    Reduce,
    Release,
    Reserve,
)
from ticketboss.rules.errors import (
    CapacityBelowReserved,
    Elsewhere,
    EmptySalesWindow,
    HoldLimit,
    IdempotencyKeyReused,
    NotEnoughSeats,
    NotOver,
    PartnerLimit,
    PreconditionFailed,
    ReleasedBefore,
    SalesClosed,
    SalesNotOpen,
    TicketBossError,
)
from ticketboss.rules.model import NOW, Event, PartnerSeats, Reservation
from ticketboss.rules.plan import Plan

T = datetime(2025, 11, 1, 12, tzinfo=timezone.utc)
TICK = timedelta(microseconds=1)


def event(total=10, available=10, count=0, version=0, **more) -> Event:
    fields = {"sales_open_at": None, "sales_close_at": None, "unsettled": False, **more}
    return Event(
        event_id="concert",
        name="Concert",
        total_seats=total,
        available_seats=available,
        reservation_count=count,
        version=version,
        created_at=T,
        read_at=T,
        **fields,
    )


def reservation(seats=4, status="confirmed", **more) -> Reservation:
    fields = {"version": 1, "created_version": 1, "created_at": T, "requested_seats": seats, **more}
    return Reservation(
        reservation_id=uuid4(),
        event_id="concert",
        partner_id="abc-corp",
        seats=seats,
        status=status,
        **fields,
    )


def reserve(seats=1, **more) -> Reserve:
    return Reserve(uuid4(), "concert", "abc-corp", seats, **more)


def sold(*taken: Reservation, now=T, **more) -> Plan:
    """Return a plan of an event of ten seats with some reservations."""
    seats = sum(each.seats for each in taken)
    found = event(available=10 - seats, count=len(taken), version=len(taken), **more)
    return Plan(found, taken, now)


# --- Order ------------------------------------------------------------------------


def test_each_is_decided_on_what_those_before_it_leave():
    plan = Plan(event(total=5, available=5), [], T)
    outcomes = []
    for seats in (6, 3, 3, 2, 1):
        try:
            outcomes.append(reserve(seats).apply(plan).reservation.version)
        except NotEnoughSeats as fact:
            outcomes.append(fact.members["available_seats"])
    assert outcomes == [5, 1, 2, 2, 0]
    assert [(entry.version, entry.type, entry.available_seats) for entry in plan.entries] == [
        (1, "reserved", 2),
        (2, "reserved", 0),
    ]
    assert (plan.event.available_seats, plan.event.reservation_count) == (0, 2)


def test_the_last_seats_can_be_sold_and_not_one_more():
    assert reserve(3).apply(Plan(event(available=3, count=1), [], T)).reservation.seats == 3
    with pytest.raises(NotEnoughSeats):
        reserve(4).apply(Plan(event(available=3, count=1), [], T))


def test_what_is_given_back_is_there_for_the_next():
    taken = reservation(10)
    plan = sold(taken)
    Reduce(taken.reservation_id, 7).apply(plan)
    assert reserve(3).apply(plan).reservation.version == 3
    Cancel(taken.reservation_id).apply(plan)
    assert (plan.available_seats, plan.reservation_count) == (7, 1)


def test_a_cap_counts_what_those_before_it_took():
    """A hold counts for both caps, a sale for one."""
    nothing = PartnerSeats(
        event_id="concert", version=0, partner_id="abc-corp", seats=0, held_seats=0
    )
    capped = event(max_seats_per_partner=8, max_held_seats_per_partner=3)
    plan = Plan(capped, [], T, partners=[nothing])
    reserve(4).apply(plan)
    reserve(2, hold_seconds=60).apply(plan)
    for wanted, cap in (
        (reserve(2, hold_seconds=60), "max_held_seats_per_partner"),
        (reserve(3), "max_seats_per_partner"),
    ):
        with pytest.raises(PartnerLimit) as refused:
            wanted.apply(plan)
        assert refused.value.members["cap"] == cap
    reserve(1, hold_seconds=60).apply(plan)
    reserve(1).apply(plan)
    assert (nothing.seats, nothing.held_seats) == (0, 0)


def test_an_allotment_is_entered_only_where_a_draw_gives_seats_back():
    source = reservation(4, "held", allotment=True, requested_seats=6)
    drawn = reservation(2, "held", drawn_from=source.reservation_id)
    plan = sold(source, drawn)
    Confirm(drawn.reservation_id).apply(plan)
    assert [entry.type for entry in plan.entries] == ["confirmed"]
    Reduce(drawn.reservation_id, 1).apply(plan)
    assert [(entry.type, entry.seats) for entry in plan.entries[1:]] == [
        ("reduced", 1),
        ("allotted", 5),
    ]


def test_a_key_shows_what_those_before_it_made_of_its_reservation():
    taken = reservation(3, idempotency_key="order-1")
    plan = sold(taken)
    Cancel(taken.reservation_id).apply(plan)
    again = reserve(3, idempotency_key="order-1").apply(plan)
    assert (again.replayed, again.reservation.status) == (True, "cancelled")


def test_a_plan_is_placed_on_the_version_that_was_there():
    plan = Plan.supposing("concert")
    made = reserve(2, hold_seconds=60).apply(plan).reservation
    plan.place(T, 41)
    assert (made.version, made.created_version) == (42, 42)
    assert (made.created_at, made.expires_at) == (T, T + timedelta(seconds=60))


# --- Instants -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "refusal"), [(T - TICK, SalesNotOpen), (T, None), (T + TICK, None)]
)
def test_sales_open_at_their_instant(now, refusal):
    plan = Plan(event(sales_open_at=T), [], now)
    if refusal is None:
        assert reserve().apply(plan).reservation.seats == 1
    else:
        with pytest.raises(refusal):
            reserve().apply(plan)


@pytest.mark.parametrize("now", [T - TICK, T, T + TICK])
def test_sales_close_at_their_instant(now):
    plan = Plan(event(sales_close_at=T), [], now)
    if now < T:
        assert reserve().apply(plan).reservation.seats == 1
    else:
        with pytest.raises(SalesClosed):
            reserve().apply(plan)
    taken = reservation()
    closed = sold(taken, now=now, sales_close_at=T)
    assert Reduce(taken.reservation_id, 1).apply(closed).reservation.seats == 1
    assert Cancel(taken.reservation_id).apply(closed).reservation.status == "cancelled"


@pytest.mark.parametrize("now", [T - TICK, T, T + TICK])
def test_an_event_can_be_archived_from_the_close_of_its_sales_on(now):
    archive = Archive(IfMatch(frozenset({"0"})))
    if now < T:
        with pytest.raises(NotOver):
            archive.apply(Plan(event(sales_close_at=T), [], now))
    else:
        assert archive.apply(Plan(event(sales_close_at=T), [], now)).archived


@pytest.mark.parametrize("release_at", [T - TICK, T, T + TICK])
def test_an_allotment_ends_after_it_is_made(release_at):
    allot = Allot(uuid4(), "concert", "abc-corp", 4, release_at)
    if release_at > T:
        assert allot.apply(Plan(event(), [], T)).reservation.expires_at == release_at
    else:
        with pytest.raises(ReleasedBefore):
            allot.apply(Plan(event(), [], T))


@pytest.mark.parametrize("late", [timedelta(0), TICK])
def test_a_hold_can_be_extended_up_to_its_limit_and_not_beyond(late):
    held = reservation(status="held", expires_at=T + timedelta(seconds=limits.HOLD_TOTAL_SECONDS))
    now = T + timedelta(seconds=limits.HOLD_TOTAL_SECONDS - 60) + late
    extend = Extend(held.reservation_id, 60)
    if not late:
        after = extend.apply(sold(held, now=now)).reservation
        assert after.expires_at == T + timedelta(seconds=limits.HOLD_TOTAL_SECONDS)
    else:
        with pytest.raises(HoldLimit) as refusal:
            extend.apply(sold(held, now=now))
        assert refusal.value.members["latest_expires_at"] == held.expires_at


# --- What a change needs ------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "supposes"),
    [
        (reserve(), True),
        (reserve(if_match=IfMatch(frozenset({"1"}))), False),
        (Cancel(uuid4()), True),
        (Confirm(uuid4(), IfMatch(frozenset())), False),
        (Extend(uuid4(), 9), False),
        (Reduce(uuid4(), 1), True),
        (Edit({}), False),
        (Look(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_what_the_write_proves_may_be_supposed(change, supposes):
    assert change.may_suppose is supposes


def test_what_moves_the_bounds_of_others_is_in_a_batch_of_its_own():
    allot = Allot(uuid4(), "concert", "abc-corp", 4)
    changes = (Edit({}), Archive(IfMatch()), allot, Release("abc-corp"), reserve(), Look())
    assert [change.alone for change in changes] == [True] * 4 + [False] * 2


def test_a_change_says_which_reservation_it_reads_and_which_key_it_brings():
    id = uuid4()
    assert [change.reads for change in (Cancel(id), Confirm(id), Reduce(id, 1))] == [id] * 3
    assert reserve().reads is None
    assert reserve(idempotency_key="k").key == ("abc-corp", "k")
    assert reserve().key is Cancel(id).key is None


# --- Facts --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "change", "code"),
    [
        ("cancelled", Cancel, "already_cancelled"),
        ("expired", Cancel, "hold_expired"),
        ("cancelled", Confirm, "already_cancelled"),
        ("expired", Confirm, "hold_expired"),
        ("confirmed", lambda id: Extend(id, 9), "not_held"),
        ("cancelled", lambda id: Extend(id, 9), "already_cancelled"),
        ("expired", lambda id: Reduce(id, 1), "hold_expired"),
        ("confirmed", lambda id: Reduce(id, 5), "cannot_grow"),
    ],
)
def test_what_cannot_be_changed_says_why(status, change, code):
    taken = reservation(status=status)
    plan = sold(taken)
    with pytest.raises(TicketBossError) as refusal:
        change(taken.reservation_id).apply(plan)
    assert refusal.value.code == code
    assert plan.entries == []


def test_a_reservation_of_another_event_is_none_of_this_one():
    other = reservation()
    other.event_id = "other"
    for change in (Cancel(other.reservation_id), Cancel(uuid4())):
        with pytest.raises(Elsewhere):
            change.apply(sold(other))


@pytest.mark.parametrize("change", [Cancel, Confirm, lambda id, **to: Extend(id, 60, **to)])
def test_a_reservation_of_another_partner_is_as_good_as_none(change):
    """It may be read all the same, for one of its own partner's changes in the same batch."""
    theirs = reservation(status="held", expires_at=T + timedelta(seconds=60))
    plan = sold(theirs)
    for made in (
        change(theirs.reservation_id, scope="xyz-inc"),
        change(theirs.reservation_id, scope="xyz-inc", if_match=IfMatch(frozenset(["9"]))),
    ):
        with pytest.raises(Elsewhere):
            made.apply(plan)
    assert plan.entries == []
    change(theirs.reservation_id, scope="abc-corp").apply(plan)
    assert len(plan.entries) == 1


def test_a_key_gives_the_reservation_that_it_made_and_no_other():
    earlier = reservation(2, idempotency_key="k", status="cancelled")
    plan = sold(earlier)
    again = reserve(2, idempotency_key="k").apply(plan)
    assert (again.reservation, again.replayed) == (earlier, True)
    assert plan.repeated == {earlier.reservation_id}
    for other in (
        reserve(3, idempotency_key="k"),
        reserve(2, idempotency_key="k", hold_seconds=9),
        Reserve(uuid4(), "other", "abc-corp", 2, idempotency_key="k"),
    ):
        with pytest.raises(IdempotencyKeyReused):
            other.apply(plan)
    somebody = Reserve(uuid4(), "concert", "xyz-inc", 2, idempotency_key="k").apply(plan)
    assert not somebody.replayed


def test_what_was_made_in_the_same_batch_is_no_repetition_that_must_be_looked_at_again():
    plan = sold()
    first = reserve(2, idempotency_key="k").apply(plan).reservation
    assert reserve(2, idempotency_key="k").apply(plan).reservation is first
    assert plan.repeated == set()


def test_a_condition_is_judged_on_what_those_before_it_leave():
    plan = sold()
    reserve().apply(plan)
    assert reserve(if_match=IfMatch(frozenset({"1"}))).apply(plan).reservation.version == 2
    with pytest.raises(PreconditionFailed) as refusal:
        reserve(if_match=IfMatch(frozenset({"1"}))).apply(plan)
    assert refusal.value.members["version"] == 2


def test_an_event_keeps_room_for_what_is_reserved():
    plan = sold(reservation(4))
    assert Edit({"total_seats": 4}).apply(plan).available_seats == 0
    with pytest.raises(CapacityBelowReserved) as refusal:
        Edit({"total_seats": 3}).apply(sold(reservation(4)))
    assert refusal.value.members["minimum_seats"] == 4


@pytest.mark.parametrize("opens", [T, T + TICK])
def test_a_sales_window_that_never_opens_is_refused(opens):
    with pytest.raises(EmptySalesWindow):
        Edit({"sales_open_at": opens}).apply(sold(sales_close_at=T))
    assert Edit({"sales_open_at": T - TICK}).apply(sold(sales_close_at=T)).sales_close_at == T


def test_a_confirmed_hold_has_no_end():
    held = reservation(status="held", expires_at=T + TICK)
    after = Confirm(held.reservation_id).apply(sold(held)).reservation
    assert (after.status, after.expires_at, after.confirmed_at) == ("confirmed", None, NOW)
    assert held.status == "held"
