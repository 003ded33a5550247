"""The `modelworks` command: each verb is one function, imported only when it is called."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from cyclopts import App, Parameter
from cyclopts.exceptions import CycloptsError, UnusedCliTokensError

import modelworks
from modelworks.core.errors import ModelworksError
from modelworks.core.log import escaped

USAGE_ERROR = 2
STOPPED = 130  # what shells report for SIGINT, and 141 for SIGPIPE
READER_GONE = 141

app = App(
    name="modelworks",
    help="Answers from your own documents, offline, every sentence cited; and the local models behind them.",
    version=modelworks.__version__,
    help_format="plaintext",  # Markdown would cost a third of the start-up
    default_parameter=Parameter(negative=()),  # no --no-FLAG beside every --FLAG
    suppress_keyboard_interrupt=False,  # `main` says that it stopped
)
# A lazily registered verb is named here in full: help is printed without importing it.
for name, home, summary in (
    ("ask", "documents:ask", "Answer a question from a folder of documents, with citations, or refuse."),
    ("index", "documents:index", "Read and index a folder; ask does this by itself."),
    ("docs", "documents:docs", "List, remove, restore and check the documents of a folder's index."),
    ("chat", "generate:chat", "Talk to a local model."),
    ("generate", "generate:generate", "Continue a prompt with a local model."),
    ("serve", "serve:serve", "Serve a model and a folder of documents over HTTP, with a web page."),
    ("agent", "agent:agent", "Have a model work on a task with tools, under a policy, in front of a journal."),
    ("corpus", "corpus:corpus", "Prepare a clean, de-duplicated corpus from files of text, code and documents."),
    ("train", "train:train", "Train a model by a recipe: pre-training, fine-tuning."),
    ("report", "report:report", "Write a page about a training run, or several side by side."),
    (
        "constitution",
        "constitution:constitution",
        "Have a model revise its answers by written principles, and a judge choose.",
    ),
    ("audit", "audit:audit", "Look for reward hacking in a run, and for what a reward gets wrong."),
    ("mcp", "mcp:mcp", "Serve tools over the Model Context Protocol, and look at the tools of other servers."),
    ("bench", "bench:bench", "Measure a model's speed and memory, beside llama.cpp and transformers."),
    ("sweep", "sweep:sweep", "Train small models of many sizes, and predict a larger one's loss."),
    ("merge", "merge:merge", "Make a model of a model and its adapters."),
    ("plan", "plan:plan", "What to train: sizes, tokens, FLOPs, memory and time; and laws from runs."),
    ("pull", "models:pull", "Fetch models into the cache."),
    ("models", "models:models", "List the models in the cache."),
):
    app.command(f"modelworks.cli.{home}", name=name, help=summary)
data = App(name="data", help="Make training data: tokenise files, look at samples, train a tokenizer.")
for name, home, summary in (
    ("tokenize", "data:tokenize", "Turn files of training data into tokens on disk."),
    ("show", "data:show", "Show what a model learns from the first samples of a file."),
    ("tokenizer", "data:tokenizer", "Train a tokenizer on files."),
):
    data.command(f"modelworks.cli.{home}", name=name, help=summary)
app.command(data)
feedback = App(name="feedback", help="Preferences of people: make comparisons, judge them on a web page, export them.")
for name, home, summary in (
    ("sample", "feedback:sample", "Have prompts answered twice, and keep the answers to be compared."),
    ("import", "feedback:import_", "Take pairs of chosen and rejected answers, to be judged anew."),
    ("collect", "feedback:collect", "Serve the web page on which people compare the answers."),
    ("export", "feedback:export", "Write the judgements as training data."),
    ("agreement", "feedback:agreement", "Show whether the people and their groups agree."),
):
    feedback.command(f"modelworks.cli.{home}", name=name, help=summary)
app.command(feedback)
agents = App(name="agents", help="What agents did: list, resume, replay and audit their runs, and halt one.")
for name, home, summary in (
    ("list", "agents:list_runs", "List runs, and how each stands."),
    ("resume", "agents:resume", "Go on with a run that was interrupted, stopped, or asked something."),
    ("serve", "agents:serve", "Serve the web page on which runs are begun, watched, allowed and halted."),
    ("replay", "agents:replay", "Show again what happened in a run."),
    ("audit", "agents:audit", "Check that the journal is as it was written, and explain every action."),
    ("halt", "agents:halt", "Halt a run that another process carries out."),
):
    agents.command(f"modelworks.cli.{home}", name=name, help=summary)
app.command(agents)


def main() -> None:
    """Run the command line; what the user can mend is one line, never a traceback."""
    # What the terminal's encoding lacks, or a file name that is not text, is shown as an escape.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        try:
            app(sys.argv[1:], exit_on_error=False, print_error=False, verbose=False)
        finally:
            sys.stdout.flush()  # here, where a full disk or a closed pipe can still be told
    except CycloptsError as error:
        fail(_usage(error), USAGE_ERROR)
    except ModelworksError as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("stopped", STOPPED)
    except BrokenPipeError:  # the reader of our output has enough (`| head`)
        _discard_output()
        raise SystemExit(READER_GONE) from None
    except OSError as error:
        _discard_output()
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        fail(f"{where}{error.strerror or error}")


def fail(message: str, status: int = 1) -> NoReturn:
    """Print one line on standard error and leave."""
    print(f"modelworks: {escaped(message)}", file=sys.stderr)
    raise SystemExit(status)


def _usage(error: CycloptsError) -> str:
    said = str(error)
    if isinstance(error, UnusedCliTokensError):
        assert error.unused_tokens
        said = f"{error.unused_tokens[0]!r} is one argument too many; a text with spaces goes in quotes."
    return f"{said} `{' '.join(['modelworks', *(error.command_chain or ()), '--help'])}` shows how it is used."


def _discard_output() -> None:
    """Let what is still buffered for standard output go nowhere, or the interpreter's exit would fail on it again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
