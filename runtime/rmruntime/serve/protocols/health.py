"""Probes: whether the process lives, whether it is ready for requests, and which version it is."""

from rmruntime.serve.http_messages import Answer, HttpRequest
from rmruntime.serve.problems import own_error_body
from rmruntime.serve.protocols.base import Protocol, Route
from rmruntime.serve.service import Service
from rmruntime.version import __version__


async def health(request: HttpRequest, service: Service) -> Answer:
    """200 with an empty body, as vLLM and TEI have it: nothing is computed."""
    return Answer()


async def ready(request: HttpRequest, service: Service) -> Answer:
    """200 once every model is loaded, 503 before and once the server ends."""
    loaded = {name: model.is_loaded for name, model in service.models.items()}
    content = {"ready": service.is_ready, "draining": service.draining, "models": loaded}
    return Answer.of_json(content, 200 if service.is_ready else 503)


async def version(request: HttpRequest, service: Service) -> Answer:
    """The version of this package."""
    return Answer.of_json({"version": __version__, "server": "rmruntime"})


PROTOCOL = Protocol(
    name="health",
    routes=(
        Route("GET POST", "/health", health, body="none", open=True, quiet=True),
        Route("GET POST", "/ping", health, body="none", open=True, quiet=True),
        Route("GET", "/healthz", health, body="none", open=True, quiet=True),
        Route("GET", "/ready", ready, body="none", open=True, quiet=True),
        Route("GET", "/version", version, body="none"),
    ),
    error_body=own_error_body,
)
