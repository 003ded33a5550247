"""The cache's book-keeping: uses are counted, shared blocks never change, the least recently used is evicted."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from modelworks.engine.paged import BlockPool, OutOfBlocksError, Pages

SIZE = 3


class Memory:
    """Blocks that hold the token of each slot, as a runner's would hold its keys and values."""

    def __init__(self, num_blocks: int, *, prefix_cache: bool = True, size: int = SIZE) -> None:
        self.slots = [[-1] * size for _ in range(num_blocks)]
        self.copies = 0
        self.pool = BlockPool(num_blocks, size, self.copy, prefix_cache=prefix_cache)

    def copy(self, source: int, target: int) -> None:
        self.slots[target] = list(self.slots[source])
        self.copies += 1

    def compute(self, pages: Pages, tokens: list[int], length: int, *, more: int = 0) -> None:
        """Write the tokens up to `length`, and `more` that do not count (a speculation that was refused)."""
        size = self.pool.block_size
        pages.reserve(length + more)
        for at in range(pages.held, length + more):
            block = pages.blocks[at // size]
            assert self.pool.is_writable(block)
            self.slots[block][at % size] = tokens[at] if at < length else -9
        pages.hold(tokens, length)

    def read(self, pages: Pages) -> list[int]:
        return [token for block in pages.blocks for token in self.slots[block]][: pages.held]

    def answered(self, tokens: list[int]) -> int:
        """A request from its beginning to its end; how many of its tokens the cache had."""
        pages = Pages(self.pool)
        found = pages.match(tokens)
        self.compute(pages, tokens, len(tokens))
        assert self.read(pages) == tokens
        pages.release()
        return found


def test_another_salt_shares_nothing() -> None:
    """What one adapter computed is not what another, or the model alone, would have."""
    memory, tokens = Memory(8), list(range(2 * SIZE))
    for salt in (b"", b"one", b"two"):
        pages = Pages(memory.pool, salt)
        assert pages.match(tokens) == 0
        memory.compute(pages, tokens, len(tokens))
        pages.release()
    for salt in (b"", b"one", b"two"):
        pages = Pages(memory.pool, salt)
        assert pages.match(tokens) == 2 * SIZE - 1
        pages.release()


@pytest.mark.parametrize("length", [2 * SIZE - 1, 2 * SIZE, 2 * SIZE + 1])
def test_the_same_prompt_twice(length: int) -> None:
    """efficient.md 6; vllm#11186: at a block's end and one off, the second is right and leaves the entry as it was."""
    memory = Memory(8)
    tokens = list(range(length))
    assert memory.answered(tokens) == 0
    before = [list(slots) for slots in memory.slots]
    # One token at least is computed: its logits are wanted. A copy is made only where that one is in a full block.
    assert memory.answered(tokens) == min(length // SIZE * SIZE, length - 1)
    assert memory.copies == (length % SIZE == 0)
    held = {block for block in range(8) if not memory.pool.is_writable(block) and -1 not in before[block]}
    assert all(memory.slots[block] == before[block] for block in held)
    assert memory.answered(tokens) == min(length // SIZE * SIZE, length - 1)


def test_a_prefix_is_shared_while_it_is_used() -> None:
    memory = Memory(5)
    first, second = Pages(memory.pool), Pages(memory.pool)
    memory.compute(first, [1, 2, 3, 4, 5, 6, 7], 7)
    assert second.match([1, 2, 3, 4, 5, 6, 8]) == 6
    memory.compute(second, [1, 2, 3, 4, 5, 6, 8], 7)
    assert first.blocks[:2] == second.blocks[:2]
    assert memory.pool.used == 4
    first.release()
    assert memory.read(second) == [1, 2, 3, 4, 5, 6, 8]
    assert memory.pool.used == 3


def test_a_partly_filled_block_is_never_shared() -> None:
    memory = Memory(4)
    first, second = Pages(memory.pool), Pages(memory.pool)
    memory.compute(first, [1, 2], 2)
    assert second.match([1, 2, 3]) == 0


def test_what_comes_before_a_block_is_part_of_its_content() -> None:
    memory = Memory(8)
    memory.answered([1, 1, 1, 2, 2, 2, 0])
    assert memory.answered([3, 3, 3, 2, 2, 2, 0]) == 0
    assert memory.answered([2, 2, 2, 0]) == 0


def test_blocks_that_a_neighbour_filled_since_replace_ones_own() -> None:
    """Prompts that arrive together: the later one takes what the earlier computes, and gives its empty blocks back."""
    memory = Memory(6)
    first, second = Pages(memory.pool), Pages(memory.pool)
    tokens = [1, 2, 3, 4, 5, 6, 7]
    for pages in (first, second):
        assert pages.match(tokens) == 0
        pages.reserve(len(tokens))
    memory.compute(first, tokens, 6)
    assert second.match(tokens) == 6
    assert memory.pool.used == 4
    memory.compute(second, tokens, 7)
    assert memory.read(second) == tokens


def test_the_least_recently_used_goes_first_and_beginnings_last() -> None:
    memory = Memory(4)
    memory.answered([1, 1, 1, 2, 2, 2])  # two blocks
    memory.answered([5, 5, 5])
    memory.answered([1, 1, 1, 0])  # used again: its end is now the oldest of the three
    memory.answered([7, 7, 7, 8, 8, 8])  # takes the free one and evicts one
    assert memory.answered([1, 1, 1, 2, 2, 2, 0]) == 3
    assert memory.pool.used == 0


def test_nothing_is_remembered_without_the_prefix_cache() -> None:
    memory = Memory(4, prefix_cache=False)
    memory.answered([1, 2, 3, 4])
    assert memory.answered([1, 2, 3, 4]) == 0
    assert memory.pool.cached == 0


def test_reserve_takes_all_or_nothing() -> None:
    memory = Memory(2)
    first, second = Pages(memory.pool), Pages(memory.pool)
    memory.compute(first, [1, 2, 3], 3)
    with pytest.raises(OutOfBlocksError):
        second.reserve(2 * SIZE)
    assert second.blocks == []
    assert memory.pool.available == 1
    second.reserve(SIZE)
    with pytest.raises(OutOfBlocksError):
        memory.pool.take()


def test_forgotten_blocks_are_free() -> None:
    memory = Memory(3)
    memory.answered([1, 2, 3])
    running = Pages(memory.pool)
    memory.compute(running, [4, 4, 4], 3)
    memory.pool.forget()
    assert (memory.pool.cached, memory.pool.free) == (0, 2)
    running.release()
    assert memory.pool.free == 3
    assert memory.answered([1, 2, 3]) == 0


class AnyOrder(RuleBasedStateMachine):
    """Sequences that come, grow, speculate and go, over a pool that is too small for them."""

    tokens_st = st.lists(st.integers(0, 1), min_size=1, max_size=10)

    @initialize(num_blocks=st.integers(4, 9), prefix_cache=st.booleans(), size=st.integers(1, 4))
    def begin(self, num_blocks: int, prefix_cache: bool, size: int) -> None:
        self.memory = Memory(num_blocks, prefix_cache=prefix_cache, size=size)
        self.sequences: list[tuple[Pages, list[int]]] = []

    @rule(tokens=tokens_st)
    def come(self, tokens: list[int]) -> None:
        pages = Pages(self.memory.pool)
        pages.match(tokens)
        self.sequences.append((pages, tokens))

    @precondition(lambda self: self.sequences)
    @rule(data=st.data(), more=st.integers(0, 3))
    def compute(self, data: st.DataObject, more: int) -> None:
        pages, tokens = data.draw(st.sampled_from(self.sequences))
        length = data.draw(st.integers(pages.held, len(tokens)))
        try:
            self.memory.compute(pages, tokens, length, more=more)
        except OutOfBlocksError:
            assert pages.missing(length + more) > self.memory.pool.available

    @precondition(lambda self: self.sequences)
    @rule(data=st.data(), new=tokens_st)
    def grow(self, data: st.DataObject, new: list[int]) -> None:
        pages, tokens = data.draw(st.sampled_from(self.sequences))
        tokens.extend(new)
        before = pages.held
        assert pages.match(tokens) == pages.held - before >= 0
        assert pages.held < len(tokens)

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.sequences) - 1))
        self.sequences.pop(at)[0].release()

    @invariant()
    def every_sequence_reads_its_own_tokens(self) -> None:
        for pages, tokens in self.sequences:
            assert self.memory.read(pages) == tokens[: pages.held]

    @invariant()
    def blocks_add_up(self) -> None:
        pool = self.memory.pool
        in_use = {block for pages, _ in self.sequences for block in pages.blocks}
        assert pool.used == len(in_use)
        assert pool.used + pool.cached + pool.free == pool.num_blocks


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=25)
