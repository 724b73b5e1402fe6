"""Captions of four photos by people and by a model, with which metrics are tested."""

PEOPLE = [
    ["A man rides a brown horse .", "someone on a horse in a field", "The man's horse runs"],
    ["Two dogs play in the snow", "a black dog and a white dog run in snow"],
    ["A girl in a red dress stands on a beach", "the girl isn't swimming", "a child at the sea"],
    ["People wait for a bus", "a bus stop with four people"],
]
MODEL = ["a man rides a horse", "two dogs run in the snow", "a girl stands on a beach", "a bus"]
