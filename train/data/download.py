"""Parallel downloads of photos: `download` to a cache on disk, and `fetch` to memory."""

import hashlib
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import httpx
from huggingface_hub.constants import HF_HOME

from captioning.saving import writing
from modeling_captioner import PhotoError
from modeling_captioner.photos import MAX_DOWNLOAD

CACHE_DIR = Path(HF_HOME) / "captioner-photos"
RETRY_DELAYS = (0.5, 1, 2, 4)  # seconds before each retry
RETRIED_STATUSES = (408, 425, 429, 500, 502, 503, 504)
TIMEOUT = 20  # seconds without receiving a byte


def is_url(path):
    return path is not None and re.match(r"\s*https?://", path, re.IGNORECASE) is not None


def download(urls, workers):
    """Download the photos that are not in the cache yet. Files are written atomically.

    Args:
        urls: URLs of the photos, without duplicates.
        workers: number of parallel downloads.

    Yields (URL, error) for each photo as it completes; `error` is "" if its [`cached_file`] exists now, and otherwise
    a sentence that says why it could not be downloaded.
    """
    with make_client(workers) as client, ThreadPoolExecutor(workers) as pool:  # the client is closed last
        futures = {pool.submit(_download, client, url): url for url in urls}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:  # if the caller stops early, it does not wait for the remaining downloads
            pool.shutdown(wait=False, cancel_futures=True)


def cached_file(url):
    """Path of a downloaded photo in the cache. It keeps its file name; each folder of a server has its own folder."""
    folder, _, name = url.rpartition("/")
    if not re.fullmatch(r"\w[\w.-]{0,99}", name):  # it has a query, or is not a safe file name
        folder, name = url, re.sub(r"\W+", "_", name)[:100] or "photo"
    return CACHE_DIR / hashlib.sha256(folder.encode()).hexdigest()[:16] / name


def make_client(workers):
    """An HTTP client with one connection per worker. It uses the proxy set in the environment."""
    limits = httpx.Limits(max_connections=workers, max_keepalive_connections=workers)
    return httpx.Client(timeout=httpx.Timeout(TIMEOUT, pool=None), limits=limits, follow_redirects=True)


def fetch(client, url):
    """Return the bytes at a URL, after up to five attempts. Raises [`PhotoError`]."""
    for delay in (*RETRY_DELAYS, None):
        try:
            with client.stream("GET", url.strip()) as response:
                response.raise_for_status()
                return _read(response, url)
        except httpx.HTTPStatusError as error:
            reason, temporary = f"status {error.response.status_code}", error.response.status_code in RETRIED_STATUSES
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason, temporary = str(error) or type(error).__name__, isinstance(error, httpx.TransportError)
        if delay is None or not temporary:
            raise PhotoError(f"{url} could not be downloaded ({reason}).")
        time.sleep(delay)


def _read(response, url):
    content = bytearray()
    for block in response.iter_bytes():
        content += block
        if len(content) > MAX_DOWNLOAD:
            raise PhotoError(f"{url} is larger than {MAX_DOWNLOAD / 1e6:g} MB; make it smaller.")
    return bytes(content)


def _download(client, url):
    file = cached_file(url)
    if file.exists():
        return ""
    try:
        content = fetch(client, url)
    except PhotoError as error:
        return str(error)
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f"{file.name}.{os.getpid()}.part")
        part.write_bytes(content)
        part.replace(file)
    return ""
