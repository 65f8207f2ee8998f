"""The schema that OpenAPI shows."""

from __future__ import annotations

from streambed.wire import EmbeddingsRequest


def test_schema_describes_input() -> None:
    schema = EmbeddingsRequest.model_json_schema()
    kinds = schema["properties"]["input"]["oneOf"]
    assert [kind["type"] for kind in kinds] == ["string", "array", "array", "array"]
    assert schema["required"] == ["input", "model"]
    assert schema["additionalProperties"] is False


def test_schema_describes_what_is_mapped_as_it_may_be_sent() -> None:
    fields = EmbeddingsRequest.model_json_schema()["properties"]
    words = ["query", "search_query", "document", "search_document", "passage"]
    assert fields["input_type"]["anyOf"] == [{"type": "string", "enum": words}, {"type": "null"}]
    assert fields["timeout_ms"]["anyOf"] == [{"type": "integer", "minimum": 1}, {"type": "null"}]
    assert fields["overlap"]["minimum"] == 0
