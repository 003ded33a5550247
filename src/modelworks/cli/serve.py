"""`modelworks serve`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from modelworks.cli.documents import check_folder, default_store
from modelworks.core.errors import ConfigError

if TYPE_CHECKING:
    from modelworks.serve.documents import Documents

_KEY_VARIABLE = "MODELWORKS_API_KEY"
Several = Annotated[tuple[str, ...], Parameter(show_default=False)]
Port = Annotated[int, Parameter(validator=Number(gte=0, lte=65535))]
Amount = Annotated[int, Parameter(validator=Number(gte=1))]
Seconds = Annotated[float, Parameter(validator=Number(gt=0))]


def serve(
    model: str = "starter",
    /,
    *,
    docs: Path | None = None,
    host: str = "127.0.0.1",
    port: Port = 8000,
    api_key: Several = (),
    name: str | None = None,
    embedder: str = "starter-embedder",
    weights: Literal["q8", "q4"] | None = None,
    adapters: Several = (),
    kv_mib: Amount = 512,
    max_running: Amount = 32,
    max_queued: Amount = 256,
    max_body_mib: Amount = 8,
    time_limit: Seconds = 600.0,
    allow_host: Several = (),
    store: Path | None = None,
) -> None:
    """Serve a model over HTTP as OpenAI's API does, and a web page; with --docs, questions to a folder as well.

    Ctrl-C stops it after the answers that are under way.

    Parameters
    ----------
    model
        A folder, a .gguf file, hf:org/name, pypi:package or starter.
    docs
        A folder of documents to answer from; it is indexed in the background.
    host
        The address to serve at. Beyond this machine it takes an API key.
    port
        The port to serve at; 0 takes a free one.
    api_key
        A key that requests must bring; several may be given. MODELWORKS_API_KEY sets one out of others' sight.
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
    allow_host
        A name that requests may call this server by, beside localhost and its address.
    store
        The folder of the documents' index, where it is not to be in the cache.
    """
    keys = [key.strip() for key in (*api_key, os.environ.get(_KEY_VARIABLE, "")) if key.strip()]
    if any(not key.strip() for key in api_key):
        raise ConfigError("--api-key is empty; give a key, or leave the option out")
    try:
        from modelworks.serve import server
    except ModuleNotFoundError as error:
        if error.name not in ("uvicorn", "starlette"):
            raise
        raise ConfigError(f"serving needs {error.name}: pip install 'modelworks[serve]'") from error
    server.check_exposure(host, has_key=bool(keys))
    named = _named(adapters)
    documents = None if docs is None else _documents(docs, store)
    bound = server.bind(host, port)  # before the model is loaded: a port in use is told at once

    from modelworks.engine.engine import Engine
    from modelworks.retrieval.embed import EncoderEmbedder
    from modelworks.serve.app import create_app
    from modelworks.serve.service import Limits, Service, model_name

    limits = Limits(body_bytes=max_body_mib << 20, seconds=time_limit)
    engine = Engine(model, kv_bytes=kv_mib << 20, weights=weights, max_running=max_running, max_queued=max_queued)
    service = Service(
        engine=engine,
        name=name or model_name(model),
        embedder=EncoderEmbedder(embedder),
        embedder_name=model_name(embedder),
        documents=documents,
        limits=limits,
        api_keys=keys,
        hosts=(*server.LOOPBACK, host.lower(), *(each.lower() for each in allow_host)),
        any_address=not server.is_loopback(host),
    )
    for adapter, path in named.items():
        if adapter in (service.name, service.embedder_name):
            raise ConfigError(f"--adapters: {adapter!r} is what a model is called; give the adapter another name")
        engine.add_adapter(adapter, path)
    service.tokenizer  # noqa: B018 - a model without one is refused now, not at the first request

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
