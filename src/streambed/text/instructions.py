"""Instructions: what stands before a text to say what its embedding is for.

The format is Qwen3-Embedding's (model card): a query carries its task, a document carries nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from streambed.errors import InvalidRequest

_DEFAULT_QUERY_TASK = "Given a web search query, retrieve relevant passages that answer the query"


def instruction_prompt(task: str) -> str:
    """The text to put before a query. There is no space after `Query:`; the model was trained so."""
    return f"Instruct: {task}\nQuery:"


def choose_prompt(
    prompts: Mapping[str, str],
    instruction: str | None = None,
    prompt_name: str | None = None,
    input_type: str | None = None,
) -> str:
    """The prompt that a request asks for; at most one of the three ways may be used.

    instruction: a task in words. prompt_name: a name from the checkpoint's `config_sentence_transformers.json`.
    input_type: `document` has no prompt unless the checkpoint names one; `query` has the checkpoint's own, or Qwen's
    task for web search.

    Raises:
        InvalidRequest: two ways at once, or an unknown name.
    """
    given = {"instruction": instruction, "prompt_name": prompt_name, "input_type": input_type}
    used = [name for name, value in given.items() if value is not None]
    if len(used) > 1:
        raise InvalidRequest(f"{' and '.join(used)} exclude each other; give one of them", used[1])
    if instruction is not None:
        return instruction_prompt(instruction)
    if prompt_name is not None:
        if prompt_name not in prompts:
            known = ", ".join(sorted(prompts)) or "none"
            raise InvalidRequest(f"unknown prompt_name; this checkpoint has: {known}", "prompt_name")
        return prompts[prompt_name]
    if input_type is None:
        return ""
    if input_type not in ("query", "document"):
        raise InvalidRequest("input_type is unknown; 'query' or 'document' is expected", "input_type")
    default = instruction_prompt(_DEFAULT_QUERY_TASK) if input_type == "query" else ""
    return prompts.get(input_type, default)
