"""Instructions: what stands before a text to say what its embedding is for.

The format is Qwen3-Embedding's (model card) unless the checkpoint's own prompts show another one: a query carries its
task, a document carries nothing.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from streambed.errors import InvalidRequest, SettingsError
from streambed.text.strings import check_ways

QWEN_TEMPLATE = "Instruct: {instruction}\nQuery:"
"""There is no space after `Query:`; the model was trained so."""
_DEFAULT_QUERY_TASK = "Given a web search query, retrieve relevant passages that answer the query"
_PLACE = "{instruction}"
_OWN_FORM = re.compile(r"(Instruct: ?).+(\n ?Query: ?)", re.DOTALL)


@dataclass(frozen=True)
class Prompts:
    """What a checkpoint puts before texts.

    named: by the names of `config_sentence_transformers.json`. default_name: of the prompt for requests that name none.
    template: the form of an instruction, with `{instruction}` in its place.
    """

    named: Mapping[str, str] = field(default_factory=dict)
    default_name: str | None = None
    template: str = QWEN_TEMPLATE

    def choose(
        self, instruction: str | None = None, prompt_name: str | None = None, input_type: str | None = None
    ) -> str:
        """The text to put before a request's texts; at most one of the three ways may be used.

        instruction: a task in words. prompt_name: one of the checkpoint's. input_type: `query` or `document`, for which
        the checkpoint's own prompts of these names stand, as in sentence-transformers; where it names no prompts at all,
        Qwen's task for web search stands before a query.

        Raises:
            InvalidRequest: two ways at once, a wrong value, or an unknown name.
        """
        check_ways(instruction, prompt_name, input_type)
        if instruction is not None:
            return self.template.replace(_PLACE, instruction)
        if prompt_name is not None:
            if prompt_name not in self.named:
                known = ", ".join(sorted(self.named)) or "none"
                raise InvalidRequest(f"unknown prompt_name; this checkpoint has: {known}", "prompt_name")
            return self.named[prompt_name]
        match input_type:
            case None:
                return self.named.get(self.default_name, "") if self.default_name is not None else ""
            case "query" if self.named:
                return self.named.get("query", "")
            case "query":
                return self.template.replace(_PLACE, _DEFAULT_QUERY_TASK)
        return self.named.get("document", "")


def find_template(named: Mapping[str, str]) -> str:
    """The form of an instruction that a checkpoint's prompts show, the one for queries first; Qwen's where none does."""
    for prompt in (named.get("query", ""), *named.values()):
        if (match := _OWN_FORM.fullmatch(prompt)) is not None:
            return f"{match[1]}{_PLACE}{match[2]}"
    return QWEN_TEMPLATE


def parse_template(text: str) -> str:
    r"""A template as a user writes it, where `\n` and `\t` may stand for themselves. Raises SettingsError."""
    template = text.replace("\\n", "\n").replace("\\t", "\t")
    if template.count(_PLACE) != 1:
        raise SettingsError(f"is {text!r}; {_PLACE} is expected in it once", "instruction_template")
    return template
