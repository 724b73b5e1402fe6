"""Local web servers for tests; the one of photos can be slow, and fail on purpose."""

import contextlib
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer


class LocalServer:
    """Serves at `address` within a `with` statement, on a free port.

    Args:
        handler: a subclass of `BaseHTTPRequestHandler`, which finds this object in its attribute `owner`.
    """

    def __init__(self, handler):
        self.server = Server(("127.0.0.1", 0), type("Handler", (handler,), {"owner": self}))
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


class FileHandler(SimpleHTTPRequestHandler):
    def __init__(self, *arguments):
        super().__init__(*arguments, directory=self.owner.folder)

    def do_GET(self):
        path = self.path.split("?")[0].lstrip("/")
        if path in self.owner.held:
            self.owner.held[path].wait()
        if path not in self.owner.others:
            return super().do_GET()
        content, content_type = self.owner.others[path]
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def copyfile(self, source, outputfile):
        content = source.read()
        self.owner.sent += len(content)
        outputfile.write(content)

    def log_message(self, *arguments):
        pass


class FileServer(LocalServer):
    """Serves the files of a folder, as `python -m http.server` does.

    `others` are served in the place of some: {path: (content, content type)}. A path in `held` is not answered until
    its `threading.Event` is set. `sent` counts the bytes of the files.
    """

    def __init__(self, folder):
        self.folder, self.others, self.held, self.sent = folder, {}, {}, 0
        super().__init__(FileHandler)


class PhotoServer(LocalServer):
    """`with PhotoServer(photos) as server:` serves {path: bytes}.

    `faults` lists, for a path, what the next requests get instead of the photo: a status, or "cut" for half of the
    bytes. `requests` counts the requests of each path, and `most` is the largest number of simultaneous ones.
    """

    def __init__(self, photos, wait=0):
        self.photos, self.wait, self.faults, self.times = photos, wait, {}, {}
        self.requests, self.at_once, self.most = Counter(), 0, 0
        self.lock = threading.Lock()
        super().__init__(Handler)


class EndlessServer(LocalServer):
    """Sends zeros until the other side hangs up; `sent` counts the bytes."""

    def __init__(self):
        self.sent = 0
        super().__init__(EndlessHandler)


class EndlessHandler(BaseHTTPRequestHandler):
    owner = None

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):
            while True:
                self.owner.sent += self.wfile.write(bytes(2**16))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner = None

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        server, path = self.owner, self.path.lstrip("/")
        with server.lock:
            server.requests[path] += 1
            server.times.setdefault(path, []).append(time.monotonic())
            server.at_once += 1
            server.most = max(server.most, server.at_once)
            fault = server.faults[path].pop(0) if server.faults.get(path) else None
        time.sleep(server.wait)
        with server.lock:
            server.at_once -= 1
        content = server.photos.get(path)
        status = fault if isinstance(fault, int) else 404 if content is None else 200
        content = content if status == 200 else b"none"
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if fault == "cut":
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        else:
            self.wfile.write(content)
