"""What is said to the Hub: a repository that may be written to, and one commit into it, tried again where that helps.

A commit is whole or absent, and files that have arrived are not sent again, so trying again is always safe.
"""

import json
import logging
import time

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.constants import ENDPOINT
from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import parse_ratelimit_headers

TRIES = 4
LONGEST_WAIT = 330  # seconds; the Hub counts requests over five minutes
# The library hides what fails while it sends a file in a RuntimeError, and reads a gateway's page as JSON.
FAILURES = (HTTPError, RuntimeError, json.JSONDecodeError)
logger = logging.getLogger(__name__)


class HubError(OSError):
    """Publishing did not work; its one sentence says why and what to do."""


def check_login():
    """Raises `HubError` where no token is to be found; asks no server."""
    if not get_token():
        raise HubError("Publishing needs a login: run `hf auth login`, or put a token that may write in HF_TOKEN.")


def open_repository(name, kind="model", private=False, **options):
    """Make sure that a repository exists and may be written to.

    Args:
        name: "NAME" or "OWNER/NAME".
        kind: "model" or "space".
        private: nobody else may see it.
        options: what `HfApi.create_repo` takes.

    Returns its full name. Raises `HubError`, and `ValueError` for a name that the Hub does not allow.
    """
    check_login()
    api = HfApi()
    options |= {"repo_type": kind, "exist_ok": True, "private": private or None}
    name = _tried(name, lambda: api.create_repo(name, **options)).repo_id
    _tried(name, lambda: api.auth_check(name, repo_type=kind, write=True))
    if private and not _tried(name, lambda: api.repo_info(name, repo_type=kind)).private:
        raise HubError(f"{name} is public already; make it private in its settings on the Hub, or take another name.")
    return name


def commit(name, files, message, kind="model", removed=()):
    """Put files into a repository, in one commit.

    Args:
        name: the repository's full name.
        files: {path in the repository: path on disk}.
        removed: paths in the repository that go if they are there; whatever else is there stays.

    Returns the commit's address, that of the last one where nothing changed. Raises `HubError`.
    """

    api = HfApi()

    def attempt():
        # Operations remember what the Hub said of them; new ones ask anew what has arrived, the commit itself included.
        operations = [CommitOperationAdd(path, file) for path, file in sorted(files.items())]
        gone = [path for path in removed if api.file_exists(name, path, repo_type=kind)]
        operations += [CommitOperationDelete(path) for path in gone]
        return api.create_commit(name, operations, commit_message=message, repo_type=kind)

    return str(_tried(name, attempt))


def _tried(name, action):
    """What `action` returns; where the network or the Hub fails it is tried again, after as long as the Hub wants."""
    for left in reversed(range(TRIES)):
        try:
            return action()
        except FAILURES as error:
            cause = (isinstance(error, RuntimeError) and error.__cause__) or error
            response = getattr(cause, "response", None)
            wait = _wait(response, 2 ** (TRIES - 1 - left))
            if not left or wait is None:
                raise HubError(_sentence(name, cause, response)) from error
            logger.warning("%s; trying again in %d s.", _reason(cause, response), wait)
            time.sleep(wait)


def _wait(response, seconds):
    """Seconds after which another try may help, or None. `response` is None where the network failed."""
    if response is None or response.status_code in (408, 500, 502, 503, 504):
        return seconds
    if response.status_code != 429:
        return None
    limit, after = parse_ratelimit_headers(response.headers), response.headers.get("Retry-After", "")
    seconds = int(after) if after.isdigit() else limit.reset_in_seconds if limit else seconds
    return seconds if seconds <= LONGEST_WAIT else None


def _sentence(name, error, response):
    status = response.status_code if response is not None else None
    if status == 401:
        return "The Hub does not accept the token; log in with `hf auth login`, or put another one in HF_TOKEN."
    if status == 403:
        return f"The token has no right to write to {name}; take one that may write, or another name."
    if status and _wait(response, 0) is None and status != 429:
        return f"The Hub refuses to publish {name}: {_reason(error, response)}."
    return f"{_reason(error, response)}, and nothing of {name} was changed; publish again later."


def _reason(error, response):
    if isinstance(error, json.JSONDecodeError):
        return f"{ENDPOINT} gave an answer that is none of the Hub's"
    if response is None:
        return f"{ENDPOINT} could not be reached ({error})"
    if response.status_code == 429:
        return "The Hub asks to wait because of too many requests"
    message = getattr(error, "server_message", None) or response.reason_phrase
    return f"The Hub answers {response.status_code} ({message.strip().rstrip('.')})"
