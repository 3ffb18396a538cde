"""The guards of the write path: nothing goes wrong with all of them, and which it takes."""

import re

import pytest
from serving import ROOT
from write_path_model import GUARDS, SCENARIOS, explore, smallest_breaches

PAGE = (ROOT / "docs/guarantees.md").read_text("utf-8")


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_with_all_guards_nothing_goes_wrong_in_any_order(scenario):
    states, wrong = explore(scenario, frozenset(GUARDS))
    assert wrong is None
    assert states > 50


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_the_page_tells_which_guards_it_takes_for_something_to_go_wrong(scenario):
    told = {
        frozenset(cells[1].split(", ")): cells[2].strip()
        for line in PAGE.splitlines()
        if (cells := [cell.strip() for cell in line.strip("| ").split(" | ")])[0] == scenario.name
    }
    assert told == smallest_breaches(scenario, 2 if scenario.losses else 4)
    assert frozenset({"isolation"}) not in told


def test_the_page_explains_every_guard():
    assert set(re.findall(r"^\| `([a-z -]+)` \|", PAGE, re.MULTILINE)) == set(GUARDS)
