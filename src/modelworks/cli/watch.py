"""`modelworks agents serve`: the web page on which agents are begun, watched, allowed and halted."""

from __future__ import annotations

import os
from pathlib import Path

from modelworks.cli.agent import JOURNAL, ModelOptions, RuleOptions, ToolOptions, made
from modelworks.cli.agents import Where
from modelworks.cli.serve import KEY_VARIABLE, Port, Several
from modelworks.core.errors import ConfigError

_MODEL, _TOOLS, _RULES = ModelOptions(), ToolOptions(), RuleOptions()
_LAST_S = 2  # seconds that a page which looks on has once the server is to end


def serve(
    *,
    use: ModelOptions = _MODEL,
    tools: ToolOptions = _TOOLS,
    rules: RuleOptions = _RULES,
    journal: Where = JOURNAL,
    memory: Path | None = None,
    host: str = "127.0.0.1",
    port: Port = 8000,
    api_key: Several = (),
    allow_host: Several = (),
) -> None:
    """Serve the page on which runs are begun, watched, allowed and halted. Ctrl-C stops it, and halts its runs.

    Runs that other processes write into the journal are shown as well.

    Parameters
    ----------
    journal
        The file that keeps everything that happens; it is made where it is missing.
    memory
        A file that remembers runs and facts for later ones; it is made where it is missing.
    host
        The address to serve at. Beyond this machine it takes an API key, for which the page asks.
    port
        The port to serve at; 0 takes a free one.
    api_key
        A key that people must give; several may be set. MODELWORKS_API_KEY sets one out of others' sight.
    allow_host
        A name that requests may call this server by, beside localhost and its address.
    """
    try:
        from modelworks.serve import server
    except ModuleNotFoundError as error:
        if error.name not in ("uvicorn", "starlette"):
            raise
        raise ConfigError(f"serving needs {error.name}: pip install 'modelworks[serve]'") from error
    if any(not key.strip() for key in api_key):
        raise ConfigError("--api-key is empty; give a key, or leave the option out")
    keys = [key.strip() for key in (*api_key, os.environ.get(KEY_VARIABLE, "")) if key.strip()]
    server.check_exposure(host, has_key=bool(keys))

    from modelworks.serve.agents import Agents, create_agents_app
    from modelworks.serve.service import LOOPBACK

    bound = server.bind(host, port)  # before the model is loaded: a port in use is told at once
    with made(use, tools, rules, journal, memory, page=True) as agent:
        app = create_agents_app(
            Agents(
                agent,
                api_keys=keys,
                hosts=(*LOOPBACK, host.lower(), *(each.lower() for each in allow_host)),
                any_address=not server.is_loopback(host),
            )
        )
        said = f"{agent.model.name} with {len(agent.tools) - 1} tools at {server.url(bound)}"
        running = server.make_server(app, shutdown_seconds=_LAST_S, on_start=lambda: print(said, flush=True))
        try:
            running.run([bound])
        except KeyboardInterrupt:  # uvicorn raises the signal again after a graceful end
            return
