"""The panel in which a visitor teaches a copy of the captioner from the corrections, and decides what becomes of it."""

from html import escape

import gradio as gr

from demo.i18n import TEXTS, get_language
from demo.predict import MAX_DISPLAY_SIDE
from demo.teaching import STEPS, TeachingError, unknown_words
from demo.uploads import open_upload
from modeling_captioner import PhotoError, open_photo

PRIVATE = {"api_visibility": "private", "show_progress": "hidden"}
FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")  # headers that a proxy adds


def add_teaching_panel(teacher, captioner, photo, settings, get_captioner, page, translate):
    """Add the panel below the corrections. `captioner` is the page's `Batcher`, `teacher` a `Teacher`.

    Returns the events after which another model answers.
    """
    with gr.Column(elem_id="teaching"):
        translate(gr.Markdown(), value="teaching")
        translate(gr.Markdown(), value="teach_intro")
        with gr.Row():
            learn_button = translate(gr.Button(variant="primary", elem_id="teach"), value="teach")
            stop_button = translate(gr.Button(visible=False, elem_id="teach_stop"), value="teach_stop")
        status = gr.HTML(elem_id="teach_status", apply_default_css=False)
        history = gr.HTML(elem_id="teach_curve", apply_default_css=False)
        with gr.Row(visible=False, elem_id="teach_choices") as choices:
            keep_button = translate(gr.Button(elem_id="teach_keep"), value="teach_keep")
            serve_button = translate(gr.Button(elem_id="teach_serve"), value="teach_serve")
            discard_button = translate(gr.Button(elem_id="teach_discard"), value="teach_discard")
        answer = gr.Markdown(elem_id="teach_answer")

    def learn(request: gr.Request, path, *values):
        from modeling_captioner import explain  # imports PyTorch

        check_request(teacher, request)
        texts, kwargs = TEXTS[get_language(request)], get_captioner(*values)[1]

        def show(content, running=False, losses=None):
            buttons = {learn_button: gr.Button(interactive=not running), stop_button: gr.Button(visible=running)}
            training = teacher.training(request.session_hash)
            decide = bool(training and training.model)
            curve = render_curve(texts, losses) if losses else ""
            return buttons | {status: content, history: curve, choices: gr.Row(visible=decide), answer: ""}

        losses = []
        try:
            shown = open_shown_photo(teacher, path, get_language(request))
            before = captioner.explain(shown, **kwargs).caption
            training = teacher.start(request.session_hash)
            yield show(render_progress(texts, []), running=True)
            for losses in training.progress():
                yield show(render_progress(texts, losses), running=True, losses=losses)
            losses = training.losses()
            after = explain(training.finish(), captioner.processor, shown, **kwargs).caption
            words = unknown_words(captioner.processor.tokenizer, [caption for _, caption in teacher.captions()])
            language = kwargs.get("language", "en")
            yield show(render_result(texts, before, after, words, language), losses=losses)
        except TeachingError as error:
            busy = error.key == "teach_busy"  # another visitor's: nothing of it is shown or decided here
            yield {status: render_error(texts, error)} if busy else show(render_error(texts, error), losses=losses)
        except GeneratorExit:  # the visitor has left
            teacher.leave(request.session_hash)
            raise

    def stop(request: gr.Request):
        check_request(teacher, request)
        if training := teacher.training(request.session_hash):
            training.stop()

    def keep(request: gr.Request):
        training, texts = find_copy(teacher, request), TEXTS[get_language(request)]
        try:
            return texts["teach_kept"].format(folder=teacher.keep(training))
        except OSError as error:
            return texts["teach_not_kept"].format(reason=error.strerror or error)

    def serve(request: gr.Request):
        captioner.taught = teacher.serve(find_copy(teacher, request))
        return TEXTS[get_language(request)]["teach_served"]

    def discard(request: gr.Request):
        if teacher.discard(find_copy(teacher, request)):
            captioner.taught = None
        left = teacher.training(request.session_hash)
        return TEXTS[get_language(request)]["teach_discarded"], "", "", gr.Row(visible=bool(left and left.model))

    outputs = [learn_button, stop_button, status, history, choices, answer]
    learn_button.click(learn, [photo, *settings], outputs, **PRIVATE)
    stop_button.click(stop, None, None, **PRIVATE)
    keep_button.click(keep, None, answer, **PRIVATE)
    serving = serve_button.click(serve, None, answer, **PRIVATE)
    discarding = discard_button.click(discard, None, [answer, status, history, choices], **PRIVATE)

    def open_page(request: gr.Request):
        """Let a later visitor decide about a copy that answers."""
        undecided = teacher.training(None) is not None
        return gr.Row(visible=undecided), TEXTS[get_language(request)]["teach_served"] if undecided else ""

    def leave(request: gr.Request):
        teacher.leave(request.session_hash)

    page.load(open_page, None, [choices, answer], **PRIVATE)
    page.unload(leave)
    return [serving, discarding]


def may_see_all(teacher, request):
    """Whether the visitor sees all corrections: where only this computer can open the page."""
    return bool(teacher) and not teacher.trust_proxies and not is_forwarded(request)


def is_forwarded(request):
    return any(name in request.headers for name in FORWARDED)


def check_request(teacher, request):
    """Raise `gr.Error` for a request that a proxy has forwarded: it may come from anywhere."""
    if not teacher.trust_proxies and is_forwarded(request):
        raise gr.Error(TEXTS[get_language(request)]["teach_public"])


def find_copy(teacher, request):
    """The copy that the request may decide about. Raises `gr.Error` if there is none."""
    check_request(teacher, request)
    training = teacher.training(request.session_hash)
    if training is None or training.model is None:
        raise gr.Error(TEXTS[get_language(request)]["teach_no_copy"])
    return training


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
    """The step that the training has reached, as a sentence and a bar."""
    text = texts["teach_step"].format(step=len(losses), steps=STEPS) if losses else texts["teach_starting"]
    bar = f'<progress max="{STEPS}" value="{len(losses)}" aria-label="{escape(texts["teach_progress"])}"></progress>'
    return paragraph(text) + bar


def render_curve(texts, losses):
    """The loss of each step as a curve, with the first and the last value."""
    if len(losses) < 2:
        return ""
    highest = max(losses) or 1
    points = " ".join(f"{100 * i / (STEPS - 1):.1f},{29 - 28 * loss / highest:.1f}" for i, loss in enumerate(losses))
    line = f'<polyline points="{points}" fill="none" stroke="currentColor" vector-effect="non-scaling-stroke"/>'
    title = escape(texts["teach_curve"].format(first=losses[0], last=losses[-1]))
    svg = f'<svg viewBox="0 0 100 30" preserveAspectRatio="none" role="img" aria-label="{title}">{line}</svg>'
    return f"<figure>{svg}<figcaption>{title}</figcaption></figure>"


def render_result(texts, before, after, words, language):
    """The caption before and after, and the words that the captioner cannot learn."""
    rows = "".join(
        f"<dt>{escape(texts[name])}</dt><dd lang='{language}' class='{name}'>{escape(caption)}</dd>"
        for name, caption in (("teach_before", before), ("teach_after", after))
    )
    unknown = texts["teach_unknown"].format(words=", ".join(words[:10])) if words else ""
    notes = [text for text in (unknown, texts["teach_forgets"]) if text]
    return f"<div role='status'><dl>{rows}</dl></div>" + "".join(map(paragraph, notes))


def paragraph(text):
    return f"<p role='status'>{escape(text)}</p>"
