"""Starting a new captioner's decoder from another captioner, whose vocabulary may be another one."""

from captioning import loading

WORDS = ("decoder.embedding.weight", "decoder.output_bias")  # with a row for each word


def load_decoder_weights(captioner, tokenizer, source):
    """Load the decoder, its attention and the projection of the regions from another captioner.

    Words that both vocabularies have keep their embedding; those of the other one that are missing here are left out,
    and new ones keep their random initialization. The first token of each language starts from the other one's.

    Args:
        captioner: a new `CaptionerForConditionalGeneration`.
        tokenizer: its tokenizer.
        source: folder or ID of the other captioner.

    Returns the number of words that both have. Raises `ValueError` if there is no such captioner, or if its decoder has
    another size.
    """
    other, processor = loading.load_captioner(str(source), "cpu", "float32")
    given, own = other.state_dict(), captioner.state_dict()
    names = [name for name in own if name.startswith(("decoder.", "encoder.norm.", "encoder.projection."))]
    names = [name for name in names if name not in (*WORDS, "decoder.output.weight", "decoder.output.bias")]
    if differing := [name for name in names if name not in given or given[name].shape != own[name].shape]:
        raise ValueError(
            f"decoder_weights={str(source)!r} has a decoder of another size or kind ({differing[0]} differs); give the"
            " options of that captioner, such as --hidden_size."
        )
    rows = processor.tokenizer.get_vocab()
    starts = {f"<{language}>": processor.tokenizer.bos_token_id for language in captioner.config.languages or []}
    shared = [(row, (rows | starts)[word]) for word, row in tokenizer.get_vocab().items() if word in rows | starts]
    to, origin = map(list, zip(*shared, strict=True))
    for name in names:
        own[name].copy_(given[name])
    for name in WORDS:
        own[name][to] = given[name][origin]
    return len(shared)
