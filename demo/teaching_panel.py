"""The panel in which a visitor teaches a copy of the captioner from the corrections, and decides what becomes of it."""

from html import escape

import gradio as gr

from demo.i18n import TEXTS, get_language
from demo.predict import MAX_DISPLAY_SIDE
from demo.teaching import STEPS, TeachingError, unknown_words
from demo.uploads import open_upload
from modeling_captioner import PhotoError, explain, open_photo

PRIVATE = {"api_visibility": "private", "show_progress": "hidden"}
FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")  # headers that a proxy adds


def add_teaching_panel(teacher, captioner, photo, settings, get_captioner, page, translate):
    """Add the panel below the corrections. `captioner` is the page's `Batcher`, `teacher` a `Teacher`."""
    first_model = captioner.model
    with translate(gr.Accordion(open=False, elem_id="teaching"), label="teaching"):
        translate(gr.Markdown(), value="teach_intro")
        with gr.Row():
            learn_button = translate(gr.Button(variant="primary", elem_id="teach"), value="teach")
            stop_button = translate(gr.Button(visible=False, elem_id="teach_stop"), value="teach_stop")
        status = gr.HTML(elem_id="teach_status", apply_default_css=False)
        with gr.Row(visible=False, elem_id="teach_choices") as choices:
            keep_button = translate(gr.Button(elem_id="teach_keep"), value="teach_keep")
            serve_button = translate(gr.Button(elem_id="teach_serve"), value="teach_serve")
            discard_button = translate(gr.Button(elem_id="teach_discard"), value="teach_discard")
        answer = gr.Markdown(elem_id="teach_answer")

    def learn(request: gr.Request, path, *values):
        check_request(teacher, request)
        texts, kwargs = TEXTS[get_language(request)], get_captioner(*values)[1]

        def show(content, running=False):
            buttons = {learn_button: gr.Button(interactive=not running), stop_button: gr.Button(visible=running)}
            return buttons | {status: content, choices: gr.Row(visible=teacher.model is not None), answer: ""}

        try:
            shown = open_shown_photo(teacher, path, get_language(request))
            before = captioner.explain(shown, **kwargs).caption
            teacher.start(request.session_hash)
            yield show(render_progress(texts, []), running=True)
            for losses in teacher.progress():
                yield show(render_progress(texts, losses), running=True)
            after = explain(teacher.finish(), captioner.processor, shown, **kwargs).caption
            words = unknown_words(captioner.processor.tokenizer, [caption for _, caption in teacher.captions()])
            yield show(render_result(texts, before, after, words))
        except TeachingError as error:
            busy = error.key == "teach_busy"  # the other training's copy must not be decided here
            yield {status: render_error(texts, error)} if busy else show(render_error(texts, error))
        except GeneratorExit:  # the visitor has left
            teacher.leave(request.session_hash)
            raise

    def stop(request: gr.Request):
        check_request(teacher, request)
        teacher.stop()

    def keep(request: gr.Request):
        check_copy(teacher, request)
        texts = TEXTS[get_language(request)]
        try:
            return texts["teach_kept"].format(folder=teacher.keep())
        except OSError as error:
            return texts["teach_not_kept"].format(reason=error.strerror or error)

    def serve(request: gr.Request):
        check_copy(teacher, request)
        captioner.model = teacher.serve()
        return TEXTS[get_language(request)]["teach_served"]

    def discard(request: gr.Request):
        check_copy(teacher, request)
        if teacher.discard():
            captioner.model = first_model
        return TEXTS[get_language(request)]["teach_discarded"], "", gr.Row(visible=teacher.model is not None)

    outputs = [learn_button, stop_button, status, choices, answer]
    learn_button.click(learn, [photo, *settings], outputs, **PRIVATE)
    stop_button.click(stop, None, None, **PRIVATE)
    keep_button.click(keep, None, answer, **PRIVATE)
    serve_button.click(serve, None, answer, **PRIVATE)
    discard_button.click(discard, None, [answer, status, choices], **PRIVATE)

    def open_page(request: gr.Request):
        """Let a later visitor decide about a copy that answers."""
        undecided = teacher.model is not None and teacher.owner is None
        return gr.Row(visible=undecided), TEXTS[get_language(request)]["teach_served"] if undecided else ""

    def leave(request: gr.Request):
        teacher.leave(request.session_hash)

    page.load(open_page, None, [choices, answer], **PRIVATE)
    page.unload(leave)


def check_request(teacher, request):
    """Raise `gr.Error` for a request that a proxy has forwarded: it may come from anywhere."""
    if not teacher.trust_proxies and any(name in request.headers for name in FORWARDED):
        raise gr.Error(TEXTS[get_language(request)]["teach_public"])


def check_copy(teacher, request):
    """Raise `gr.Error` unless the request may decide what becomes of the copy, and there is one."""
    check_request(teacher, request)
    if teacher.model is None or teacher.owner not in (None, request.session_hash):
        raise gr.Error(TEXTS[get_language(request)]["teach_no_copy"])


def open_shown_photo(teacher, path, language):
    """The visitor's photo, or the last corrected one if there is none on the page."""
    if path:
        return open_upload(path, language, side=MAX_DISPLAY_SIDE)
    try:
        return open_photo(teacher.captions()[-1][0], side=MAX_DISPLAY_SIDE)
    except IndexError as error:
        raise TeachingError("teach_none") from error
    except PhotoError as error:
        raise TeachingError("teach_failed", reason=str(error)) from error


def render_error(texts, error):
    return paragraph(texts[error.key].format(**error.values))


def render_progress(texts, losses):
    """A progress bar, and the loss so far as a curve."""
    text = texts["teach_step"].format(step=len(losses), steps=STEPS) if losses else texts["teach_starting"]
    bar = f'<progress max="{STEPS}" value="{len(losses)}" aria-label="{escape(texts["teach_progress"])}"></progress>'
    return paragraph(text) + bar + (curve(texts, losses) if len(losses) > 1 else "")


def curve(texts, losses):
    highest = max(losses) or 1
    points = " ".join(f"{100 * i / (STEPS - 1):.1f},{29 - 28 * loss / highest:.1f}" for i, loss in enumerate(losses))
    line = f'<polyline points="{points}" fill="none" stroke="currentColor" vector-effect="non-scaling-stroke"/>'
    title = escape(texts["teach_curve"])
    return f'<svg viewBox="0 0 100 30" preserveAspectRatio="none" role="img" aria-label="{title}">{line}</svg>'


def render_result(texts, before, after, words):
    """The caption before and after, and the words that the captioner cannot learn."""
    rows = "".join(
        f"<dt>{escape(texts[name])}</dt><dd lang='en' class='{name}'>{escape(caption)}</dd>"
        for name, caption in (("teach_before", before), ("teach_after", after))
    )
    unknown = texts["teach_unknown"].format(words=", ".join(words[:10])) if words else ""
    notes = [text for text in (unknown, texts["teach_forgets"]) if text]
    return f"<div role='status'><dl>{rows}</dl></div>" + "".join(map(paragraph, notes))


def paragraph(text):
    return f"<p role='status'>{escape(text)}</p>"
