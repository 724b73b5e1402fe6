"""Photos at web addresses, many at once: `download` into a cache on disk, `fetched_ahead` into memory."""

import collections
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

PHOTOS = Path(HF_HOME) / "captioner-photos"
WAITS = (0.5, 1, 2, 4)  # seconds before each further attempt
TEMPORARY = (408, 425, 429, 500, 502, 503, 504)  # statuses after which another attempt may succeed
TIMEOUT = 20  # seconds without a byte


def is_address(path):
    return path is not None and re.match(r"\s*https?://", path, re.IGNORECASE) is not None


def download(addresses, workers):
    """Fetch the photos that are not in the cache yet. Each file is whole or absent.

    Args:
        addresses: of the photos, each once.
        workers: how many are fetched at once.

    Yields (address, reason) of each in the order in which they arrive; `reason` is "" for a photo whose
    [`cached_file`] exists now, and otherwise a sentence that says why there is none.
    """
    with ThreadPoolExecutor(workers) as pool, make_client(workers) as client:
        futures = {pool.submit(_download, client, address): address for address in addresses}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:  # a caller that stops early does not wait for the rest
            pool.shutdown(wait=False, cancel_futures=True)


def fetched_ahead(function, rows, workers):
    """`map(function, rows)`, whose next results are computed in threads while the caller works on one."""
    with ThreadPoolExecutor(workers) as pool:
        futures = collections.deque()
        try:
            for row in rows:
                futures.append(pool.submit(function, row))
                if len(futures) > workers:
                    yield futures.popleft().result()
            while futures:
                yield futures.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def cached_file(address):
    """Where the photo of an address lies once it is fetched: under its own name, in a folder for each folder."""
    folder, _, name = address.rpartition("/")
    if not re.fullmatch(r"\w[\w.-]{0,99}", name):  # it has a query, or is no name for a file
        folder, name = address, re.sub(r"\W+", "_", name)[:100] or "photo"
    return PHOTOS / hashlib.sha256(folder.encode()).hexdigest()[:16] / name


def make_client(workers):
    """Keeps a connection for each worker, and uses the proxy that the environment names."""
    limits = httpx.Limits(max_connections=workers, max_keepalive_connections=workers)
    return httpx.Client(timeout=httpx.Timeout(TIMEOUT, pool=None), limits=limits, follow_redirects=True)


def fetch(client, address):
    """The bytes at an address, with up to five attempts. Raises [`PhotoError`]."""
    for wait in (*WAITS, None):
        try:
            response = client.get(address.strip())
            response.raise_for_status()
            return response.content
        except httpx.HTTPStatusError as error:
            reason, temporary = f"status {error.response.status_code}", error.response.status_code in TEMPORARY
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason, temporary = str(error) or type(error).__name__, isinstance(error, httpx.TransportError)
        if wait is None or not temporary:
            raise PhotoError(f"{address} cannot be fetched ({reason}).")
        time.sleep(wait)


def _download(client, address):
    file = cached_file(address)
    if file.exists():
        return ""
    try:
        content = fetch(client, address)
    except PhotoError as error:
        return str(error)
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f"{file.name}.{os.getpid()}.part")
        part.write_bytes(content)
        part.replace(file)
    return ""
