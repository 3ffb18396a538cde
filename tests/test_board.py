"""The board at `/`, in a browser: what people see while seats are sold."""

import contextlib
import re
import shutil

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright
from serving import free_port

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("there is no chromium on this machine", allow_module_level=True)

expect.set_options(timeout=20_000)  # no wait takes this long

EVENTS = "/api/v1/events"
RESERVATIONS = "/api/v1/reservations"

# Each as wide and high as what it stands for, and what it must be readable in.
SCREENS = {
    "phone": {"width": 390, "height": 844},
    "desk": {"width": 1280, "height": 800},
    "wall": {"width": 1920, "height": 1080},
    "large wall": {"width": 3840, "height": 2160},
}


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture
def tab(browser):
    """Give a tab; what it has to complain of in its console must be none, or is `expected`."""
    with contextlib.closing(browser.new_context()) as context:
        tab = context.new_page()
        tab.complaints, tab.expected = [], re.compile(r"(?!)")
        tab.on("console", lambda message: tab.complaints.append(message.text))
        tab.on("pageerror", lambda error: tab.complaints.append(str(error)))
        yield tab
        assert [text for text in tab.complaints if not tab.expected.match(text)] == []


@pytest.fixture
def http(server):
    with contextlib.closing(server.client()) as client:
        yield client


@pytest.fixture
def board(tab, server):
    """Give a tab that shows the board."""
    return look(tab, server)


def look(tab, server):
    tab.goto(f"http://127.0.0.1:{server.port}/")
    expect(tab.locator(".event").first).to_be_visible()
    return tab


def card(board, name="Node.js Meet-up"):
    return board.locator(".event", has=board.get_by_role("button", name=name, exact=True))


def reserve(http, seats=3, event="node-meetup-2025", **members):
    body = {"partnerId": "abc-corp", "seats": seats, **members}
    made = http.post(f"{EVENTS}/{event}/reservations", body)
    assert made.status == 201
    return made.headers["Location"]


def events(sql, number):
    """Make so many events beside the default one, which comes after them by its id."""
    sql(
        "INSERT INTO events (event_id, name, initial_seats, total_seats, available_seats)"
        " SELECT 'event-' || to_char(n, 'FM000'), 'Event ' || n, 10 * n, 10 * n, 10 * n"
        " FROM generate_series(1, %s) AS n",
        [number],
    )


# --- What it shows ------------------------------------------------------------------


def test_the_numbers_follow_a_running_sale(board, http):
    shown = card(board)
    expect(shown).to_contain_text("500 left of 500")
    expect(shown).to_contain_text("0 reserved · 0 reservations")
    place = reserve(http, 3)
    expect(shown).to_contain_text("497 left of 500")
    expect(shown).to_contain_text("3 reserved · 1 reservation")
    assert shown.locator("i").first.evaluate("bar => bar.style.width") == "99.4%"
    expect(board.locator("#rate")).not_to_have_text(re.compile("^[–0]$"))
    reserve(http, 10, holdSeconds=3600)
    expect(shown).to_contain_text("487 left of 500")
    http.delete(place)
    expect(shown).to_contain_text("490 left of 500")
    expect(board.locator("#left")).to_have_text("490")
    expect(board.locator("#rate")).to_have_text("0")


def test_a_hold_that_ends_is_seen_by_itself(board, http, sql):
    reserve(http, 10, holdSeconds=3600)
    expect(card(board)).to_contain_text("490 left")
    sql("UPDATE reservations SET expires_at = now()")
    expect(card(board)).to_contain_text("500 left")


def test_an_event_that_sells_out_is_marked_and_told(board, http, sql):
    sql(
        "INSERT INTO events (event_id, name, initial_seats, total_seats, available_seats)"
        " VALUES ('small', 'A small one', 4, 4, 4)"
    )
    shown = card(board, "A small one")
    expect(shown).to_contain_text("4 left of 4")
    expect(shown.get_by_text("SOLD OUT")).to_be_hidden()
    expect(board.locator("#gone")).to_have_text("0")
    reserve(http, 4, "small")
    expect(shown.get_by_text("SOLD OUT")).to_be_visible()
    expect(board.get_by_role("status")).to_contain_text("A small one sold out at")
    expect(board.locator("#gone")).to_have_text("1")


def test_the_curve_goes_down_as_seats_are_sold(board, http):
    curve = card(board).locator("path")
    expect(curve).to_have_attribute("d", re.compile(r"^M[\d.]+,2\.00H100$"))
    reserve(http, 10)
    expect(curve).to_have_attribute("d", re.compile(r"^M[\d.]+,2\.00H[\d.]+V3\.92H100$"))


def test_a_sales_window_is_counted_down(board, sql):
    sql("UPDATE events SET sales_open_at = now() + interval '6 s', version = version + 1")
    shown = card(board).locator(".sales")
    expect(shown).to_contain_text(re.compile("Sales open in 00:00:0[1-7] · "))
    expect(shown).to_have_text("On sale")
    sql("UPDATE events SET sales_close_at = now() + interval '26 h', version = version + 1")
    expect(shown).to_contain_text(re.compile("Sales close in 1 d 0[12]:[0-9]{2}:[0-9]{2} · "))
    sql("UPDATE events SET sales_close_at = now(), version = version + 1")
    expect(shown).to_contain_text("Sales closed · ")


def test_what_does_not_change_stays_where_it_is(board, http):
    shown = card(board)
    expect(shown).to_contain_text("500 left")
    place = shown.bounding_box()
    shown.evaluate("node => { node.known = true }")
    shown.get_by_role("button").focus()
    reserve(http)
    expect(shown).to_contain_text("497 left")
    assert shown.evaluate("node => node.known")
    expect(shown.get_by_role("button")).to_be_focused()
    assert shown.bounding_box() == place


# --- What it costs ------------------------------------------------------------------


def test_an_idle_board_costs_one_answer_without_a_body_a_second(board):
    answers = []
    board.on("response", lambda answer: answers.append((answer.status, answer.request.timing)))
    for _ in range(4):
        board.wait_for_event("response")
    assert {status for status, _ in answers} == {304}
    starts = [timing["startTime"] for _, timing in answers]
    assert starts[-1] - starts[0] > 2500


def test_it_asks_nobody_but_its_own_server_below_its_own_address(tab, server):
    asked = []
    tab.on("request", lambda request: asked.append(request.url))
    address = f"http://127.0.0.1:{server.port}"

    def strip(route):  # as a proxy would
        assert route.request.url.startswith(f"{address}/shop/"), route.request.url
        route.continue_(url=route.request.url.replace("/shop/", "/"))

    tab.route("**", strip)
    tab.goto(f"{address}/shop/")
    card(tab).get_by_role("button").click()
    with tab.expect_response(lambda answer: "changes" in answer.url):
        pass
    assert {url.partition("?")[0].removeprefix(address) for url in asked} == {
        "/shop/",
        "/shop/api/v1/events",
        "/shop/api/v1/events/node-meetup-2025/changes",
    }


# --- Pages, and one event -------------------------------------------------------------


def test_pages_are_turned_and_searched(tab, server, sql):
    events(sql, 230)
    board = look(tab, server)
    expect(board.locator(".event")).to_have_count(100)
    expect(board.get_by_role("button", name="Previous")).to_be_disabled()
    board.get_by_role("button", name="Next").click()
    expect(board.locator("#page")).to_have_text("Page 2")
    expect(card(board, "Event 101")).to_be_visible()
    board.get_by_role("button", name="Previous").click()
    expect(card(board, "Event 1")).to_be_visible()

    wanted = board.get_by_label("Find an event")
    wanted.fill("event 7")
    expect(board.locator(".event:visible")).to_have_count(11)  # 7, 70 to 79
    wanted.fill("EVENT-230")  # by its id, on the last page
    expect(board.get_by_text("None on this page")).to_be_visible()
    wanted.press("Enter")
    expect(card(board, "Event 230")).to_be_visible()
    expect(board.locator("#page")).to_have_text("Page 3")
    wanted.fill("event 9")
    wanted.press("Enter")  # and from the first page on
    expect(card(board, "Event 9")).to_be_visible()
    expect(board.locator("#page")).to_have_text("Page 1")
    wanted.fill("no such event")
    wanted.press("Enter")
    expect(board.get_by_role("status")).to_have_text("No event has that in its name or id.")
    expect(board.locator("#page")).to_have_text("Page 1")


def test_an_event_that_is_created_comes_to_its_place(board, sql):
    expect(board.locator(".event")).to_have_count(1)
    events(sql, 1)
    expect(board.locator(".event").first).to_contain_text("Event 1")
    expect(board.locator(".event")).to_have_count(2)


def test_a_click_on_an_event_shows_its_changes_as_they_come(board, http):
    place = reserve(http, 3)
    card(board).click()
    feed = board.get_by_role("dialog", name="Node.js Meet-up")
    rows = feed.locator("tbody tr")
    expect(rows).to_have_text([re.compile(r"^1[\d:]{8}reserved3497abc-corp$")])
    http.delete(place)
    expect(rows.first).to_have_text(re.compile(r"^2[\d:]{8}cancelled3500abc-corp$"))
    expect(rows).to_have_count(2)
    board.keyboard.press("Escape")
    expect(feed).to_be_hidden()


def test_a_feed_that_falls_behind_shows_the_latest_and_says_so(board, http):
    card(board).click()
    rows = board.locator("#changes tr")
    reserve(http, 1)
    expect(rows).to_have_count(1)
    board.expected = re.compile("Failed to load resource: net::ERR_INTERNET_DISCONNECTED")
    board.context.set_offline(True)
    expect(board.locator("#word")).to_contain_text("does not answer")
    for _ in range(70):
        reserve(http, 1)
    board.context.set_offline(False)
    expect(rows.first).to_contain_text("71")
    expect(rows).to_have_count(50 + 1 + 1)
    expect(rows.nth(50)).to_have_text("20 changes not shown")


# --- When it is not served ------------------------------------------------------------


def test_it_says_so_when_it_has_lost_the_server_and_comes_back(tab, serve):
    server = serve(PORT=str(free_port()), WORKERS="1")
    board = look(tab, server)
    tab.expected = re.compile("Failed to load resource: net::ERR_")
    server.stop()
    status = board.get_by_role("status")
    expect(status).to_contain_text("The server does not answer, since")
    expect(card(board)).to_contain_text("500 left")
    check(board)
    again = serve(PORT=str(server.port), WORKERS="1")
    with contextlib.closing(again.client()) as http:
        reserve(http)
    expect(status).to_contain_text("Back since")
    expect(card(board)).to_contain_text("497 left")


@pytest.mark.parametrize("partner_id", ["abc-corp", None], ids=["partner", "admin"])
def test_where_a_key_is_wanted_it_asks_for_one_and_keeps_it_in_its_tab_only(
    tab, serve, create_key, http, partner_id
):
    tab.expected = re.compile("Failed to load resource: .* 401")
    sent = []
    tab.on("request", lambda r: "/api/" in r.url and sent.append(r.headers.get("authorization")))
    address = f"http://127.0.0.1:{serve(AUTH='keys').port}/"
    key = create_key(partner_id)
    tab.goto(address)
    asked = tab.get_by_label("This service wants a key")
    expect(asked).to_be_visible()
    assert set(sent) == {None}
    check(tab)
    asked.fill("a-wrong-one")
    asked.press("Enter")
    expect(tab.get_by_role("status")).to_have_text("This is not a key of this service.")
    asked.fill(key)
    asked.press("Enter")
    expect(card(tab)).to_contain_text("500 left")
    expect(asked).to_be_hidden()
    reserve(http)
    expect(card(tab)).to_contain_text("497 left")
    tab.reload()
    expect(card(tab)).to_contain_text("497 left")
    tab.get_by_role("button", name="Node.js Meet-up").click()
    expect(tab.locator("#changes tr").first).to_contain_text("reserved")
    tab.get_by_role("button", name="Close").click()
    assert tab.evaluate("localStorage.length + document.cookie.length") == 0

    other = tab.context.new_page()
    other.goto(address)
    expect(other.get_by_label("This service wants a key")).to_be_visible()
    tab.get_by_role("button", name="Forget the key").click()
    expect(tab.get_by_label("This service wants a key")).to_be_visible()
    assert tab.evaluate("sessionStorage.length") == 0


def test_it_leads_to_the_docs_and_they_lead_back(board):
    board.get_by_role("link", name="API").click()
    expect(board.get_by_role("heading", name="TicketBoss API")).to_be_visible()
    board.get_by_role("link", name="Board", exact=True).click()
    expect(card(board)).to_be_visible()


# --- For everybody --------------------------------------------------------------------


@pytest.mark.parametrize("screen", SCREENS)
def test_it_fits_every_screen_and_a_checker_of_accessibility_finds_nothing(
    tab, server, sql, http, screen
):
    events(sql, 12)
    reserve(http, 10, "event-001")
    reserve(http, 10, "event-010")
    tab.set_viewport_size(SCREENS[screen])
    board = look(tab, server)
    expect(card(board, "Event 1").get_by_text("SOLD OUT")).to_be_visible()
    assert board.evaluate("document.documentElement.scrollWidth") <= SCREENS[screen]["width"]
    check(board)
    card(board, "Event 10").click()
    expect(board.get_by_role("dialog").locator("tbody tr")).to_have_count(1)
    assert board.locator(".rows").evaluate("rows => rows.scrollWidth <= rows.clientWidth")
    check(board)


def check(board):
    for scheme in ("light", "dark"):
        board.emulate_media(color_scheme=scheme)
        found = Axe().run(board)
        assert found.violations_count == 0, found.generate_report()


def test_everything_can_be_reached_by_the_keyboard(board, http):
    reserve(http)
    card(board).get_by_role("button").focus()
    board.keyboard.press("Enter")
    expect(board.get_by_role("dialog").locator("tbody tr")).to_have_count(1)
    board.keyboard.press("Tab")
    board.keyboard.press("Escape")
    expect(card(board).get_by_role("button")).to_be_focused()


def test_a_screen_reader_is_told_only_what_matters(board, http):
    """Numbers that change every second are no news; nothing but the status speaks up."""
    assert board.locator("[aria-live], [role=alert], [role=log], [role=status]").count() == 1
    board.evaluate(
        "new MutationObserver(() => { window.spoken = true })"
        ".observe(document.getElementById('word'), {childList: true, characterData: true})"
    )
    reserve(http)
    expect(card(board)).to_contain_text("497 left")
    assert not board.evaluate("window.spoken")


def test_who_wants_no_motion_gets_none(board):
    def motion():
        return card(board).locator("i").first.evaluate("bar => getComputedStyle(bar).transition")

    board.emulate_media(reduced_motion="no-preference")
    assert motion() == "width 0.4s"
    board.emulate_media(reduced_motion="reduce")
    assert motion() != "width 0.4s"
