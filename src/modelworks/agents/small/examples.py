"""Dialogues with calls that a small model is shown before a request that is like theirs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelworks.core.errors import DataError
from modelworks.data.files import read_rows
from modelworks.data.formats import to_sample
from modelworks.data.sample import Dialogue


def read_examples(path: str | Path) -> list[tuple[Mapping[str, Any], ...]]:
    """The dialogues of a file that `data.files.read_rows` reads: each a user's message, then the assistant's turns.

    A system message before them is left out, as the run has its own. Raises DataError, with the row's place, for what
    is no such dialogue, and for a file without any.
    """
    found = []
    for row in read_rows(path):
        sample = to_sample(row)
        if not isinstance(sample, Dialogue):
            raise DataError(f"{row.place}: an example is a dialogue, with the column `messages`")
        messages = tuple(message for message in sample.messages if message["role"] != "system")
        if [message["role"] for message in messages[:2]] != ["user", "assistant"]:
            raise DataError(f"{row.place}: an example begins with a user's message and the assistant's answer")
        found.append(messages)
    if not found:
        raise DataError(f"{path}: it has no dialogue")
    return found
