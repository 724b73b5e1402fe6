"""Access to the Hub: creating a repository and committing to it, with retries.

Commits are atomic, and files that are already uploaded are not sent again, so retrying is always safe.
"""

import json
import logging
import time

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.constants import ENDPOINT
from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import parse_ratelimit_headers

MAX_TRIES = 4
MAX_WAIT = 330  # seconds; the Hub's rate limits apply to windows of five minutes
# huggingface_hub wraps upload failures in a RuntimeError, and parses a gateway's error page as JSON.
FAILURES = (HTTPError, RuntimeError, json.JSONDecodeError)
logger = logging.getLogger(__name__)


class HubError(OSError):
    """Publishing failed; the message is one sentence with the cause and the remedy."""


def check_login():
    """Raise `HubError` if there is no token; makes no request."""
    if not get_token():
        raise HubError("Publishing needs a login: run `hf auth login`, or set HF_TOKEN to a token with write access.")


def open_repository(name, kind="model", private=False, **options):
    """Create a repository if needed, and check write access to it.

    Args:
        name: "NAME" or "OWNER/NAME".
        kind: "model" or "space".
        private: whether the repository must be private.
        options: further arguments of `HfApi.create_repo`.

    Returns the full name. Raises `HubError`, and `ValueError` for an invalid name.
    """
    check_login()
    api = HfApi()
    options |= {"repo_type": kind, "exist_ok": True, "private": private or None}
    name = _retry(name, lambda: api.create_repo(name, **options)).repo_id
    _retry(name, lambda: api.auth_check(name, repo_type=kind, write=True))
    if private and not _retry(name, lambda: api.repo_info(name, repo_type=kind)).private:
        raise HubError(f"{name} is already public; make it private in its settings on the Hub, or choose another name.")
    return name


def commit(name, files, message, kind="model", removed=()):
    """Upload files to a repository in one commit.

    Args:
        name: the repository's full name.
        files: {path in the repository: path on disk}.
        removed: paths in the repository to delete if they exist; other files are kept.

    Returns the URL of the commit, or of the last one if nothing changed. Raises `HubError`.
    """
    api = HfApi()

    def attempt():
        # Operations store the Hub's responses; new ones query again what is already uploaded or committed.
        operations = [CommitOperationAdd(path, file) for path, file in sorted(files.items())]
        existing = [path for path in removed if api.file_exists(name, path, repo_type=kind)]
        operations += [CommitOperationDelete(path) for path in existing]
        return api.create_commit(name, operations, commit_message=message, repo_type=kind)

    return str(_retry(name, attempt))


def _retry(name, action):
    """Return `action()`, retrying after network and Hub failures as long as the Hub asks to wait."""
    for left in reversed(range(MAX_TRIES)):
        try:
            return action()
        except FAILURES as error:
            cause = (isinstance(error, RuntimeError) and error.__cause__) or error
            response = getattr(cause, "response", None)
            wait = _wait(response, 2 ** (MAX_TRIES - 1 - left))
            if not left or wait is None:
                raise HubError(_describe(name, cause, response)) from error
            logger.warning("%s; retrying in %d s.", _reason(cause, response), wait)
            time.sleep(wait)


def _wait(response, seconds):
    """Seconds to wait before a retry, or None to give up. `response` is None if the network failed."""
    if response is None or response.status_code in (408, 500, 502, 503, 504):
        return seconds
    if response.status_code != 429:
        return None
    limit, after = parse_ratelimit_headers(response.headers), response.headers.get("Retry-After", "")
    seconds = int(after) if after.isdigit() else limit.reset_in_seconds if limit else seconds
    return seconds if seconds <= MAX_WAIT else None


def _describe(name, error, response):
    status = response.status_code if response is not None else None
    if status == 401:
        return "The Hub rejected the token; log in with `hf auth login`, or set HF_TOKEN to another one."
    if status == 403:
        return f"The token has no write access to {name}; use another token, or another name."
    if status and _wait(response, 0) is None and status != 429:
        return f"{name} could not be published ({_reason(error, response)}); change what the Hub rejects."
    return f"{_reason(error, response)}, and {name} was not changed; publish again later."


def _reason(error, response):
    if isinstance(error, json.JSONDecodeError):
        return f"{ENDPOINT} returned an invalid response"
    if response is None:
        return f"{ENDPOINT} could not be reached ({error})"
    if response.status_code == 429:
        return "The Hub's rate limit is exceeded"
    message = getattr(error, "server_message", None) or response.reason_phrase
    return f"The Hub returned {response.status_code} ({message.strip().rstrip('.')})"
