"""`POST /v1/embeddings` (platform.openai.com/docs/api-reference/embeddings): texts to vectors of length 1."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import numpy as np

from modelworks.serve.errors import ApiError
from modelworks.serve.fields import Fields
from modelworks.serve.service import Service

_MOST_TEXTS: Final = 2048
_AT_ONCE: Final = 64
_MOST_CHARACTERS: Final = 100  # a token: more is not counted, which would take long


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """A request, read and checked."""

    model: str
    texts: Sequence[str]
    encoding: Literal["float", "base64"]
    dimensions: int | None

    @classmethod
    def parse(cls, fields: Fields) -> EmbeddingRequest:
        """Raises `ApiError` (400) naming the field that is wrong."""
        model = fields.needed_text("model")
        fields.need("input")
        # Token ids are those of OpenAI's tokenizers; here they would mean other words.
        texts = fields.texts("input", _MOST_TEXTS, least=1)
        encoding = fields.choice("encoding_format", ("float", "base64"), "float")
        dimensions = fields.integer("dimensions", 1, 1 << 20)
        fields.ignore("user")
        fields.close()
        return cls(model, texts, cast(Literal["float", "base64"], encoding), dimensions)


async def embed(service: Service, request: EmbeddingRequest) -> dict[str, Any]:
    """The list of embeddings. Raises `ApiError` for a text longer than the embedder reads.

    A few texts at a time, so that requests take turns, and one whose client left ends.
    """
    service.check_embedder(request.model)
    loop = asyncio.get_running_loop()
    total = 0
    vectors: list[str | list[float]] = []
    for first in range(0, len(request.texts), _AT_ONCE):
        texts = request.texts[first : first + _AT_ONCE]
        tokens, found = await loop.run_in_executor(service.embedding, _embed, service, request, texts, first)
        total += tokens
        vectors += found
    return {
        "object": "list",
        "model": service.embedder_name,
        "data": [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)],
        "usage": {"prompt_tokens": total, "total_tokens": total},
    }


def _embed(
    service: Service, request: EmbeddingRequest, texts: Sequence[str], first: int
) -> tuple[int, list[str | list[float]]]:
    """How many tokens texts have, and their vectors; `first` is the index of the first in the request."""
    embedder = service.embedder
    if request.dimensions not in (None, embedder.dimension):
        raise ApiError(
            400,
            f"dimensions: the vectors of {service.embedder_name} have {embedder.dimension}, and cannot be cut",
            param="dimensions",
            code="invalid_value",
        )
    total = 0
    for index, text in enumerate(texts, first):
        hopeless = len(text) > _MOST_CHARACTERS * embedder.max_tokens
        tokens = 0 if hopeless else embedder.count_tokens(text)
        if hopeless or tokens > embedder.max_tokens:
            size = f"{len(text)} characters" if hopeless else f"{tokens} tokens"
            raise ApiError(
                400,
                f"input[{index}] has {size}; {service.embedder_name} reads {embedder.max_tokens} tokens: "
                "cut it into passages",
                param=f"input[{index}]",
                code="context_length_exceeded",
            )
        total += tokens
    return total, [_encoded(vector_C, request.encoding) for vector_C in embedder.embed(texts)]


def _encoded(vector_C: np.ndarray[Any, np.dtype[np.float32]], encoding: str) -> str | list[float]:
    if encoding == "base64":
        return base64.b64encode(vector_C.astype("<f4").tobytes()).decode()
    return [float(value) for value in vector_C]
