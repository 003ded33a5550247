"""The paged key-value cache's book-keeping: which blocks a sequence has, and which of them others may share.

Keys and values live in blocks of a fixed size (Kwon et al. 2023, arXiv:2309.06180), which only a runner touches. A
full block never changes again, so that every sequence that begins with the same tokens can read it: it is found by a
hash of all tokens up to its end, and of the adapter that they were computed with. Blocks that no sequence uses stay
findable until their memory is needed, the one unused for longest first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b

import numpy as np


class OutOfBlocksError(Exception):
    """Every block is in use by a sequence. The scheduler answers it by waiting or by preemption."""


class BlockPool:
    """Counts the uses of blocks and remembers the contents of full ones.

    A block is *used* by one or more sequences, *cached* (used by none, its content still findable) or *free*.
    `copy_block(source, target)` is the runner's.
    """

    def __init__(
        self, num_blocks: int, block_size: int, copy_block: Callable[[int, int], None], *, prefix_cache: bool = True
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.copy_block = copy_block
        self._prefix_cache = prefix_cache
        self._uses = [0] * num_blocks
        self._free = list(reversed(range(num_blocks)))
        self._cached: dict[int, None] = {}  # in the order of their last use
        self._block_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def cached(self) -> int:
        return len(self._cached)

    @property
    def used(self) -> int:
        return self.num_blocks - self.available

    @property
    def available(self) -> int:
        """Blocks that `take` can give: free ones, and cached ones, which then forget their content."""
        return len(self._free) + len(self._cached)

    def take(self) -> int:
        """A block for one sequence to write. Raises `OutOfBlocksError`."""
        if self._free:
            block = self._free.pop()
        elif self._cached:
            block = next(iter(self._cached))
            del self._cached[block]
            del self._block_of[self._key_of.pop(block)]
        else:
            raise OutOfBlocksError
        self._uses[block] = 1
        return block

    def share(self, block: int) -> None:
        """One more sequence reads a block that `find` gave."""
        self._cached.pop(block, None)
        self._uses[block] += 1

    def release(self, block: int) -> None:
        """One sequence less uses a block."""
        assert self._uses[block] > 0
        self._uses[block] -= 1
        if self._uses[block] == 0:
            if block in self._key_of:
                self._cached[block] = None
            else:
                self._free.append(block)

    def is_writable(self, block: int) -> bool:
        """Whether the one sequence that uses the block may change it: nobody else does or can find it."""
        return self._uses[block] == 1 and block not in self._key_of

    def find(self, key: bytes) -> int | None:
        """The block with the content of that key."""
        return self._block_of.get(key)

    def remember(self, block: int, key: bytes) -> None:
        """A block is full: from now on it can be found and never changes. A content that is known stays where it is."""
        if self._prefix_cache and key not in self._block_of:
            self._block_of[key] = block
            self._key_of[block] = key

    def forget(self) -> None:
        """Forget all contents: what blocks hold is in doubt."""
        self._block_of.clear()
        self._key_of.clear()
        self._free.extend(self._cached)
        self._cached.clear()


class Pages:
    """The blocks of one sequence, whose tokens only ever grow.

    `held` tokens have their keys and values in them; slots after those may be written and do not count. Sequences of
    another `salt`, which says what else than tokens keys and values come from, share no blocks with this one.
    """

    def __init__(self, pool: BlockPool, salt: bytes = b"") -> None:
        self._pool = pool
        self._salt = salt
        self._keys: list[bytes] = []
        self.blocks: list[int] = []
        self.held = 0

    def match(self, tokens: Sequence[int]) -> int:
        """Take over the blocks that already hold the tokens that come next; return how many tokens those are.

        The last token is always left to compute: its logits are wanted. Where its block was found whole, `reserve`
        makes a copy of that to write to.
        """
        before, size = self.held, self._pool.block_size
        while self.held % size == 0 and self.held + size <= len(tokens):
            at = self.held // size
            block = self._pool.find(self._key(tokens, at))
            if block is None:
                break
            self._pool.share(block)
            if at < len(self.blocks):
                self._pool.release(self.blocks[at])
                self.blocks[at] = block
            else:
                self.blocks.append(block)
            self.held += size
        self.held = min(self.held, max(before, len(tokens) - 1))
        return self.held - before

    def missing(self, length: int) -> int:
        """How many blocks `reserve(length)` would take."""
        return max(0, -(-length // self._pool.block_size) - len(self.blocks)) + self._shares_next()

    def reserve(self, length: int) -> None:
        """Make room to write tokens from `held` to `length`. Raises `OutOfBlocksError`, with nothing changed."""
        if self.missing(length) > self._pool.available:
            raise OutOfBlocksError
        if self._shares_next():
            at = self.held // self._pool.block_size
            shared, self.blocks[at] = self.blocks[at], self._pool.take()
            self._pool.release(shared)
            self._pool.copy_block(shared, self.blocks[at])  # last: where it fails, no block is lost
        while len(self.blocks) * self._pool.block_size < length:
            self.blocks.append(self._pool.take())

    def _shares_next(self) -> bool:
        """Whether the next token's slot is in a block that must not change."""
        at = self.held // self._pool.block_size
        return at < len(self.blocks) and not self._pool.is_writable(self.blocks[at])

    def hold(self, tokens: Sequence[int], held: int) -> None:
        """The first `held` of `tokens` are computed; blocks that this fills can be found from now on."""
        size = self._pool.block_size
        for at in range(self.held // size, held // size):
            self._pool.remember(self.blocks[at], self._key(tokens, at))
        self.held = held

    def release(self) -> None:
        """Give all blocks back, the last first: the beginnings that many share are the last to be evicted."""
        for block in reversed(self.blocks):
            self._pool.release(block)
        self.blocks.clear()
        self.held = 0

    def _key(self, tokens: Sequence[int], at: int) -> bytes:
        """A 256-bit hash of the tokens up to the end of block `at`, chained block by block."""
        size = self._pool.block_size
        while len(self._keys) <= at:
            start = len(self._keys) * size
            content = np.asarray(tokens[start : start + size], dtype=np.int64).tobytes()
            before = self._keys[-1] if self._keys else self._salt
            self._keys.append(blake2b(before + content, digest_size=32).digest())
        return self._keys[at]
