"""The `modelworks` command: each verb is one function, imported only when it is called."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from cyclopts import App

import modelworks
from modelworks.core.errors import ModelworksError

app = App(
    name="modelworks",
    help="Answers from your own documents, offline, every sentence cited; and the local models behind them.",
    version=modelworks.__version__,
    help_format="plaintext",  # Markdown would cost a third of the start-up
)
# A lazily registered verb is named here in full: help is printed without importing it.
for name, home, summary in (
    ("ask", "documents:ask", "Answer a question from a folder of documents, with citations, or refuse."),
    ("index", "documents:index", "Read and index a folder; ask does this by itself."),
    ("docs", "documents:docs", "List, remove, restore and check the documents of a folder's index."),
    ("chat", "generate:chat", "Talk to a local model."),
    ("generate", "generate:generate", "Continue a prompt with a local model."),
    ("pull", "models:pull", "Fetch models into the cache."),
    ("models", "models:models", "List the models in the cache."),
):
    app.command(f"modelworks.cli.{home}", name=name, help=summary)


def fail(message: str, status: int = 1) -> NoReturn:
    """Print one line on standard error and leave."""
    print(f"modelworks: {message}", file=sys.stderr)
    raise SystemExit(status)


def main() -> None:
    """Run the command line; what the user can mend is one line, never a traceback."""
    try:
        app()
    except ModelworksError as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("stopped", 130)
    except BrokenPipeError:
        # The reader of our output went away (`| head`): leave quietly, without a second error at interpreter exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        fail(f"{where}{error.strerror or error}")
