"""The approximate vector index of a large collection: a LanceDB table that mirrors the store's vectors.

It holds nothing that the store does not: brought level by comparing keys, thrown away and rebuilt at will. A key is
the hash of the text that a vector was made from.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelworks.core.errors import StoreError
from modelworks.retrieval.database import VECTORS
from modelworks.retrieval.store import VECTOR_DTYPE, Store

_TABLE = "vectors"
_BLOCK = 8192  # vectors copied at a time; keys in one delete
_MIN_INDEXED = 256  # IVF needs rows to learn its centroids from; below, LanceDB's own scan is exact and fast
_PROBED = 0.25  # share of the partitions that a search looks into


class Projection:
    """The mirror beside a store, in the sub-folder `vectors`."""

    def __init__(self, store: Store) -> None:
        """Raises StoreError where LanceDB is not installed."""
        try:
            import lancedb
        except ImportError as error:
            raise StoreError(
                "a collection this large needs an approximate index: run `pip install 'modelworks[vectors]'`"
            ) from error
        self.store = store
        self._folder = store.folder / VECTORS
        self._database = lancedb.connect(self._folder)
        self._table: Any = None

    @staticmethod
    def exists(store: Store) -> bool:
        return (store.folder / VECTORS).exists()

    @staticmethod
    def remove(store: Store) -> None:
        """Delete the mirror, which a collection that has become small does without."""
        shutil.rmtree(store.folder / VECTORS, ignore_errors=True)

    def level(self) -> None:
        """Bring the mirror to the store's present state; cheap where nothing has changed since the last time."""
        revision = str(self.store.revision())
        table = self._open()
        if self.store.meta("projection") == revision and table.count_rows() == self._count():
            return
        missing, stale = self.differences()
        for start in range(0, len(stale), _BLOCK):
            keys = ", ".join(f"'{key}'" for key in stale[start : start + _BLOCK])
            table.delete(f"key IN ({keys})")
        for start in range(0, len(missing), _BLOCK):
            self._add(table, missing[start : start + _BLOCK])
        if missing or stale:
            self._index(table)
            # Old versions go once no search of another process can still be reading them.
            table.optimize(cleanup_older_than=timedelta(minutes=1))
        self.store.note_projection(revision)

    def differences(self) -> tuple[list[str], list[str]]:
        """Keys that the mirror lacks, and keys that only it has; both empty where it is level."""
        stored = {row[0] for row in self.store.rows("SELECT text_hash FROM embeddings")}
        mirrored = self._open().search().select(["key"]).limit(None).to_arrow()["key"].to_pylist()
        return sorted(stored.difference(mirrored)), sorted(set(mirrored).difference(stored))

    def rebuild(self) -> None:
        """Throw the mirror away and copy the store's vectors anew."""
        self._reopen()
        shutil.rmtree(self._folder, ignore_errors=True)
        self.level()

    def search(self, query_C: NDArray[np.float32], limit: int) -> list[str]:
        """Keys of about the `limit` nearest vectors by inner product, nearest first; levels the mirror first."""
        # What is wrong may be that another process has just cleaned up the version that this one was reading, or that
        # the mirror is damaged. Both can be helped; what then still fails is raised.
        for recover in (self._reopen, self.rebuild):
            try:
                return self._search(query_C, limit)
            except (RuntimeError, OSError, ValueError):
                recover()
        return self._search(query_C, limit)

    def _search(self, query_C: NDArray[np.float32], limit: int) -> list[str]:
        self.level()
        table = self._open()
        rows = table.count_rows()
        share = max(_PROBED, min(1.0, limit / max(1, rows)))
        request = table.search(query_C).distance_type("dot").select(["key", "_distance"]).limit(limit)
        request = request.nprobes(max(1, math.ceil(_partitions(rows) * share)))
        # Two processes that level at once may both add a key.
        return list(dict.fromkeys(row["key"] for row in request.to_list()))

    def _reopen(self) -> None:
        self._table = None

    def _count(self) -> int:
        return int(self.store.value("SELECT count(*) FROM embeddings"))

    def _open(self) -> Any:
        """The table at its latest version, made empty where it is missing or of another dimension."""
        import pyarrow as pa

        embedder = self.store.embedder()
        if embedder is None:
            raise StoreError("the collection has no vectors yet: run `modelworks index FOLDER`")
        schema = pa.schema([("key", pa.string()), ("vector", pa.list_(pa.float16(), embedder[1]))])
        if self._table is None:
            exists = _TABLE in self._database.list_tables().tables
            if exists:
                self._table = self._database.open_table(_TABLE)
            else:
                self._table = self._database.create_table(_TABLE, schema=schema, exist_ok=True)
        self._table.checkout_latest()
        if self._table.schema != schema:
            self._table = self._database.create_table(_TABLE, schema=schema, mode="overwrite")
        return self._table

    def _add(self, table: Any, keys: Sequence[str]) -> None:
        import pyarrow as pa

        stored = self.store.rows(
            "SELECT text_hash, vector FROM embeddings WHERE text_hash IN (SELECT value FROM json_each(?))",
            (json.dumps(keys),),
        )
        dimension = table.schema.field("vector").type.list_size
        flat = np.frombuffer(b"".join(row[1] for row in stored), VECTOR_DTYPE)
        rows = pa.table(
            {
                "key": pa.array([row[0] for row in stored], pa.string()),
                "vector": pa.FixedSizeListArray.from_arrays(pa.array(flat), dimension),
            },
            schema=table.schema,
        )
        table.merge_insert("key").when_not_matched_insert_all().execute(rows)

    def _index(self, table: Any) -> None:
        """Build the index where there are rows for one; rows that come later are scanned until `optimize`."""
        from lancedb.index import IvfSq

        partitions = _partitions(table.count_rows())
        if not partitions or table.list_indices():
            return
        table.create_index("vector", config=IvfSq(distance_type="dot", num_partitions=partitions))


def _partitions(rows: int) -> int:
    """How many partitions the index of so many rows has: about one for 4,096; 0 where there is no index."""
    return max(1, rows // 4096) if rows >= _MIN_INDEXED else 0
