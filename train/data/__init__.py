"""Data sets of captioned, labeled and unlabeled photos, the vocabulary, and cached features."""

from .batches import CaptionedPhotos, Collate, LabeledPhotos, WeightedPhotos, collate_captions
from .captions import read_captions
from .dataset import (
    captioned_dataset,
    captioned_datasets,
    captions_of,
    names_of,
    photo_of,
    pixel_values,
    unlabeled_photos,
)
from .features import cached_features
from .labels import LabelSentences, held_out_split, label_names, label_texts, labeled_dataset, mentions
from .sampler import EpochSampler
from .sources import sources
from .streaming import MixedStream, StreamedPhotos
from .vocabulary import make_tokenizer, start_token
