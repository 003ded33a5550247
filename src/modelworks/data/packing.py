"""Which documents share a row: first-fit decreasing, the classic of bin packing (Johnson 1973)."""

from __future__ import annotations

from collections.abc import Sequence


def first_fit_decreasing(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of `sizes` in bins whose sizes sum to at most `capacity`; every index is in one bin.

    At most 11/9 of the fewest possible bins, and 6/9 of one. A tree over the bins' free room finds the first that fits
    in log steps. Raises ValueError for a size that no bin holds.
    """
    order = sorted(range(len(sizes)), key=lambda index: (-sizes[index], index))
    if order and sizes[order[0]] > capacity:
        raise ValueError(f"an item of size {sizes[order[0]]} does not fit into a bin of {capacity}")
    leaves = 1 << max(0, len(sizes) - 1).bit_length()
    room = [capacity] * (2 * leaves)  # a heap: the most room below each node; every bin is open, and most stay empty
    bins: list[list[int]] = [[] for _ in sizes]
    for index in order:
        node = 1
        while node < leaves:
            node *= 2
            if room[node] < sizes[index]:
                node += 1
        bins[node - leaves].append(index)
        room[node] -= sizes[index]
        while node > 1:
            node //= 2
            room[node] = max(room[2 * node], room[2 * node + 1])
    return [filled for filled in bins if filled]
