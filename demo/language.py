"""The page's texts, in the visitor's language: `TEXTS`, `Translator`.

`gr.I18n` offers our own languages only among Gradio's, and Vietnamese is none of them (6.31), so the page is built in
English and the browser replaces its texts as it loads.
"""

import json
import re
from pathlib import Path

TEXTS = json.loads((Path(__file__).parent / "texts.json").read_text(encoding="utf-8"))


def language_of(request):
    """The language that a visitor's browser asks for (`request` is a `gr.Request`), of those that the page speaks."""
    language = request.headers.get("accept-language", "")[:2]
    return language if language in TEXTS else "en"


def in_language(sentence, language):
    """What is wrong with a photo, an English sentence, in the visitor's language, if the texts know the sentence."""
    for pattern, words in TEXTS[language].get("problems", {}).items():
        if found := re.fullmatch(pattern, sentence):
            return words.format(*found.groups())
    return sentence


class Translator:
    """Names the texts of components, and translates them when the page loads."""

    def __init__(self):
        self.named = []

    def __call__(self, component, **names):
        """Give a component its English texts; `names` are its options with the names of their texts. Returns it."""
        for option, name in names.items():
            setattr(component, option, TEXTS["en"][name])
        self.named.append((component, names))
        return component

    def on_load(self, page):
        updates = {
            language: [
                {"__type__": "update"} | {option: texts[name] for option, name in names.items()}
                for _, names in self.named
            ]
            for language, texts in TEXTS.items()
        }
        script = f"""() => {{
            const updates = {json.dumps(updates)};
            const language = navigator.language.split("-")[0];
            document.documentElement.lang = language in updates ? language : "en";
            return updates[document.documentElement.lang];
        }}"""
        page.load(None, None, [component for component, _ in self.named], js=script, api_visibility="private")
