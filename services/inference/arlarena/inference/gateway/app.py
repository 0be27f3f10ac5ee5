"""The gateway's ASGI application. The gateway forwards requests for model routes to replicas. A replica is an engine on
this machine or a remote policy server. The gateway itself handles requests for weight routes, so clients cannot reach
the weight routes of local engines.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import chain

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Route

from arlarena.inference.api.access import EVERYBODY, admin_access, model_access
from arlarena.inference.api.asgi import AnyResponse, ApiRequest, ApiResponse, Endpoint, Handler
from arlarena.inference.api.errors import RequestError
from arlarena.inference.api.request_limits import RequestLimits
from arlarena.inference.api.weight_routes import WeightRoutes
from arlarena.inference.app import MODEL_ROUTES, UPLOAD_ROUTE, VERSION, http_error, request_error
from arlarena.inference.gateway.adapters import Adapters
from arlarena.inference.gateway.engines import LocalEngine
from arlarena.inference.gateway.fleet import Fleet
from arlarena.inference.gateway.metrics import GatewayMetrics
from arlarena.inference.gateway.proxy import Proxy
from arlarena.inference.gateway.replica import Target
from arlarena.inference.settings import InferenceSettings
from arlarena.inference.weights.store import Store, intact_versions
from arlarena.inference.weights.versions import read_manifest
from arlarena.proto.policy import WeightInfo
from arlarena.proto.telemetry import Logger

# In tokens. If max_model_len is not set, the gateway's limits on requests to vLLM assume this context length.
DEFAULT_CONTEXT = 131_072
_encoder = msgspec.json.Encoder()


class Gateway:
    """The state of the gateway process."""

    def __init__(self, settings: InferenceSettings, fleet: Fleet, engines: list[LocalEngine], log: Logger) -> None:
        """`engines`: the local engines, in the order of `fleet.replicas`; empty if the replicas are remote."""
        self.settings, self.fleet, self.log = settings, fleet, log
        self.metrics = GatewayMetrics(fleet)
        limits = None
        if settings.engine == "vllm" and not settings.replica_urls:
            limits = RequestLimits.from_settings(
                settings, settings.max_slots, settings.max_model_len or DEFAULT_CONTEXT
            )
        waits = settings.request_timeout_s, settings.replica_wait_s
        self.proxy = Proxy(fleet, *waits, self.metrics, log, limits)
        self.weight_routes = WeightRoutes(Store(settings.weights_root, settings.keep_versions), fleet.serve)
        self.adapters = Adapters(fleet)
        self._engines = engines
        self._served = False

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Start the local engines and the monitoring of the replicas. Stop both at shutdown. If `weights_root` contains
        an intact version, the newest intact version becomes the target.
        """
        versions = intact_versions(self.settings.weights_root)
        newest = await asyncio.to_thread(next, versions, None)
        # The target is the version that all replicas must serve. It is set before the first check of a replica.
        # Otherwise a replica could become ready with another version.
        if newest is not None:
            self.fleet.target = Target(read_manifest(newest).label, newest)
        tasks = [asyncio.create_task(self.fleet.maintain())]
        if newest is not None:
            tasks.append(asyncio.create_task(self.fleet.restore(chain([newest], versions))))
        for engine, replica in zip(self._engines, self.fleet.replicas, strict=False):
            tasks.append(asyncio.create_task(engine.run(replica.mark_down)))
        try:
            yield
        finally:
            await asyncio.gather(*(engine.stop() for engine in self._engines))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*(replica.session.close() for replica in self.fleet.replicas))

    async def health(self, call: ApiRequest) -> AnyResponse:
        """Returns 200 if a replica accepts requests now or accepted requests at an earlier call of this route. Returns
        503 otherwise. Later failures of replicas do not change the status 200, because the gateway brings failed
        replicas back into service.
        """
        self._served = self._served or self._ready
        return self._state(self._served)

    async def readiness(self, call: ApiRequest) -> AnyResponse:
        """Returns 200 if at least one replica accepts requests, 503 otherwise."""
        return self._state(self._ready)

    @property
    def _ready(self) -> bool:
        return any(replica.accepts_requests for replica in self.fleet.replicas)

    def _state(self, healthy: bool) -> ApiResponse:
        replicas = [replica.report() for replica in self.fleet.replicas]
        if not healthy:
            states = ", ".join(f"{replica['name']} is {replica['state']}" for replica in replicas)
            raise RequestError(f"no replica is ready: {states}", status=503)
        label = self.fleet.target.label if self.fleet.target else None
        return ApiResponse(_encoder.encode({"status": "ok", "weight_version": label, "replicas": replicas}))

    async def weight_info(self, call: ApiRequest) -> AnyResponse:
        """Returns the label of the target, which is the version that all replicas must serve. If there is no target,
        returns the label of the version that the first available replica serves. If there is no available replica
        either, the status is 503.
        """
        versions = [replica.version for replica in self.fleet.replicas if replica.accepts_requests and replica.version]
        label = self.fleet.target.label if self.fleet.target else next(iter(versions), None)
        if label is None:
            raise RequestError("no replica is ready yet", status=503)
        return ApiResponse(_encoder.encode(WeightInfo(label)))

    async def version(self, call: ApiRequest) -> AnyResponse:
        """Returns the version of this server."""
        return ApiResponse(_encoder.encode({"version": VERSION, "engine": self.settings.engine}))

    async def prometheus_metrics(self, call: ApiRequest) -> AnyResponse:
        """Returns the Prometheus metrics of the gateway."""
        return ApiResponse(self.metrics.exposition(), content_type=b"text/plain; version=0.0.4; charset=utf-8")

    def forwarding_handler(self, path: str) -> Handler:
        """Returns a handler that forwards requests to replicas and records metrics. `path`: the route's path."""

        async def handler(call: ApiRequest) -> AnyResponse:
            began, status = time.perf_counter(), 500
            try:
                response = await self.proxy.forward(call)
                status = getattr(response, "status", 200)
                return response
            except RequestError as error:
                status = error.status
                raise
            finally:
                self.metrics.requests.labels(path, str(status)).inc()
                self.metrics.latency.labels(path).observe(time.perf_counter() - began)

        return handler


def create_app(gateway: Gateway) -> Starlette:
    """Build the ASGI application of a gateway."""
    settings, log = gateway.settings, gateway.log
    limit = settings.max_body_mb << 20
    public: dict[tuple[str, str], Handler] = {
        ("GET", "/health"): gateway.health,
        ("GET", "/ready"): gateway.readiness,
        ("GET", "/version"): gateway.version,
        ("GET", "/metrics"): gateway.prometheus_metrics,
        ("GET", "/weight_info"): gateway.weight_info,
    }
    admin: dict[tuple[str, str], Handler] = {
        ("POST", "/serve_weights"): gateway.weight_routes.serve,
        ("PUT", "/weights/{directory}"): gateway.weight_routes.announce,
        UPLOAD_ROUTE: gateway.weight_routes.receive,
        ("POST", "/v1/load_lora_adapter"): gateway.adapters.load,
        ("POST", "/v1/unload_lora_adapter"): gateway.adapters.unload,
    }
    forwarded: dict[tuple[str, str], Handler] = {
        (method, path): gateway.forwarding_handler(path) for method, path in MODEL_ROUTES
    }
    groups = ((public, EVERYBODY), (forwarded, model_access(settings)), (admin, admin_access(settings)))
    return Starlette(
        routes=[
            Route(path, Endpoint(run, None if (method, path) == UPLOAD_ROUTE else limit, log, access), methods=[method])
            for group, access in groups
            for (method, path), run in group.items()
        ],
        lifespan=gateway.lifespan,
        exception_handlers={RequestError: request_error, HTTPException: http_error},
    )
