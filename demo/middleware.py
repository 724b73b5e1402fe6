"""ASGI middleware for a public page: security headers, request size limits, and only the routes that it needs."""

import itertools

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.routing import Match

from demo.scripts import ROUTE
from demo.uploads import total_upload_bytes

MAX_REQUEST_BYTES = 2_000_000  # except uploads
MAX_UPLOAD_BYTES = 5_000_000_000  # all visitors' files together
API = "/gradio_api"
UPLOAD_ROUTE = f"{API}/upload"
MCP_ROUTE = f"{API}/mcp"
FILE_PARAMETER = "path_or_url"  # Gradio redirects to it if it is a URL
# Gradio has more: its recorder, a proxy for other servers, an editor of the page's code. A new one is closed as well.
OPEN_ROUTES = {
    "/",
    *("/config", "/login", "/logout", "/theme.css", "/openapi.json"),
    *("/assets/{path:path}", "/static/{path:path}", "/svelte/{path:path}"),
    *("/favicon.ico", "/manifest.json", "/pwa_icon", "/pwa_icon/{size}", "/robots.txt"),
    *(f"{API}/{name}" for name in ("app_id", "info", "login_check", "openapi.json", "theme.css", "token", "user")),
    *(f"{API}/{name}" for name in ("cancel", "heartbeat/{session_hash}", "reset", "startup-events")),
    *(f"{API}/{name}" for name in ("file={path_or_url:path}", "file/{path:path}", "upload", "upload_progress")),
    *(f"{API}/{name}" for name in ("api/{api_name}", "call/{api_name}", "call/{api_name}/{event_id}")),
    *(f"{API}/{name}" for name in ("call/v2/{api_name}", "call/v2/{api_name}/{event_id}", "run/{api_name}")),
    *(f"{API}/{name}" for name in ("queue/data", "queue/join", "queue/status")),
    f"{API}/component_server",  # the functions of "How it works"
    ROUTE,
}
HEADERS = {
    "X-Content-Type-Options": "nosniff",  # browsers must not execute uploads that are served as text
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "geolocation=(), microphone=(), payment=(), usb=()",
}


class SecurityMiddleware:
    """Blocks routes that the page does not use, limits the size of requests and adds security headers."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        route, parameters = find_route(scope)
        if route and not is_open(route, parameters):
            return await PlainTextResponse("This page does not serve this route.", 404)(scope, receive, send)
        remaining = MAX_REQUEST_BYTES
        if route == UPLOAD_ROUTE:
            remaining = MAX_UPLOAD_BYTES - total_upload_bytes()
            if remaining <= 0:
                response = PlainTextResponse("The storage for uploads is full; try again in an hour.", 503)
                return await response(scope, receive, send)

        async def limited_receive():
            nonlocal remaining
            message = await receive()
            remaining -= len(message.get("body", b""))
            if remaining < 0:
                raise HTTPException(413, "The request is too large; send less data at once.")
            return message

        async def send_with_headers(message):
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self.app(scope, limited_receive, send_with_headers)
        except HTTPException as error:
            await PlainTextResponse(error.detail, error.status_code)(scope, receive, send)


def find_route(scope):
    """The route that the application matches with a request, as a template such as "/gradio_api/upload", and its
    parameters; None and {} if there is none.

    Comparing the request's path instead would overlook a root path, which the application may or may not strip.
    """
    routes = scope["app"].router.routes
    # Newer versions of FastAPI keep an included router as one route, with the router inside.
    nested = [outer.original_router.routes if hasattr(outer, "original_router") else [outer] for outer in routes]
    for route in itertools.chain.from_iterable(nested):
        match, child = route.matches(scope)
        if match == Match.FULL:
            return route.path.rstrip("/") or "/", child.get("path_params", {})
    return None, {}


def is_open(route, parameters):
    target = parameters.get(FILE_PARAMETER, "").lower()
    return route.startswith(MCP_ROUTE) or (route in OPEN_ROUTES and not target.startswith(("http:", "https:")))
