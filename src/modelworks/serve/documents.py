"""The folder of documents behind `--docs`: what it holds, its sync, and questions to it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from modelworks.core.errors import ModelworksError, StoreError
from modelworks.retrieval.answer import Answer, Citation, stream
from modelworks.retrieval.collection import Collection
from modelworks.retrieval.reader import Reader
from modelworks.serve.errors import ApiError
from modelworks.serve.fields import Fields

_MOST_QUESTION = 4000  # characters
_MOST_WAITING = 16
_PATIENCE = 5.0  # seconds


class Documents:
    """A folder and its collection. Questions are answered one at a time, and syncs run beside them."""

    def __init__(self, folder: Path, collection: Collection, *, reader: Reader | None = None) -> None:
        """`reader`: what judges passages; the one that ships with modelworks where None."""
        self.folder = folder
        self.collection = collection
        self._reader = reader
        # Reading keeps every core busy: two questions at once would make both late.
        self._asking = ThreadPoolExecutor(1, thread_name_prefix="modelworks-ask")
        self._waiting = 0
        self._lock = threading.Lock()
        self._syncing: threading.Thread | None = None
        self._last: dict[str, Any] | None = None
        self._failed: str | None = None

    def close(self) -> None:
        """Wait for the answer under way, and a little for a sync, then close the collection.

        A sync that goes on is cut off by the end of the process; that loses nothing, and the next one goes on there.
        """
        self._asking.shutdown(cancel_futures=True)
        if (thread := self._syncing) is not None:
            thread.join(_PATIENCE)
            if thread.is_alive():
                return
        self.collection.close()

    # What it holds

    def listing(self) -> dict[str, Any]:
        """Every document with its state, and how far the index is."""
        return {
            "folder": self.folder.name,
            "coverage": self.collection.coverage(),
            "sync": self.sync_state(),
            "documents": [
                {
                    "name": each.name,
                    "status": each.status,
                    "reason": each.reason,
                    "title": each.title,
                    "media_type": each.media_type,
                    "size": each.size,
                    "notes": list(each.notes),
                    "pages": each.pages,
                    "chunks": each.chunks,
                    "embedded": each.embedded,
                }
                for each in self.collection.documents()
            ],
        }

    def document(self, name: str) -> dict[str, Any]:
        """A document's text and pages; offsets count code points. Raises `ApiError` (404) where there is none."""
        try:
            found = self.collection.document(name)
        except StoreError as error:
            raise ApiError(404, str(error), param="name", code="document_not_found") from error
        return {
            "name": found.name,
            "title": found.title,
            "media_type": found.media_type,
            "text": found.text,
            "pages": [
                {"number": page.number, "start": page.start, "end": page.end, "label": page.label}
                for page in found.pages
            ],
        }

    # Sync

    def sync_state(self) -> dict[str, Any]:
        state: Literal["running", "failed", "idle"] = "idle"
        if self._syncing is not None:
            state = "running"
        elif self._failed is not None:
            state = "failed"
        return {"state": state, "error": self._failed, "last": self._last}

    def sync(self) -> dict[str, Any]:
        """Bring the index up to date in the background, unless that is under way; return the state."""
        with self._lock:
            if self._syncing is None:
                self._syncing = threading.Thread(target=self._sync, name="modelworks-sync", daemon=True)
                self._syncing.start()
        return self.sync_state()

    def _sync(self) -> None:
        failed: str | None = "the sync failed; the server's log says why"
        try:
            report = self.collection.sync(self.folder)
            counts = {str(outcome): number for outcome, number in report.counts.items()}
            self._last = {"finished": int(time.time()), "seconds": round(report.seconds, 3), "files": counts}
            failed = None
        except ModelworksError as error:
            failed = str(error)
        finally:
            with self._lock:
                self._failed, self._syncing = failed, None

    # Questions

    async def ask(self, question: str) -> AsyncGenerator[Citation | Answer, None]:
        """Each citation as it is found, then the whole answer. Raises `ApiError` (429) where too many wait."""
        if self._waiting >= _MOST_WAITING:
            raise ApiError(429, f"{self._waiting} questions wait already", code="queue_full", retry_after=2)
        loop = asyncio.get_running_loop()
        found: Iterator[Citation | Answer] = stream(self.collection, question, reader=self._reader)
        self._waiting += 1
        try:
            # One step at a time: a client that left is noticed between them, and other questions get their turn.
            while (newest := await loop.run_in_executor(self._asking, next, found, None)) is not None:
                yield newest
        finally:
            self._waiting -= 1


def read_question(fields: Fields) -> str:
    """The field `question`. Raises `ApiError` (400) where it holds no words."""
    question = fields.needed_text("question", most=_MOST_QUESTION)
    fields.expect(any(character.isalnum() for character in question), "question", "a question in words")
    fields.close()
    return question
