"""Pages of lists."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from voice_runtime.testing.fake_twilio_resources import RestRefusedError, page_json

PATH = "/2010-04-01/Accounts/AC1/Calls.json"


def records(*names: str) -> list[dict[str, Any]]:
    return [{"sid": name} for name in names]


def page(items: list[dict[str, Any]], uri: str) -> dict[str, Any]:
    parts = urlsplit(uri)
    return page_json("calls", items, parts.path, parse_qsl(parts.query))


def shown(body: dict[str, Any]) -> list[str]:
    return [item["sid"] for item in body["calls"]]


def test_pages_follow_each_other() -> None:
    """Forwards and back by the addresses given, which keep the filters; none leads out of the list."""
    items = records("e", "d", "c", "b", "a")
    first = page(items, f"{PATH}?PageSize=2&To=%2B1")
    assert (shown(first), first["previous_page_uri"]) == (["e", "d"], None)
    assert first["next_page_uri"] == f"{PATH}?To=%2B1&PageSize=2&Page=1&PageToken=PAd"
    second = page(items, first["next_page_uri"])
    third = page(items, second["next_page_uri"])
    assert (shown(second), shown(third), third["next_page_uri"]) == (["c", "b"], ["a"], None)
    assert [(one["page"], one["start"], one["end"]) for one in (first, second, third)] == [
        (0, 0, 1),
        (1, 2, 3),
        (2, 4, 4),
    ]
    back = page(items, third["previous_page_uri"])
    assert (shown(back), back["page"]) == (["c", "b"], 1)
    assert shown(page(items, back["previous_page_uri"])) == ["e", "d"]
    assert shown(page(items, second["uri"])) == ["c", "b"]


def test_a_full_last_page_is_the_last() -> None:
    """There is no empty page after it."""
    second = page(records("d", "c", "b", "a"), f"{PATH}?PageSize=2&Page=1&PageToken=PAc")
    assert (shown(second), second["next_page_uri"]) == (["b", "a"], None)


def test_records_that_come_to_be_in_the_meantime_move_nothing() -> None:
    """A token stands for a place in the list; a page number alone does not."""
    following = page(records("d", "c", "b", "a"), f"{PATH}?PageSize=2")["next_page_uri"]
    grown = records("f", "e", "d", "c", "b", "a")
    assert shown(page(grown, following)) == ["b", "a"]
    assert shown(page(grown, f"{PATH}?PageSize=2&Page=1")) == ["d", "c"]


@pytest.mark.parametrize("query", ["PageSize=0", "PageSize=1001", "Page=x", "PageToken=PAz", "PageToken=XXa"])
def test_pages_that_are_none(query: str) -> None:
    """Are refused with 20001."""
    with pytest.raises(RestRefusedError) as caught:
        page(records("a"), f"{PATH}?{query}")
    assert (caught.value.status, caught.value.code) == (400, 20001)


def test_an_empty_list() -> None:
    """Has one page with nothing on it."""
    body = page([], PATH)
    assert (shown(body), body["next_page_uri"], body["page_size"]) == ([], None, 50)
