"""A visitor who talks to the running page without a browser, and may say anything: `Visitor`."""

import json
import uuid

import httpx

API = "gradio_api"
SETTINGS = [1, 6, 0, 1]  # beams, words, temperature, top_p


class Visitor:
    def __init__(self, address, cookies=None):
        self.http = httpx.Client(base_url=address, timeout=300, cookies=cookies, trust_env=False)
        self.session = uuid.uuid4().hex
        self.seen = None

    def upload(self, name, content):
        """The answer to an upload as the page does it."""
        return self.http.post(f"{API}/upload", files={"files": (name, content)})

    def brought(self, name, content):
        """A photo as the page sends it on, after its upload."""
        answer = self.upload(name, content)
        answer.raise_for_status()
        return photo(answer.json()[0])

    def ask(self, photo, *settings, text=""):
        """What the endpoint `/caption` answers: (event, what it says)."""
        data = [photo, *(settings or SETTINGS), text]
        answer = self.http.post(f"{API}/call/caption", json={"data": data})
        if answer.status_code != 200:
            return answer.status_code, answer.text
        stream = self.http.get(f"{API}/call/caption/{answer.json()['event_id']}").text
        said = [block.split("\n", 1) for block in stream.strip().split("\n\n") if "heartbeat" not in block]
        event, data = said[-1]
        data = json.loads(data.removeprefix("data: "))
        return event.removeprefix("event: "), data[0] if event.endswith("complete") else data

    def press(self, element, event, *data, event_data=None):
        """What the page's own event gives: its values, or {"error": ...}."""
        *_, end = self.told(element, event, *data, event_data=event_data)
        return end.get("output", {}).get("data") or {"error": end.get("output", end)}

    def told(self, element, event, *data, event_data=None):
        """Yields what the page's queue tells whoever presses a button, until the end."""
        if self.seen is None:
            self.seen = self.http.get("config").json()
        numbers = {part["props"].get("elem_id"): part["id"] for part in self.seen["components"]}
        (number,) = {
            dependency["id"]
            for dependency in self.seen["dependencies"]
            if [numbers[element], event] in dependency["targets"] and dependency["backend_fn"]
        }
        body = {"data": data, "fn_index": number, "session_hash": self.session, "event_data": event_data}
        answer = self.http.post(f"{API}/queue/join", json=body | {"trigger_id": numbers[element]})
        if answer.status_code != 200:
            yield {"refused": answer.text}
            return
        with self.http.stream("GET", f"{API}/queue/data", params={"session_hash": self.session}) as stream:
            for line in stream.iter_lines():
                told = json.loads(line.removeprefix("data: ")) if line else {}
                yield told
                if told.get("msg") in ("process_completed", "unexpected_error"):
                    return


def photo(path, **changes):
    """A file as Gradio names it."""
    return {"path": path, "meta": {"_type": "gradio.FileData"}, "orig_name": "photo.jpg"} | changes
