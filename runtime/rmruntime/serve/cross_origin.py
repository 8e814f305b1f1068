"""Which web pages may call the server from a browser (CORS): their origins, and what browsers ask beforehand."""

from collections.abc import Mapping, Sequence

from rmruntime.serve.http_messages import Answer, HttpRequest

_METHODS = "GET, POST, PUT, DELETE"
_HEADERS = "authorization, content-type, x-api-key, x-request-id, x-request-timeout-ms"
_EXPOSED = "x-request-id, x-bundle-digest, x-engine, x-precision, x-session-affinity, retry-after"
_MAX_AGE = "600"  # seconds for which a browser need not ask again


def preflight(request: HttpRequest, origins: Sequence[str]) -> Answer | None:
    """The answer to a browser that asks whether it may call; None for any other request, and where CORS is off."""
    asked = request.method == "OPTIONS" and "access-control-request-method" in request.headers
    if not asked or not origins:
        return None
    allowed = origin_headers(request.headers, origins)
    if not allowed:
        return Answer(status=403)
    more = {
        "access-control-allow-methods": _METHODS,
        "access-control-allow-headers": _HEADERS,
        "access-control-max-age": _MAX_AGE,
    }
    return Answer(status=204, headers={**allowed, **more})


def origin_headers(headers: Mapping[str, str], origins: Sequence[str]) -> dict[str, str]:
    """What an answer says to the browser of a page from an allowed origin; nothing to others.

    >>> origin_headers({"origin": "https://a.example"}, ["https://a.example"])["access-control-allow-origin"]
    'https://a.example'
    >>> origin_headers({"origin": "https://b.example"}, ["https://a.example"])
    {}
    """
    origin = headers.get("origin")
    if origin is None or not ("*" in origins or origin in origins):
        return {}
    allowed = "*" if "*" in origins else origin
    return {"access-control-allow-origin": allowed, "access-control-expose-headers": _EXPOSED, "vary": "origin"}
