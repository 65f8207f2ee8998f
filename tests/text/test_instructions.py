from __future__ import annotations

from itertools import combinations

import pytest

from streambed.errors import InvalidRequest, SettingsError
from streambed.text.instructions import QWEN_TEMPLATE, Prompts, find_template, parse_template

PROMPTS = {"query": "Instruct: own task\nQuery:", "code": "Find code: "}
WEB_SEARCH = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"


@pytest.mark.parametrize("task", ["Find similar questions", "", " spaced ", "two\nlines", "質問に答える"])
def test_template_is_qwens(task: str) -> None:
    """The model card's `get_detailed_instruct`: nothing between the colon and the text."""
    assert Prompts().choose(instruction=task) == f"Instruct: {task}\nQuery:"


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
        ({"document": "passage: "}, {"input_type": "query"}, ""),
        ({"passage": "P: ", "corpus": "C: "}, {"input_type": "document"}, ""),
        ({"query": "Query: ", "document": " "}, {"input_type": "document"}, " "),
    ],
)
def test_chosen_prompt(prompts: dict[str, str], given: dict[str, str], expected: str) -> None:
    assert Prompts(prompts).choose(**given) == expected


WAYS = {"instruction": "Find", "prompt_name": "code", "input_type": "query"}


@pytest.mark.parametrize("used", [*combinations(WAYS, 2), tuple(WAYS)], ids=str)
def test_two_ways_at_once_are_refused(used: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequest, match="exclude each other") as caught:
        Prompts(PROMPTS).choose(**{way: WAYS[way] for way in used})
    assert all(way in caught.value.message for way in used)
    assert caught.value.param == used[1]


def test_empty_strings_count_as_given() -> None:
    with pytest.raises(InvalidRequest, match="exclude each other"):
        Prompts(PROMPTS).choose(instruction="", prompt_name="")


@pytest.mark.parametrize(
    ("prompts", "name", "known"),
    [(PROMPTS, "Query", "code, query"), (PROMPTS, "", "code, query"), ({}, "query", "none")],
)
def test_unknown_name_tells_the_known_ones(prompts: dict[str, str], name: str, known: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Prompts(prompts).choose(prompt_name=name)
    assert caught.value.message == f"unknown prompt_name; this checkpoint has: {known}"
    assert caught.value.param == "prompt_name"


@pytest.mark.parametrize("input_type", ["", "passage", "Query", "code"])
def test_unknown_input_type(input_type: str) -> None:
    with pytest.raises(InvalidRequest, match="'query' or 'document' is expected") as caught:
        Prompts(PROMPTS).choose(input_type=input_type)
    assert caught.value.param == "input_type"


@pytest.mark.parametrize(
    "given", [{"instruction": "Find"}, {"prompt_name": "query"}, {"input_type": "query"}, {"input_type": "document"}]
)
def test_the_default_prompt_is_for_requests_that_name_none(given: dict[str, str]) -> None:
    prompts = Prompts(PROMPTS, default_name="code")
    assert prompts.choose() == "Find code: "
    assert prompts.choose(**given) == Prompts(PROMPTS).choose(**given)
    assert Prompts(PROMPTS, default_name="document").choose() == "", "sentence-transformers knows the name of itself"


@pytest.mark.parametrize(
    ("prompts", "template"),
    [
        ({}, QWEN_TEMPLATE),
        ({"query": "Query: ", "document": "Document: "}, QWEN_TEMPLATE),
        ({"query": "Instruct: Find it.\nQuery:"}, "Instruct: {instruction}\nQuery:"),
        ({"query": "Instruct: Find it.\nQuery: "}, "Instruct: {instruction}\nQuery: "),
        ({"document": "", "sts": "Instruct: Say\nso.\nQuery: "}, "Instruct: {instruction}\nQuery: "),
        ({"sts": "Instruct: a\nQuery: ", "query": "Instruct: b\nQuery:"}, "Instruct: {instruction}\nQuery:"),
        ({"query": "Instruct: Find it.\nQuery: more"}, QWEN_TEMPLATE),
    ],
)
def test_an_instruction_takes_the_form_of_the_checkpoints_prompts(prompts: dict[str, str], template: str) -> None:
    assert find_template(prompts) == template
    assert Prompts(prompts, template=template).choose(instruction="{x}") == template.replace("{instruction}", "{x}")


def test_a_template_is_read_as_it_is_written_on_a_command_line() -> None:
    assert parse_template(r"Task: {instruction}\nText:\t") == "Task: {instruction}\nText:\t"
    for wrong in ("", "Instruct:", "{instruction} {instruction}", "{task}"):
        with pytest.raises(SettingsError, match=r"instruction_template is .*\{instruction\} is expected in it once"):
            parse_template(wrong)
