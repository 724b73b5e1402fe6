"""Data sets that hold the web addresses of photos: many are fetched at once, and each is whole or absent."""

import io
import itertools
import threading

import pytest
from datasets import Dataset
from datasets import config as datasets_config
from photo_server import PhotoServer

from train.data import StreamedPhotos, captioned_dataset, photo_of
from train.data.download import cached_file, download
from train.settings import Settings


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("train.data.download.PHOTOS", tmp_path / "photos")
    monkeypatch.setattr("train.data.download.WAITS", (0.01, 0.05, 0.2))


@pytest.fixture(scope="module")
def photo(drawn_photos):
    file = io.BytesIO()
    drawn_photos[0][0].save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def server(photo):
    """Two hundred photos in two folders, under the same names in both."""
    names = itertools.product(("train2014", "val2014"), range(100))
    with PhotoServer({f"{folder}/{number}.jpg": photo + bytes([number]) for folder, number in names}) as server:
        yield server


def addresses(server):
    return [f"{server.address}/{path}" for path in server.photos]


def url_set(folder, urls):
    folder.mkdir()
    rows = [{"url": url, "captions": [f"photo {number}"]} for number, url in enumerate(urls)]
    Dataset.from_list(rows).to_parquet(folder / "train.parquet")
    return folder


def test_32_photos_are_fetched_at_once_and_each_once(server):
    server.wait = 0.5
    assert dict(download(addresses(server), 32)) == dict.fromkeys(addresses(server), "")
    assert 16 < server.most <= 32
    for address, content in zip(addresses(server), server.photos.values(), strict=True):
        assert cached_file(address).read_bytes() == content
        assert cached_file(address).name == address.rpartition("/")[2], "by which predictions name COCO's photos"
    list(download(addresses(server), 32))
    assert set(server.requests.values()) == {1}


@pytest.mark.parametrize("fault", [503, 429, "cut"])
def test_what_is_temporary_is_tried_again_with_growing_waits(server, fault):
    path = next(iter(server.photos))
    server.faults[path] = [fault] * 3
    address = f"{server.address}/{path}"
    assert list(download([address], 2)) == [(address, "")]
    assert cached_file(address).read_bytes() == server.photos[path]
    first, second, third = (after - before for before, after in itertools.pairwise(server.times[path]))
    assert first >= 0.01
    assert second >= 0.05
    assert third >= 0.2


def test_what_is_not_there_is_asked_for_once_and_what_stays_broken_four_times(server):
    missing, broken = f"{server.address}/missing.jpg", f"{server.address}/train2014/1.jpg"
    server.faults["train2014/1.jpg"] = ["cut"] * 9
    reasons = dict(download([missing, broken], 2))
    assert reasons[missing] == f"{missing} cannot be fetched (status 404)."
    assert reasons[broken].startswith(f"{broken} cannot be fetched (")
    assert server.requests == {"missing.jpg": 1, "train2014/1.jpg": 4}
    assert not list(cached_file(broken).parent.parent.rglob("*.*")), "whole or absent"


def test_an_address_with_a_query_and_one_that_leads_out_of_the_cache(server, photo):
    names = ["photo?id=1", "photo?id=2", "photo?id=" + "x" * 300, "a/..", "ảnh.jpg"]
    server.photos |= {name: photo + name.encode() for name in names}
    files = {cached_file(f"{server.address}/{name}") for name in names}
    assert len(files) == 5
    assert all(file.parent.parent.name == "photos" and file.name != ".." for file in files)
    given = [f"{server.address}/{name}" for name in names[:3]]
    assert set(dict(download(given, 2)).values()) == {""}
    for name in names[:3]:
        assert cached_file(f"{server.address}/{name}").read_bytes() == photo + name.encode()


COLUMNS = {
    "image_url": {"image_url": "{}"},
    "URL": {"URL": "{}"},
    "capital letters": {"Link": "HTTP{}"},
    "spaces": {"picture": " {}\n"},
    "an id by the name of image": {"image": 7, "photo_link": "{}"},
    "names of files": {"image": "1.jpg", "coco_url": "{}"},
    "a page and a licence": {"page_url": "https://localhost/page", "license": "https://localhost/by", "img": "{}"},
    "missing at first": {"other": None, "thumb": "{}"},
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("columns", COLUMNS.values(), ids=COLUMNS)
def test_columns_of_addresses_are_told_by_their_cells(server, tmp_path, columns, streaming):
    rows = []
    for number, url in enumerate(addresses(server)[:4]):
        cells = {
            name: cell.format(url).replace("HTTPhttp", "HTTP") if isinstance(cell, str) else cell
            for name, cell in columns.items()
        }
        rows.append(cells | {"caption": f"photo {number}"})
    (tmp_path / "set").mkdir()
    Dataset.from_list(rows).to_parquet(tmp_path / "set" / "train.parquet")
    settings = Settings(data_dir=str(tmp_path / "set"), streaming=streaming, validation_fraction=0)
    photos = StreamedPhotos(settings, "train") if streaming else captioned_dataset(settings, ["train"])["train"]
    assert {row["captions"][0]: photo_of(row).size for row in photos} == {f"photo {n}": (64, 64) for n in range(4)}


@pytest.mark.parametrize("streaming", [False, True])
def test_addresses_that_are_not_of_the_web_are_named(tmp_path, streaming):
    folder = url_set(tmp_path / "set", ["s3://bucket/1.jpg"])
    settings = Settings(data_dir=str(folder), streaming=streaming, validation_fraction=0)
    with pytest.raises(ValueError, match=r"s3://bucket/1.jpg (is neither a file nor a web address|cannot be read)"):
        any(map(photo_of, StreamedPhotos(settings, "train") if streaming else captioned_dataset(settings)["train"]))


def test_who_stops_listening_stops_the_download(server):
    server.wait = 0.05
    arriving = download(addresses(server), 4)
    next(arriving)
    arriving.close()
    assert sum(server.requests.values()) < 20
    assert threading.active_count() < 20


def test_only_photos_that_are_wanted_are_fetched(server, tmp_path):
    settings = Settings(data_dir=str(url_set(tmp_path / "set", addresses(server))))
    captioned_dataset(settings, photos=False)
    assert not server.requests, "captions alone need no photo"
    settings.max_train_samples, settings.max_eval_samples = 20, 10
    splits = captioned_dataset(settings)
    assert (len(splits["train"]), len(splits["validation"])) == (20, 10)
    assert len(server.requests) == 30
    for row in (*splits["train"], *splits["validation"]):
        number = int(row["captions"][0].split()[1])
        assert row["image"]["path"] == str(cached_file(addresses(server)[number])), "the caption is still the photo's"
        assert photo_of(row).size == (64, 64)


def test_missing_and_broken_photos_are_skipped_and_counted_together(server, tmp_path, caplog):
    server.photos["train2014/7.jpg"] = b"<html>"
    urls = addresses(server)
    urls[3] = f"{server.address}/missing.jpg"
    folder = url_set(tmp_path / "set", urls)
    options = {"data_dir": str(folder), "validation_fraction": 0}
    assert len(captioned_dataset(Settings(**options, max_broken_fraction=0.01))["train"]) == 198
    assert f"Skipped: {urls[3]} cannot be fetched (status 404)." in caplog.text
    assert "7.jpg is not a readable image" in caplog.text
    assert "2 of 200 photos in the split 'train' are skipped." in caplog.text
    with pytest.raises(ValueError, match=r"2 of 200 photos in the split 'train' are broken, more than"):
        captioned_dataset(Settings(**options, max_broken_fraction=0.009))
    server.photos["missing.jpg"] = server.photos["train2014/1.jpg"]
    assert len(captioned_dataset(Settings(**options))["train"]) == 199, "once it is there it is no longer missing"


def test_a_server_that_has_none_of_the_photos_is_found_out_early(server, tmp_path):
    folder = url_set(tmp_path / "set", [f"{server.address}/missing/{number}.jpg" for number in range(2000)])
    with pytest.raises(ValueError, match=r"None of the first 100 photos can be fetched; the last: http.* \(status 404"):
        captioned_dataset(Settings(data_dir=str(folder), max_broken_fraction=1))
    assert sum(server.requests.values()) < 300


def test_a_stream_fetches_ahead_keeps_the_order_and_nothing_else(server, tmp_path, caplog):
    server.wait = 0.5
    urls = addresses(server)
    urls[3] = f"{server.address}/missing.jpg"
    settings = Settings(data_dir=str(url_set(tmp_path / "set", urls)), streaming=True, validation_fraction=0)
    rows = list(StreamedPhotos(settings, "validation"))
    assert [row["captions"] for row in rows] == [[f"photo {number}"] for number in range(200)]
    assert 16 < server.most <= 32
    assert photo_of(rows[0]).size == (64, 64)
    assert rows[0]["name"] == "0.jpg"
    with pytest.raises(ValueError, match=r"missing.jpg cannot be fetched \(status 404\)"):
        photo_of(rows[3])
    assert not list(tmp_path.rglob("*.jpg"))
