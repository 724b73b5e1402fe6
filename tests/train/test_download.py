"""Data sets whose photos are given by URL: parallel downloads, retries and the cache."""

import io
import itertools
import threading

import pytest
from datasets import Dataset
from datasets import config as datasets_config

from tests.helpers.photo_server import PhotoServer
from tests.helpers.training import single_dataset, single_stream
from train.data import photo_of
from train.data.download import cached_file, download
from train.settings import Settings


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("train.data.download.CACHE_DIR", tmp_path / "photos")
    monkeypatch.setattr("train.data.download.RETRY_DELAYS", (0.01, 0.05, 0.2))


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


def photo_urls(server):
    return [f"{server.address}/{path}" for path in server.photos]


def url_dataset(folder, urls):
    folder.mkdir()
    rows = [{"url": url, "captions": [f"photo {number}"]} for number, url in enumerate(urls)]
    Dataset.from_list(rows).to_parquet(folder / "train.parquet")
    return folder


def test_photos_are_downloaded_in_parallel_and_only_once(server):
    server.wait = 0.5
    assert dict(download(photo_urls(server), 32)) == dict.fromkeys(photo_urls(server), "")
    assert 16 < server.most <= 32
    for url, content in zip(photo_urls(server), server.photos.values(), strict=True):
        assert cached_file(url).read_bytes() == content
        assert cached_file(url).name == url.rpartition("/")[2], "predictions in COCO's format use the file name"
    list(download(photo_urls(server), 32))
    assert set(server.requests.values()) == {1}


@pytest.mark.parametrize("fault", [503, 429, "cut"])
def test_temporary_failures_are_retried_with_increasing_delays(server, fault):
    path = next(iter(server.photos))
    server.faults[path] = [fault] * 3
    url = f"{server.address}/{path}"
    assert list(download([url], 2)) == [(url, "")]
    assert cached_file(url).read_bytes() == server.photos[path]
    first, second, third = (after - before for before, after in itertools.pairwise(server.times[path]))
    assert first >= 0.01
    assert second >= 0.05
    assert third >= 0.2


def test_a_missing_photo_is_requested_once_and_a_failing_one_four_times(server):
    missing, broken = f"{server.address}/missing.jpg", f"{server.address}/train2014/1.jpg"
    server.faults["train2014/1.jpg"] = ["cut"] * 9
    reasons = dict(download([missing, broken], 2))
    assert reasons[missing] == f"{missing} could not be downloaded (status 404)."
    assert reasons[broken].startswith(f"{broken} could not be downloaded (")
    assert server.requests == {"missing.jpg": 1, "train2014/1.jpg": 4}
    assert not list(cached_file(broken).parent.parent.rglob("*.*")), "no partial files"


def test_cached_files_of_urls_with_queries_or_unsafe_names(server, photo):
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
    "an ID named image": {"image": 7, "photo_link": "{}"},
    "file names": {"image": "1.jpg", "coco_url": "{}"},
    "other URLs": {"page_url": "https://localhost/page", "license": "https://localhost/by", "img": "{}"},
    "missing at first": {"other": None, "thumb": "{}"},
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("columns", COLUMNS.values(), ids=COLUMNS)
def test_columns_of_urls_are_recognized_by_their_cells(server, tmp_path, columns, streaming):
    rows = []
    for number, url in enumerate(photo_urls(server)[:4]):
        cells = {
            name: cell.format(url).replace("HTTPhttp", "HTTP") if isinstance(cell, str) else cell
            for name, cell in columns.items()
        }
        rows.append(cells | {"caption": f"photo {number}"})
    (tmp_path / "set").mkdir()
    Dataset.from_list(rows).to_parquet(tmp_path / "set" / "train.parquet")
    settings = Settings(data_dir=[str(tmp_path / "set")], streaming=streaming, validation_fraction=0)
    photos = single_stream(settings, "train") if streaming else single_dataset(settings, ["train"])["train"]
    assert {row["captions"][0]: photo_of(row).size for row in photos} == {f"photo {n}": (64, 64) for n in range(4)}


@pytest.mark.parametrize("streaming", [False, True])
def test_urls_with_other_protocols_are_refused(tmp_path, streaming):
    folder = url_dataset(tmp_path / "set", ["s3://bucket/1.jpg"])
    settings = Settings(data_dir=[str(folder)], streaming=streaming, validation_fraction=0)
    with pytest.raises(ValueError, match=r"s3://bucket/1.jpg (is neither a file nor an http|cannot be read)"):
        any(map(photo_of, single_stream(settings, "train") if streaming else single_dataset(settings)["train"]))


def test_closing_the_generator_stops_the_downloads(server):
    server.wait = 0.05
    completed = download(photo_urls(server), 4)
    next(completed)
    completed.close()
    assert sum(server.requests.values()) < 20
    assert threading.active_count() < 20


def test_only_the_photos_that_are_used_are_downloaded(server, tmp_path):
    settings = Settings(data_dir=[str(url_dataset(tmp_path / "set", photo_urls(server)))])
    single_dataset(settings, photos=False)
    assert not server.requests, "reading only the captions needs no photos"
    settings.max_train_samples, settings.max_eval_samples = 20, 10
    splits = single_dataset(settings)
    assert (len(splits["train"]), len(splits["validation"])) == (20, 10)
    assert len(server.requests) == 30
    for row in (*splits["train"], *splits["validation"]):
        number = int(row["captions"][0].split()[1])
        assert row["image"]["path"] == str(cached_file(photo_urls(server)[number])), "photos keep their captions"
        assert photo_of(row).size == (64, 64)


def test_missing_and_broken_photos_are_skipped_and_counted_together(server, tmp_path, caplog):
    server.photos["train2014/7.jpg"] = b"<html>"
    urls = photo_urls(server)
    urls[3] = f"{server.address}/missing.jpg"
    folder = url_dataset(tmp_path / "set", urls)
    options = {"data_dir": [str(folder)], "validation_fraction": 0}
    assert len(single_dataset(Settings(**options, max_broken_fraction=0.01))["train"]) == 198
    assert f"Skipped: {urls[3]} could not be downloaded (status 404)." in caplog.text
    assert "7.jpg is not a readable image" in caplog.text
    assert "2 of 200 photos in the split 'train' are skipped." in caplog.text
    with pytest.raises(ValueError, match=r"2 of 200 photos in the split 'train' are broken, more than"):
        single_dataset(Settings(**options, max_broken_fraction=0.009))
    server.photos["missing.jpg"] = server.photos["train2014/1.jpg"]
    assert len(single_dataset(Settings(**options))["train"]) == 199, "a failed download is not cached"


def test_loading_stops_early_if_all_downloads_fail(server, tmp_path):
    folder = url_dataset(tmp_path / "set", [f"{server.address}/missing/{number}.jpg" for number in range(2000)])
    with pytest.raises(
        ValueError, match=r"None of the first 100 photos could be downloaded; the last: http.* \(status 404"
    ):
        single_dataset(Settings(data_dir=[str(folder)], max_broken_fraction=1))
    assert sum(server.requests.values()) < 300


def test_a_stream_prefetches_in_order_and_stores_nothing(server, tmp_path, caplog):
    server.wait = 0.5
    urls = photo_urls(server)
    urls[3] = f"{server.address}/missing.jpg"
    settings = Settings(data_dir=[str(url_dataset(tmp_path / "set", urls))], streaming=True, validation_fraction=0)
    rows = list(single_stream(settings, "validation"))
    assert [row["captions"] for row in rows] == [[f"photo {number}"] for number in range(200)]
    assert 16 < server.most <= 32
    assert photo_of(rows[0]).size == (64, 64)
    assert rows[0]["name"] == "0.jpg"
    with pytest.raises(ValueError, match=r"missing.jpg could not be downloaded \(status 404\)"):
        photo_of(rows[3])
    assert not list(tmp_path.rglob("*.jpg"))
