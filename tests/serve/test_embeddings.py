"""Vectors through the official client."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

URL = "/v1/embeddings"


def test_vectors_in_order_and_their_tokens(served) -> None:
    answer = served.openai.embeddings.create(model="letters", input=["aa", "io"])  # base64 under the hood
    assert [item.index for item in answer.data] == [0, 1]
    expected = served.service.embedder.embed(["aa", "io"])
    np.testing.assert_array_equal(np.array([item.embedding for item in answer.data], np.float32), expected)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 4


def test_numbers_where_they_are_asked_for(served) -> None:
    body = {"model": "letters", "input": "aa", "encoding_format": "float", "dimensions": 4}
    [item] = served.post(URL, body).json()["data"]
    np.testing.assert_allclose(item["embedding"], served.service.embedder.embed(["aa"])[0], rtol=1e-6)


def test_many_texts_keep_their_order_and_their_places(served) -> None:
    texts = ["a" * (1 + index % 7) for index in range(150)]
    answer = served.openai.embeddings.create(model="letters", input=texts, encoding_format="float")
    assert [item.index for item in answer.data] == list(range(150))
    np.testing.assert_allclose(
        [item.embedding for item in answer.data], served.service.embedder.embed(texts), rtol=1e-6
    )
    assert answer.usage.total_tokens == sum(map(len, texts))
    texts[100] = "y" * 129
    assert served.refused(URL, {"model": "letters", "input": texts})["param"] == "input[100]"


@pytest.mark.parametrize(
    ("more", "param", "said"),
    [
        ({"input": None}, "input", "missing"),
        ({"input": []}, "input", "at least 1"),
        ({"input": [""]}, "input", "empty"),
        ({"input": [1, 2]}, "input", "string"),
        ({"input": ["x", "y" * 129]}, "input[1]", "129 tokens; letters reads 128 tokens"),
        ({"input": "y" * 1_000_000}, "input[0]", "letters reads 128"),
        ({"encoding_format": "hex"}, "encoding_format", "base64"),
        ({"dimensions": 3}, "dimensions", "4"),
        ({"colour": 3}, "colour", "unknown"),
    ],
)
def test_a_wrong_field_is_named(served, more: dict[str, Any], param: str, said: str) -> None:
    error = served.refused(URL, {"model": "letters", "input": "x"} | more)
    assert error["param"] == param
    assert said in error["message"]


def test_the_chat_model_makes_no_vectors(served) -> None:
    assert served.refused(URL, {"model": "echo", "input": "x"}, status=404)["code"] == "model_not_found"


def test_an_adapter_makes_no_embeddings(adapted) -> None:
    error = adapted.refused("/v1/embeddings", {"model": "pirate", "input": "x"}, status=404)
    assert error["message"] == "there is no model 'pirate' for this here; it is 'letters'"
