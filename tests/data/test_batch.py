"""The contract of streams, on the one that all training data comes through."""

from __future__ import annotations

import json

import torch

from modelworks.data.rows import PackedRows, PaddedRows
from modelworks.data.stream import Stream


def test_a_state_is_small_json_and_names_have_the_shapes_that_are_stated(make_documents):
    documents = make_documents([5, 9, 4, 7, 6, 8])
    for rows in (PackedRows(documents, seq_len=12), PaddedRows(documents)):
        stream = Stream(rows, batch_size=2)
        batch = next(iter(stream))
        assert set(batch) == {"input_ids", "targets", "weights", "attention_mask", "positions"}
        assert len({tensor.shape for tensor in batch.values()}) == 1
        counts = batch["weights"] != 0
        # Within a document a target is what is read next.
        follows = counts[:, :-1] & (batch["attention_mask"][:, :-1] == batch["attention_mask"][:, 1:])
        torch.testing.assert_close(batch["targets"][:, :-1][follows], batch["input_ids"][:, 1:][follows])
        state = json.loads(json.dumps(stream.state()))
        assert len(json.dumps(state)) < 1000
        other = Stream(rows, batch_size=2)
        other.restore(state)
        after, again = next(iter(stream)), next(iter(other))
        assert all(torch.equal(after[name], again[name]) for name in after)
