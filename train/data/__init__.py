"""Data sets of captioned, labelled and unlabelled photos, the vocabulary, and cached features."""

from .batches import MAX_WORDS, CaptionedPhotos, Collate, LabelledPhotos, pad_labels
from .captions import read_captions
from .dataset import captioned_dataset, names_of, photo_of, unlabelled_photos
from .features import cached_features
from .labels import LabelSentences, held_out_split, label_names, label_texts, labelled_dataset, mentions
from .streaming import StreamedPhotos
from .vocabulary import encode, make_tokenizer
