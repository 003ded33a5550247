"""One process alone is a world of one."""

from __future__ import annotations

import torch

from modelworks.parallel.ranks import max_over_ranks, rank, sum_over_ranks, world_size


def test_alone_it_is_rank_0_of_1_and_sums_are_values():
    value = torch.ones(2)
    assert (rank(), world_size()) == (0, 1)
    assert sum_over_ranks(value) is value
    assert max_over_ranks(value) is value
