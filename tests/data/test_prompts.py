from __future__ import annotations

import json

import numpy as np
import pytest

from modelworks.core.errors import DataError
from modelworks.data.prompts import EMPTY, TOO_LONG, Prompts, Question, read_prompts
from modelworks.data.tokenize import Options


def read(tmp_path, tokenizer, *rows, strict=False, **options):
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_prompts(file, tokenizer, Options(**options), seed=None, strict=strict)


def test_every_format_that_has_a_prompt_gives_it(tmp_path, tokenizer):
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
    prompts, report = read(
        tmp_path,
        tokenizer,
        {"prompt": "1+1=", "answer": 2},
        {"prompt": "1+1=", "completion": "2", "level": 3},
        {"prompt": "1+1=", "chosen": "2", "rejected": "3"},
        {"prompt": "1+1=", "completion": "3", "label": False},
        {"messages": turns},
        {"prompt": "1+1=", "completions": ["2"], "labels": [True]},
    )
    assert report.rows == report.documents == len(prompts) == 6
    assert [tokenizer.decode(prompts[at].ids) for at in range(6)] == ["1+1="] * 4 + ["user\nhi\nassistant\n", "1+1="]
    assert prompts[0].extra == {"answer": 2}
    assert prompts[1].extra == {"completion": "2", "level": 3}
    assert prompts[2].extra["completion"] == "2"
    assert prompts[4].extra["completion"][0]["content"] == "yo"
    assert len(prompts[4].prompt) == 1


def test_texts_become_turns_where_it_is_asked_for(tmp_path, tokenizer):
    prompts, _ = read(
        tmp_path,
        tokenizer,
        {"question": "why", "answer": "so"},
        as_chat=True,
        columns={"question": "prompt", "answer": "completion"},
    )
    assert tokenizer.decode(prompts[0].ids) == "user\nwhy\nassistant\n"


def test_what_cannot_be_asked_is_counted_or_an_error(tmp_path, tokenizer):
    rows = [{"prompt": "short"}, {"prompt": "much too long"}, {"prompt": ""}]
    prompts, report = read(tmp_path, tokenizer, *rows, max_length=8)
    assert len(prompts) == 1
    assert report.dropped == {TOO_LONG: 1, EMPTY: 1}
    with pytest.raises(DataError, match=r"prompts.jsonl:2: longer than max_length"):
        read(tmp_path, tokenizer, *rows, max_length=8, strict=True)
    with pytest.raises(DataError, match="there are no prompts"):
        read(tmp_path, tokenizer, *rows[1:], max_length=8)
    with pytest.raises(DataError, match="a text has no prompt"):
        read(tmp_path, tokenizer, {"text": "a document"})
    with pytest.raises(DataError, match="without an answer"):
        read(tmp_path, tokenizer, {"messages": [{"role": "user", "content": "hi"}]})


def test_each_epoch_asks_all_in_another_order():
    prompts = Prompts([Question(np.array([at]), str(at)) for at in range(7)], seed=3)
    first, second = prompts.order(0, 7), prompts.order(7, 7)
    assert sorted(first) == sorted(second) == list(range(7))
    assert first != second
    assert prompts.order(5, 4) == [*first[5:], *second[:2]]
    assert Prompts([Question(np.array([at]), "") for at in range(3)], seed=None).order(2, 3) == [2, 0, 1]
