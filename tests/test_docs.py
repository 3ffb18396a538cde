"""The API's page at `/docs`, in a browser: to read, and to try."""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect
from serving import ADMIN_KEY
from test_board import SCREENS, browser, tab  # noqa: F401 (fixtures)


@pytest.fixture
def docs(tab, server):  # noqa: F811
    """Give a tab that shows the page."""
    return look(tab, server)


def look(tab, server, call=""):  # noqa: F811
    tab.goto(f"http://127.0.0.1:{server.port}/docs#{call}")
    expect(tab.locator("article").first).to_be_visible()
    return tab


def test_it_shows_every_call_of_the_document(docs, client):
    paths = client.get("/openapi.json").json["paths"]
    expect(docs.locator("article")).to_have_count(sum(map(len, paths.values())))
    for call in docs.locator("article > details > summary").all():
        call.click()
    expect(docs.locator("article form")).to_have_count(sum(map(len, paths.values())))
    for told in ("sold_out", "1 to 10", "already_cancelled", "ReserveOperation", "Retry-After"):
        assert told in docs.locator("main").inner_text()


def test_a_call_is_sent_from_the_keyboard_alone(docs):
    call = docs.locator("#reservationsReserveDefault")
    call.locator("summary").first.focus()
    docs.keyboard.press("Enter")
    call.get_by_label("Idempotency-Key").focus()
    docs.keyboard.type("order-1")
    docs.keyboard.press("Enter")
    answer = call.get_by_role("status")
    expect(answer).to_contain_text("201")
    expect(answer).to_contain_text('"seats": 3')
    docs.keyboard.press("Enter")
    expect(answer).to_contain_text("idempotent-replayed: true")


def test_a_key_goes_with_a_call_and_is_kept_in_the_tab_only(docs):
    docs.expected = re.compile("Failed to load resource")
    docs.locator("#keysIndex summary").first.click()
    send = docs.locator("#keysIndex").get_by_role("button", name="Send GET")
    send.click()
    expect(docs.locator("#keysIndex").get_by_role("status")).to_contain_text("401")
    docs.get_by_label("Key, kept in this tab only").fill(ADMIN_KEY)
    docs.get_by_role("button", name="Use it").click()
    send.click()
    expect(docs.locator("#keysIndex").get_by_role("status")).to_contain_text("200")
    assert docs.evaluate("localStorage.length") == 0


@pytest.mark.parametrize("screen", ["phone", "desk"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_by_everybody(tab, server, screen, scheme):  # noqa: F811
    tab.emulate_media(color_scheme=scheme)
    tab.set_viewport_size(SCREENS[screen])
    look(tab, server, "reservationsReserveDefault")
    expect(tab.locator("article form")).to_be_visible()
    found = Axe().run(tab)
    assert found.violations_count == 0, found.generate_report()
    assert tab.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
