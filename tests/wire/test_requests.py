"""The schema that OpenAPI shows."""

from __future__ import annotations

from streambed.wire import EmbeddingsRequest


def test_schema_describes_input() -> None:
    schema = EmbeddingsRequest.model_json_schema()
    kinds = schema["properties"]["input"]["oneOf"]
    assert [kind["type"] for kind in kinds] == ["string", "array", "array", "array"]
    assert schema["required"] == ["input", "model"]
    assert schema["additionalProperties"] is False
