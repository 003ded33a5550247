"""Errors as OpenAI's API states them: a status, and `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

from typing import Any

from modelworks.core.errors import ContextLengthError, DownloadError, ModelFileError, ModelworksError, StoreError
from modelworks.engine.adapters import UnknownAdapterError
from modelworks.engine.engine import EngineClosedError, QueueFullError

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request that is answered with an error; `param` names the field that is at fault."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry_after = retry_after

    def to_json(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


class Disconnected(Exception):
    """The client went away before its answer was whole; nobody is left to be told."""


def as_api_error(error: Exception, *, param: str | None = None) -> ApiError | None:
    """What a client is told of an error from the layers below; None where it is a defect of the server."""
    match error:
        case ApiError():
            return error
        case QueueFullError():
            return ApiError(429, str(error), code="queue_full", retry_after=1)
        case EngineClosedError():
            return ApiError(503, "the server is stopping", code="stopping", retry_after=5)
        case UnknownAdapterError():  # it was removed after the request's model was looked up
            return ApiError(404, str(error), param="model", code="model_not_found")
        case ContextLengthError():
            return ApiError(400, str(error), param=param, code="context_length_exceeded")
        case StoreError() | DownloadError() | ModelFileError():  # the server's own files and models, not the request
            return ApiError(503, str(error), code="unavailable")
        case ModelworksError():
            return ApiError(400, str(error), param=param, code="invalid_value")
        case TimeoutError():
            return ApiError(504, "the request took longer than the server allows", code="time_limit")
    return None
