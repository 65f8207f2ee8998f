"""What holds for every field of every route and event, of those to come, too."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streambed.errors import InvalidRequest
from streambed.wire import Strict, validate
from tests.wire.bodies import MODELS, SCHEMAS, Place, changed, name_of, value_at, without

EVERY = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)


def refused(model: type[Strict], body: Any, at: Place) -> str:
    """The message that refuses a body for what stands at a place."""
    with pytest.raises(InvalidRequest) as error:
        validate(model, body)
    assert error.value.param == name_of(at)
    assert name_of(at) in error.value.message
    assert not re.search(r"canary|literal\[|function-|union|valid |Input should", error.value.message), (
        error.value.message
    )
    assert error.value.__context__ is None
    return error.value.message


@EVERY
def test_a_body_with_all_fields_is_taken(model: type[Strict]) -> None:
    parsed = validate(model, SCHEMAS[model].body)
    assert parsed.model_fields_set == set(model.model_fields)


@EVERY
def test_null_is_not_given(model: type[Strict]) -> None:
    schemas = SCHEMAS[model]
    for at, _, is_required in schemas.places:
        body = changed(schemas.body, at, None)
        if is_required:
            refused(model, body, at)
        else:
            given_less, parsed = validate(model, without(schemas.body, at)), validate(model, body)
            assert parsed == given_less
            assert parsed.model_fields_set == given_less.model_fields_set


@EVERY
@settings(max_examples=20)
@given(data=st.data())
def test_any_nulls_together_are_not_given(model: type[Strict], data: st.DataObject) -> None:
    optional = [at for at, _, is_required in SCHEMAS[model].places if not is_required]
    chosen = data.draw(st.sets(st.sampled_from(optional))) if optional else set()
    with_nulls = absent = SCHEMAS[model].body
    for at in sorted(chosen, key=len, reverse=True):  # what is nested first
        with_nulls, absent = changed(with_nulls, at, None), without(absent, at)
    assert validate(model, with_nulls) == validate(model, absent)


@EVERY
def test_whole_floats_are_integers(model: type[Strict]) -> None:
    schemas = SCHEMAS[model]
    floats, integers = schemas.body, [at for at, schema, _ in schemas.places if schema.get("type") == "integer"]
    for at in integers:
        value = value_at(schemas.body, at)
        floats = changed(floats, at, float(value))
        for wrong in (value + 0.5, 1e30, -1e30, 2.0**53 + 2, True, str(value), [value], {}):
            assert refused(model, changed(schemas.body, at, wrong), at).endswith(" is expected")
    parsed = validate(model, floats)
    assert parsed == validate(model, schemas.body)
    assert parsed.model_dump_json() == validate(model, schemas.body).model_dump_json()


@EVERY
def test_wrong_values_say_what_is_expected(model: type[Strict]) -> None:
    schemas = SCHEMAS[model]
    for at, schema, _ in schemas.places:
        kind = schema.get("type")
        if kind is None:
            continue  # `input`, whose forms are parse_input's
        wrong: list[Any] = [True, 5.5] if kind == "string" else ["canary", ""]
        for value in wrong if kind == "object" else [*wrong, {"canary": "canary"}]:
            message = refused(model, changed(schemas.body, at, value), at)
            assert message.startswith(f"{name_of(at)}: ")
            assert message.endswith(" is expected")


@EVERY
def test_an_unknown_field_is_refused_where_it_stands(model: type[Strict]) -> None:
    for at in SCHEMAS[model].objects():
        for value in (1, None, {"canary": "canary"}):
            place = (*at, "zzz")
            message = refused(model, changed(SCHEMAS[model].body, place, value), place)
            assert message == f"unknown field {name_of(place)!r}"


@EVERY
def test_unknown_fields_can_be_ignored(model: type[Strict]) -> None:
    schemas, ignored = SCHEMAS[model], list[str]()
    body, places = schemas.body, [(*at, "zzz") for at in schemas.objects()]
    for place in places:
        body = changed(body, place, {"canary": None})
    assert validate(model, body, ignored) == validate(model, schemas.body)
    assert sorted(ignored) == sorted(map(name_of, places))


@EVERY
def test_what_is_wrong_beside_an_ignored_field_is_refused(model: type[Strict]) -> None:
    schemas = SCHEMAS[model]
    for at, schema, _ in schemas.places:
        if "type" in schema:
            body = changed(schemas.body, ("zzz",), 1)
            with pytest.raises(InvalidRequest) as error:
                validate(model, changed(body, at, 5.5 if schema["type"] == "string" else "canary"), [])
            assert error.value.param == name_of(at)


@EVERY
def test_a_misspelt_field_is_told_its_name(model: type[Strict]) -> None:
    body = SCHEMAS[model].body
    for at, _, _ in SCHEMAS[model].places:
        *parents, name = at
        if not isinstance(name, str) or len(name) < 5:
            continue
        if sum(each[:-1] == name[:-1] for each in value_at(body, tuple(parents))) > 1:
            continue  # `top_` may be `top_k` or `top_p`
        camel = re.sub("_(.)", lambda found: found[1].upper(), name)
        for wrong in {name[:-1], name[1:], name[0] + name[2] + name[1] + name[3:], name.title(), camel} - {name}:
            place = (*parents, wrong)
            message = refused(model, changed(without(body, at), place, value_at(body, at)), place)
            assert message == f"unknown field {name_of(place)!r}; did you mean {name!r}?"
