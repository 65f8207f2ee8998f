from __future__ import annotations

from itertools import combinations

import pytest

from streambed.errors import InvalidRequest
from streambed.text.instructions import choose_prompt, instruction_prompt

PROMPTS = {"query": "Instruct: own task\nQuery:", "code": "Find code: "}
WEB_SEARCH = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"


@pytest.mark.parametrize("task", ["Find similar questions", "", " spaced ", "two\nlines", "質問に答える"])
def test_template_is_qwens(task: str) -> None:
    """The model card's `get_detailed_instruct`: nothing between the colon and the text."""
    assert instruction_prompt(task) == f"Instruct: {task}\nQuery:"


@pytest.mark.parametrize(
    ("prompts", "given", "expected"),
    [
        ({}, {}, ""),
        (PROMPTS, {}, ""),
        ({}, {"instruction": "Find"}, "Instruct: Find\nQuery:"),
        (PROMPTS, {"instruction": "code"}, "Instruct: code\nQuery:"),
        (PROMPTS, {"instruction": ""}, "Instruct: \nQuery:"),
        (PROMPTS, {"prompt_name": "code"}, "Find code: "),
        (PROMPTS, {"prompt_name": "query"}, "Instruct: own task\nQuery:"),
        ({"document": ""}, {"prompt_name": "document"}, ""),
        ({}, {"input_type": "query"}, WEB_SEARCH),
        ({}, {"input_type": "document"}, ""),
        (PROMPTS, {"input_type": "query"}, "Instruct: own task\nQuery:"),
        (PROMPTS, {"input_type": "document"}, ""),
        ({"document": "passage: "}, {"input_type": "document"}, "passage: "),
        ({"query": "", "document": ""}, {"input_type": "query"}, ""),
    ],
)
def test_chosen_prompt(prompts: dict[str, str], given: dict[str, str], expected: str) -> None:
    assert choose_prompt(prompts, **given) == expected


WAYS = {"instruction": "Find", "prompt_name": "code", "input_type": "query"}


@pytest.mark.parametrize("used", [*combinations(WAYS, 2), tuple(WAYS)], ids=str)
def test_two_ways_at_once_are_refused(used: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequest, match="exclude each other") as caught:
        choose_prompt(PROMPTS, **{way: WAYS[way] for way in used})
    assert all(way in caught.value.message for way in used)
    assert caught.value.param == used[1]


def test_empty_strings_count_as_given() -> None:
    with pytest.raises(InvalidRequest, match="exclude each other"):
        choose_prompt(PROMPTS, instruction="", prompt_name="")


@pytest.mark.parametrize(
    ("prompts", "name", "known"),
    [(PROMPTS, "Query", "code, query"), (PROMPTS, "", "code, query"), ({}, "query", "none")],
)
def test_unknown_name_tells_the_known_ones(prompts: dict[str, str], name: str, known: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        choose_prompt(prompts, prompt_name=name)
    assert caught.value.message == f"unknown prompt_name; this checkpoint has: {known}"
    assert caught.value.param == "prompt_name"


@pytest.mark.parametrize("input_type", ["", "passage", "Query", "code"])
def test_unknown_input_type(input_type: str) -> None:
    with pytest.raises(InvalidRequest, match="'query' or 'document' is expected") as caught:
        choose_prompt(PROMPTS, input_type=input_type)
    assert caught.value.param == "input_type"
