"""Several copies of the server that answer as one, on one machine or on many, through Ray Serve (docs.ray.io/serve).

Ray's proxy takes the connections and gives each request to a replica; the answer streams through it. Ray is an extra,
imported when replicas are asked for and not before.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from modelworks.core.errors import ConfigError
from modelworks.models.fetch import pull
from modelworks.serve.app import create_app
from modelworks.serve.metrics import Family
from modelworks.serve.service import Settings

if TYPE_CHECKING:
    from starlette.applications import Starlette

APP: Final = "modelworks"
_PATIENCE: Final = 5.0  # seconds that replicas and clusters have to answer
_LAST_REQUESTS: Final = 30.0  # seconds that a replica has to finish what it has begun
_STICKY: Final = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"


class Replica:
    """One copy: the models and the application, in a process of Ray's."""

    def __init__(self, settings: Settings) -> None:
        self.service = settings.open(replicas=_counted)

    def __serve_build_asgi_app__(self) -> Starlette:
        """What `ray.serve.ingress` asks for."""
        return create_app(self.service)

    def counted(self) -> tuple[str, list[Family]]:
        """The replica's name, and what it counts."""
        from ray import serve

        return serve.get_replica_context().replica_id.unique_id, self.service.families()


async def _counted() -> Mapping[str, Sequence[Family]]:
    """What every replica counts, by its name; asked from within one of them. One that is just ending is left out."""
    from ray import serve

    asked = serve.get_app_handle(APP).broadcast("counted")
    found = await asked.results_async(timeout_s=_PATIENCE, return_exceptions=True)
    return dict(sorted(each for each in found if not isinstance(each, BaseException)))


def serve_replicas(
    settings: Settings, replicas: int, host: str, port: int, *, sticky: bool = False, on_start: Callable[[], None]
) -> None:
    """Serve with so many replicas until a signal comes; on the cluster at RAY_ADDRESS, or else on this machine.

    With `sticky`, requests with the same header `x-session-id` go to the same replica, which has their prompts in its
    cache. Raises `ConfigError` where Ray is missing, the cluster cannot be reached or is too small, or a replica does
    not start, and what `pull` raises.
    """
    try:
        import ray
        from ray import serve
    except ModuleNotFoundError as error:
        raise ConfigError(f"replicas need {error.name}: pip install 'modelworks[ray]'") from error
    for model in (settings.model, settings.embedder):
        pull(model)  # here once, and not by every replica at the same time
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would tell its makers
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    address = os.environ.get("RAY_ADDRESS")
    if address:
        _check_reachable(address)
    try:
        ray.init(
            address or "local",
            include_dashboard=None if address else False,
            logging_level="error",
            log_to_driver=False,  # Ray keeps what its processes say in files, tracebacks included
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"cannot reach the Ray cluster at {address}: {error}") from error
    try:
        nodes = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]
        application = _application(settings, replicas, threads_each(nodes, replicas), sticky=sticky)
        quiet = {"log_level": "WARNING", "enable_access_log": False}
        serve.start(http_options={"host": host, "port": port}, logging_config=quiet)
        try:
            _run(application, quiet)
            on_start()
            _wait()
        finally:
            serve.delete(APP)  # when they have finished what they have begun; what else a cluster serves goes on
    finally:
        ray.shutdown()


def _run(application: Any, logging_config: Mapping[str, Any]) -> None:
    """Start the replicas. Raises `ConfigError` with the last thing that one said that does not start."""
    from ray import serve

    try:
        serve.run(application, name=APP, route_prefix="/", logging_config=dict(logging_config))
    except RuntimeError as error:
        deployments = serve.status().applications[APP].deployments.values()
        said = [line.strip() for each in deployments for line in each.message.splitlines() if line.strip()]
        reason = re.sub(r"^modelworks\.[\w.]+Error: ", "", said[-1] if said else str(error))
        raise ConfigError(f"the replicas did not start: {reason}") from error


def _application(settings: Settings, replicas: int, threads: int, *, sticky: bool) -> Any:
    from ray import serve

    variables = {"MODELWORKS_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    options: dict[str, Any] = {"request_router_config": {"request_router_class": _STICKY}} if sticky else {}
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name="Replica",
        num_replicas=replicas,
        ray_actor_options={"num_cpus": threads, "runtime_env": {"env_vars": variables}},
        max_ongoing_requests=settings.limits.in_flight,
        graceful_shutdown_timeout_s=_LAST_REQUESTS,
        max_constructor_retry_count=1,
        **options,
    )
    return deployment.bind(settings)


def _check_reachable(address: str) -> None:
    """Raise `ConfigError` where nobody listens, which Ray itself would wait out for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdecimal():  # such as "auto", which Ray makes something of
        return
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(f"no Ray cluster answers at RAY_ADDRESS {address}: {error}") from error


def threads_each(nodes: Sequence[float], replicas: int) -> int:
    """The most processors that every replica can have, by the number that each machine has.

    Raises `ConfigError` where there are fewer processors than replicas.
    """
    for threads in range(int(max(nodes, default=0)), 0, -1):
        if sum(int(cpus // threads) for cpus in nodes) >= replicas:
            return threads
    raise ConfigError(f"{replicas} replicas need a processor each; there are {int(sum(nodes))}: lower --replicas")


def _wait() -> None:
    """Until Ctrl-C or a polite request to end."""
    ended = threading.Event()
    previous = {each: signal.signal(each, lambda *_: ended.set()) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        ended.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
