"""From a captioned data set to photos, labels and cached features."""

from .batches import MAX_WORDS, CaptionedPhotos, Collate, LabelledPhotos, padded
from .dataset import captioned_dataset, names_of, photo_of, read_captions, unlabelled_photos
from .features import cached_features
from .labels import LabelSentences, bare_name, held_out_split, labelled_dataset, names_it, names_of_label
from .streaming import StreamedPhotos
from .vocabulary import encode, make_tokenizer
