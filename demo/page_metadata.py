"""What other sites and messengers show of a link to the page: its title, description and address."""

import re
from html import escape

from starlette.datastructures import Headers, MutableHeaders

# Gradio (6.31) writes its own into every page, and offers no option for most of them.
GRADIOS_OWN = re.compile(rb'\s*<meta\s+(?:property="og:|name="twitter:)[^>]*>')


class MetadataMiddleware:
    """Replaces Gradio's description of the page, "Click to try out the app!", by its own."""

    def __init__(self, app, title, description):
        self.app, self.title, self.description = app, title, description

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        start, chunks = None, []

        async def send_described(message):
            nonlocal start
            if message["type"] == "http.response.start" and is_page(message):
                start = message  # its length is known at the end
            elif start is None:
                await send(message)
            else:
                chunks.append(message.get("body", b""))
                if not message.get("more_body"):
                    body = self.describe(b"".join(chunks), page_url(scope))
                    MutableHeaders(scope=start)["content-length"] = str(len(body))
                    await send(start)
                    await send({"type": "http.response.body", "body": body})

        await self.app(scope, receive, send_described)

    def describe(self, html, url):
        properties = {"title": self.title, "description": self.description, "type": "website", "url": url}
        tags = "".join(f'<meta property="og:{name}" content="{escape(text)}">' for name, text in properties.items())
        tags += f'<meta name="description" content="{escape(self.description)}">'
        return GRADIOS_OWN.sub(b"", html).replace(b"<head>", b"<head>" + tags.encode(), 1)


def is_page(message):
    return Headers(raw=message["headers"]).get("content-type", "").startswith("text/html")


def page_url(scope):
    """The address of the page as the visitor's browser knows it, as far as proxies tell."""
    headers = Headers(scope=scope)
    scheme = headers.get("x-forwarded-proto", scope["scheme"])
    host = headers.get("x-forwarded-host", headers.get("host", ""))
    return f"{scheme}://{host}{scope.get('root_path', '')}/"
