"""The page's texts in English and Vietnamese: `TEXTS`, `Translator`.

`gr.I18n` (6.31) supports only the languages that Gradio itself is translated into, and Vietnamese is not one of them.
The page is therefore built in English, and the browser replaces its texts when it loads.
"""

import json
import re
from pathlib import Path

from demo.scripts import load

TEXTS = json.loads((Path(__file__).parent / "texts.json").read_text(encoding="utf-8"))


def get_language(request):
    """The language that the visitor has chosen on the page, or that the browser prefers, or "en" if there are no texts.

    `request` is a `gr.Request`.
    """
    wanted = (request.cookies.get("language"), request.headers.get("accept-language", "")[:2])
    return next((language for language in wanted if language in TEXTS), "en")


def translate_error(message, language):
    """Translate the English message of a `PhotoError`, or return it unchanged if there is no translation."""
    for pattern, translation in TEXTS[language].get("errors", {}).items():
        if match := re.fullmatch(pattern, message):
            return translation.format(*match.groups())
    return message


class Translator:
    """Sets the texts of components, and translates them when the page loads."""

    def __init__(self):
        self.components = []

    def __call__(self, component, **keys):
        """Set the component's English texts and return it. `keys` maps its properties to keys of `TEXTS`."""
        for name, key in keys.items():
            setattr(component, name, TEXTS["en"][key])
        self.components.append((component, keys))
        return component

    def on_load(self, page):
        updates = {
            language: [
                {"__type__": "update"} | {name: texts[key] for name, key in keys.items()} for _, keys in self.components
            ]
            for language, texts in TEXTS.items()
        }
        script = f"""async () => {{
            const updates = {json.dumps(updates)};
            return updates[(await {load("i18n.js")}).language];
        }}"""
        page.load(None, None, [component for component, _ in self.components], js=script, api_visibility="private")
