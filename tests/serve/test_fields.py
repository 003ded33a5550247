"""The reader of strangers' JSON, by itself."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.serve.errors import ApiError
from modelworks.serve.fields import Fields, is_number, parse_object, shown


def refusal(read: Any) -> ApiError:
    with pytest.raises(ApiError) as told:
        read()
    assert told.value.status == 400
    return told.value


def test_null_is_absent_and_what_nobody_asked_for_is_an_error() -> None:
    fields = Fields({"a": None, "b": 1, "c": "x"})
    assert fields.integer("a", 0, 1) is None
    assert fields.integer("b", 0, 1) == 1
    assert refusal(fields.close).param == "c"
    fields.ignore("c")
    fields.close()


def test_an_error_names_the_whole_path() -> None:
    def read(fields: Fields) -> None:
        fields.objects("b", lambda item: item.text("c"))

    told = refusal(lambda: Fields({"a": {"b": [{"c": 3}]}}).object("a", read))
    assert told.param == "a.b[0].c"
    assert told.message == "a.b[0].c: expected a string, got 3"
    assert told.code == "invalid_type"


def test_refuse_lets_through_what_asks_for_nothing() -> None:
    for value in (None, False, []):
        fields = Fields({"x": value})
        fields.refuse("x", "no")
        fields.close()
    assert refusal(lambda: Fields({"x": True}).refuse("x", "no such thing")).code == "unsupported_parameter"


@given(st.binary(max_size=60) | st.text(max_size=30).map(str.encode))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        parse_object(body)
    except ApiError as told:
        error = told
    else:
        error = ApiError(400, "read")
    assert error.status == 400
    json.dumps(error.to_json(), ensure_ascii=False).encode()


@pytest.mark.parametrize("value", [True, None, "1", float("inf"), float("nan"), 10**400, [1]])
def test_what_is_no_number(value: Any) -> None:
    assert not is_number(value)


def test_what_is_shown_is_short() -> None:
    for value in ("x" * 10_000, 10**5000, ["x"] * 1000, {"x": 1}, '"\n\ud800', True, None, 1.5):
        assert len(shown(value)) < 80
        shown(value).encode()
