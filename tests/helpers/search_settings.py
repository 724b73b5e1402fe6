"""Settings of `generate` with which every search, in Python or in JavaScript, is tested."""

SEARCH_SETTINGS = [
    {"num_beams": 1},
    {"num_beams": 3},
    {"num_beams": 5, "length_penalty": 0.0},
    {"num_beams": 4, "length_penalty": 2.0},
    {"num_beams": 2, "length_penalty": -1.0},
    {"num_beams": 3, "early_stopping": True},
    {"num_beams": 3, "early_stopping": "never", "length_penalty": 1.5},
    {"num_beams": 1, "no_repeat_ngram_size": 1},
    {"num_beams": 3, "no_repeat_ngram_size": 2, "suppress_tokens": [0, 1, 2, 5]},
    {"num_beams": 3, "conjunction_token_ids": [4, 6, 7]},
]
