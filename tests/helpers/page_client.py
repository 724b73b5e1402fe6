"""An HTTP client for the running page that can send arbitrary requests: `PageClient`."""

import json
import uuid

import httpx

API = "gradio_api"
SETTINGS = [1, 6, 0, 1]  # beams, words, temperature, top_p


class PageClient:
    def __init__(self, address, cookies=None):
        self.http = httpx.Client(base_url=address, timeout=300, cookies=cookies, trust_env=False)
        self.session = uuid.uuid4().hex
        self.config = None

    def upload(self, name, content):
        """Upload a file as the page does. Returns the response."""
        return self.http.post(f"{API}/upload", files={"files": (name, content)})

    def upload_photo(self, name, content):
        """Upload a photo. Returns the file data that the page sends to its events."""
        response = self.upload(name, content)
        response.raise_for_status()
        return file_data(response.json()[0])

    def caption(self, photo, *settings, text="", language=None):
        """Call the endpoint `/caption`. Returns (event, data), or (status code, text) if the call is rejected.

        `language` is one of a captioner that speaks several; by default none is sent, which means the first.
        """
        data = [photo, *(settings or SETTINGS), text] + ([language] if language else [])
        response = self.http.post(f"{API}/call/caption", json={"data": data})
        if response.status_code != 200:
            return response.status_code, response.text
        stream = self.http.get(f"{API}/call/caption/{response.json()['event_id']}").text
        events = [block.split("\n", 1) for block in stream.strip().split("\n\n") if "heartbeat" not in block]
        event, data = events[-1]
        data = json.loads(data.removeprefix("data: "))
        return event.removeprefix("event: "), data[0] if event.endswith("complete") else data

    def trigger(self, elem_id, event, *data, event_data=None):
        """Trigger an event of the page. Returns its output values, or {"error": ...}."""
        *_, end = self.stream(elem_id, event, *data, event_data=event_data)
        return end.get("output", {}).get("data") or {"error": end.get("output", end)}

    def stream(self, elem_id, event, *data, event_data=None):
        """Trigger an event of the page, and yield the messages of the queue until it has completed."""
        if self.config is None:
            self.config = self.http.get("config").json()
        component_ids = {component["props"].get("elem_id"): component["id"] for component in self.config["components"]}
        (fn_index,) = {
            dependency["id"]
            for dependency in self.config["dependencies"]
            if [component_ids[elem_id], event] in dependency["targets"] and dependency["backend_fn"]
        }
        body = {"data": data, "fn_index": fn_index, "session_hash": self.session, "event_data": event_data}
        response = self.http.post(f"{API}/queue/join", json=body | {"trigger_id": component_ids[elem_id]})
        if response.status_code != 200:
            yield {"rejected": response.text}
            return
        with self.http.stream("GET", f"{API}/queue/data", params={"session_hash": self.session}) as stream:
            for line in stream.iter_lines():
                message = json.loads(line.removeprefix("data: ")) if line else {}
                yield message
                if message.get("msg") in ("process_completed", "unexpected_error"):
                    return


def file_data(path, **changes):
    """A file in the format of Gradio's API."""
    return {"path": path, "meta": {"_type": "gradio.FileData"}, "orig_name": "photo.jpg"} | changes
