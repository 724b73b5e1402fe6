"""From a captioned data set to photos, labels and cached features."""

from .dataset import captioned_dataset, names_of, photo_of, unlabelled_photos
from .features import cached_features
from .streaming import StreamedPhotos
from .vocabulary import encode, make_tokenizer
