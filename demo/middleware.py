"""ASGI middleware for a public page: security headers, request size limits, blocked routes."""

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse

from demo.uploads import total_upload_bytes

MAX_REQUEST_BYTES = 2_000_000  # except uploads
MAX_UPLOAD_BYTES = 5_000_000_000  # all visitors' files together
UPLOAD_ROUTE = "/upload"
# Gradio's recorder and its proxy for other servers, which this page does not use.
BLOCKED_ROUTES = ("/process_recording", "/proxy=", "/file=http:", "/file=https:", "/stream/")
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
        path = scope["path"].lower().replace("/gradio_api", "", 1)
        if path.startswith(BLOCKED_ROUTES):
            return await PlainTextResponse("This page does not serve this route.", 404)(scope, receive, send)
        remaining = MAX_REQUEST_BYTES
        if path.startswith(UPLOAD_ROUTE):
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
