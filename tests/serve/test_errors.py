"""What clients are told of errors from below."""

from __future__ import annotations

import pytest

from modelworks.core.errors import ContextLengthError, GrammarError, ModelFileError, StoreError
from modelworks.engine.adapters import UnknownAdapterError
from modelworks.engine.engine import EngineClosedError, QueueFullError
from modelworks.serve.errors import ApiError, as_api_error


@pytest.mark.parametrize(
    ("error", "status", "kind", "retried"),
    [
        (QueueFullError("full"), 429, "rate_limit_error", True),
        (EngineClosedError("closed"), 503, "server_error", True),
        (ContextLengthError("too long"), 400, "invalid_request_error", False),
        (GrammarError("no such type"), 400, "invalid_request_error", False),
        (StoreError("locked"), 503, "server_error", False),
        (ModelFileError("gone"), 503, "server_error", False),
        (TimeoutError(), 504, "server_error", False),
    ],
)
def test_an_error_has_its_status(error: Exception, status: int, kind: str, retried: bool) -> None:
    told = as_api_error(error, param="x")
    assert told is not None
    assert told.status == status
    assert told.to_json()["error"]["type"] == kind
    assert (told.retry_after is not None) == retried


def test_a_defect_is_no_answer() -> None:
    assert as_api_error(ZeroDivisionError()) is None
    known = ApiError(404, "gone")
    assert as_api_error(known) is known


def test_an_adapter_that_was_just_removed() -> None:
    told = as_api_error(UnknownAdapterError("gone"))
    assert (told.status, told.param, told.code) == (404, "model", "model_not_found")
