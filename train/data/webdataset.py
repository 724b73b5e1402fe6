"""Reading webdataset shards, whatever their members are named: `Shards`."""

import contextlib
import itertools
import json
import os
from dataclasses import dataclass

from datasets import BuilderConfig, DatasetInfo, Features, Image, List, Value
from datasets.builder import Key
from datasets.packaged_modules.webdataset.webdataset import WebDataset

from .captions import CAPTION_COLUMNS, NotTextError, texts_of
from .columns import ID_COLUMNS, SUFFIXES

TEXTS = ("txt", "text", "caption", "captions")  # extensions of members with one caption per line


@dataclass
class ShardsConfig(BuilderConfig):
    image_column: str = "image"
    caption_column: str | None = None
    caption_language: str | None = None


class Shards(WebDataset):
    """Builder of a data set with the columns image, captions and `image_id`.

    Unlike the builder of `datasets`, it splits names at the last dot instead of the first, so that "photo.1.jpg" and
    "photo.2.jpg" are two samples, reads members that the first samples lack, and ignores the case of extensions.
    """

    BUILDER_CONFIG_CLASS = ShardsConfig

    @classmethod
    def like(cls, builder, settings):
        """Create a builder with the name and the files of another one, and the columns given by `settings`."""
        return cls(
            dataset_name=builder.dataset_name,
            repo_id=builder.repo_id,
            hash=builder.hash,
            token=builder.token,
            base_path=builder.base_path,
            data_files=builder.config.data_files,
            image_column=settings.image_column or "image",
            caption_column=settings.caption_column,
            caption_language=settings.caption_language,
        )

    def _info(self):
        columns = {self.config.image_column: Image(), self._captions: List(Value("string"))}
        return DatasetInfo(features=Features(columns | {"image_id": Value("string")}))

    @property
    def _captions(self):
        return self.config.caption_column or "captions"

    def _split_generators(self, dl_manager):
        splits = super()._split_generators(dl_manager)
        first = [sample for _, sample in itertools.islice(samples(splits[0].gen_kwargs["tar_iterators"][0]), 5)]
        if not any(_image(sample) and self._texts(sample) for sample in first):
            found = dict.fromkeys(name for sample in first for name in (*sample, *_metadata(sample)))
            raise ValueError(
                f"No photos with captions were recognized in the shards among {', '.join(found)}; choose the captions"
                f" with --caption_column (known names: photos {', '.join(sorted(SUFFIXES))}; captions"
                f" {', '.join(TEXTS)} with one caption per line, or json with {', '.join(CAPTION_COLUMNS)})."
            )
        return splits

    def _generate_examples(self, tar_paths, tar_iterators):
        for shard, (path, members) in enumerate(zip(tar_paths, tar_iterators, strict=True)):
            for number, (key, sample) in enumerate(samples(members)):
                name, content = _image(sample) or (None, None)
                metadata = _metadata(sample)
                ids = (metadata[column] for column in ID_COLUMNS if metadata.get(column) is not None)
                yield (
                    Key(shard, number),
                    {
                        self.config.image_column: name and {"path": name, "bytes": content},
                        self._captions: self._texts(sample),
                        "image_id": str(next(ids, f"{path} {key}")),
                    },
                )

    def _texts(self, sample):
        column = self.config.caption_column
        for suffix in [column] if column else TEXTS:
            if suffix in sample:
                return sample[suffix][1].decode("utf-8-sig", errors="replace").splitlines()
        metadata = _metadata(sample)
        for key in [column] if column else CAPTION_COLUMNS:
            with contextlib.suppress(NotTextError):
                if texts := texts_of(metadata.get(key), self.config.caption_language):
                    return texts
        return []


def samples(members):
    """Group consecutive members whose names differ only in the extension. Yields (key, {suffix: (name, content)})."""
    members = ((*os.path.splitext(name), file) for name, file in members)
    for key, group in itertools.groupby(members, key=lambda member: member[0]):
        yield key, {suffix[1:].lower(): (key.rpartition("/")[2] + suffix, file.read()) for _, suffix, file in group}


def _image(sample):
    return next((member for suffix, member in sample.items() if f".{suffix}" in SUFFIXES), None)


def _metadata(sample):
    """The content of a sample's JSON file, {name: value}."""
    try:
        content = json.loads(sample["json"][1]) if "json" in sample else {}
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {"captions": content}
