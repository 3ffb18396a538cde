"""Ids and names have one form each: no two partners look the same (API.md, conventions)."""

import sys
import unicodedata

import pytest

from ticketboss.rules.names import INVISIBLE, event_name, partner_id

RESERVATIONS = "/api/v1/reservations"
LIST = "/api/v1/events/node-meetup-2025/reservations"

# Default_Ignorable_Code_Point, from Unicode's DerivedCoreProperties.txt.
DEFAULT_IGNORABLE = [
    *((0x00AD, 0x00AD), (0x034F, 0x034F), (0x061C, 0x061C), (0x115F, 0x1160), (0x17B4, 0x17B5)),
    *((0x180B, 0x180F), (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0x3164, 0x3164)),
    *((0xFE00, 0xFE0F), (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFF8)),
    *((0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A), (0xE0000, 0xE0FFF)),
]


def taken(form, text):
    try:
        form(text)
    except ValueError:
        return False
    return True


def test_nothing_invisible_is_in_an_id():
    for first, last in DEFAULT_IGNORABLE:
        for code in range(first, last + 1):
            assert not taken(partner_id, f"abc{chr(code)}corp"), hex(code)
            assert not taken(partner_id, chr(code)), hex(code)


def test_an_id_has_every_visible_character_and_of_white_space_only_the_space():
    """By the categories of Unicode, over all of it."""
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        category = unicodedata.category(character)
        visible = character == " " or category[0] not in "CZ"
        if visible and INVISIBLE.match(character):
            visible = False
        assert taken(partner_id, f"a{character}b") == visible, (hex(code), category)


@pytest.mark.parametrize("text", ["", " ", "  ", " abc", "abc ", "a\tb", "a\u00a0b", "x" * 65])
def test_what_is_no_id_is_none(text):
    assert not taken(partner_id, text)


@pytest.mark.parametrize(
    "text", ["a", "a b", "a  b", "x" * 64, "Ünïcode", "日本", "🎟", "٣", "नमस्ते"]
)
def test_an_id_stays_as_it_is(text):
    assert partner_id(text) == text


def test_an_id_is_composed_before_its_length_is_judged():
    assert partner_id("u\u0308" * 64) == "ü" * 64
    assert partner_id("\u03b1\u0313\u0300\u0345" * 64) == "\u1f82" * 64
    assert not taken(partner_id, "\u0958" * 64)  # whose one form is two characters


@pytest.mark.parametrize(
    "text",
    [
        "👩\u200d🚀",
        "❤\ufe0f",
        "☎\ufe0e",
        "👨\u200d👩\u200d👧",
        "می\u200cخواهم",
        "1\ufe0f\u20e3",
        "🇨🇭",
    ],
)
def test_a_name_may_be_joined_as_emoji_are_and_an_id_may_not(text):
    assert event_name(text) == text
    assert taken(partner_id, text) == (text == "🇨🇭")


@pytest.mark.parametrize(
    "text",
    ["\u200d", "\ufe0f\u200d", "\u200d ", " \u200d", "a\u200b", "a\u2060b", "a\ufe00", "a\u3164"]
    + ["", " ", "a ", "a\nb", "a\ue000", "x" * 201, "\U000e0067"],
)
def test_a_name_has_something_to_see_and_nothing_else_that_is_invisible(text):
    assert not taken(event_name, text)


# --- Over HTTP ----------------------------------------------------------------------


@pytest.fixture
def reserve(client):
    def reserve(partner, **headers):
        return client.post(RESERVATIONS, json={"partnerId": partner, "seats": 1}, headers=headers)

    return reserve


def test_a_partner_is_one_however_its_accents_are_composed(client, reserve, sql):
    composed, decomposed = "Zoë & Søn", "Zoe\u0308 & Søn"
    assert composed != decomposed
    made = reserve(decomposed, **{"Idempotency-Key": "order-7"})
    assert made.json["partnerId"] == composed
    again = reserve(composed, **{"Idempotency-Key": "order-7"})
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.data == made.data
    for partner in (composed, decomposed):
        listed = client.get(LIST, query_string={"partnerId": partner}).json["items"]
        assert listed == [made.json]
    assert sql("SELECT DISTINCT partner_id FROM reservations") == [(composed,)]


@pytest.mark.parametrize(
    "twin",
    ["abc-corp ", " abc-corp", "abc\u200b-corp", "abc-corp\ufe0f", "\u00adabc-corp", "\u3164"],
)
def test_a_twin_of_a_partner_is_refused_wherever_it_is_named(client, reserve, twin):
    listed = client.get(LIST, query_string={"partnerId": twin})
    for refused in (reserve(twin), listed):
        assert (refused.status_code, refused.json["code"]) == (400, "invalid_request")
        assert list(refused.json["fields"]) == ["partnerId"]
    assert client.get(RESERVATIONS).json["version"] == 0


@pytest.mark.parametrize("query", ["Caf%E9", "%ED%A0%80", "a%C3", "%FF", "%C0%AF"])
def test_a_query_value_that_is_not_utf_8_is_refused(client, query):
    for name in ("partnerId", "status", "after", "limit", "x"):
        refused = client.get(f"{LIST}?{name}={query}")
        assert (refused.status_code, list(refused.json["fields"])) == (400, [name])
    assert client.get(f"{LIST}?{query}=1").status_code == 400
    assert client.get(LIST + "?partnerId=Caf%C3%A9").status_code == 200
