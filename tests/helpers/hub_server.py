"""A Hub for tests: the part of its HTTP API that huggingface_hub, transformers and datasets use, stored in a folder.

`with FakeHub(folder) as hub:` serves at `hub.address`; `hub.environment(home)` makes a process use it.
`hub.fail(...)` makes the next requests fail on purpose. A repository is a folder of commits, each a JSON file that
lists the blobs of its files; the branch `main` is the last commit.
"""

import base64
import hashlib
import json
import os
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from huggingface_hub import ModelCard

from tests.helpers.photo_server import LocalServer

LFS_SUFFIXES = (".safetensors", ".parquet", ".onnx", ".wasm")
TOKENS = {"hf_writer": "write", "hf_reader": "read"}  # of the user `tester`, with their permissions
KINDS = ("models", "datasets", "spaces")


class RefusedError(Exception):
    """The answer to a request that fails."""

    def __init__(self, status, message, code=None, headers=None):
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers or {}


class Repository:
    """A repository, stored in a folder as commits and blobs."""

    def __init__(self, folder):
        self.folder = folder

    @property
    def exists(self):
        return (self.folder / "info.json").exists()

    @property
    def info(self):
        return json.loads((self.folder / "info.json").read_text())

    @property
    def commits(self):
        """IDs of the commits, oldest first."""
        return self.info["commits"]

    def create(self, private=False, sdk=None):
        (self.folder / "blobs").mkdir(parents=True)
        self._write({"private": private, "sdk": sdk, "commits": []})
        self.commit("initial commit", {".gitattributes": self.store(b"*.safetensors filter=lfs\n")})

    def add(self, folder):
        """Commit all files of a folder."""
        files = {path.relative_to(folder).as_posix(): path for path in Path(folder).rglob("*") if path.is_file()}
        self.commit("add", self.files() | {name: self.store(path.read_bytes()) for name, path in files.items()})

    def store(self, content):
        """Store a blob. Returns {"size", "sha256", "oid", "lfs"}, where `oid` is git's hash."""
        sha256 = hashlib.sha256(content).hexdigest()
        (self.folder / "blobs" / sha256).write_bytes(content)
        oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return {"size": len(content), "sha256": sha256, "oid": oid, "lfs": False}

    def holds(self, sha256):
        return (self.folder / "blobs" / sha256).exists()

    def content(self, entry):
        return (self.folder / "blobs" / entry["sha256"]).read_bytes()

    def commit(self, title, files):
        """Commit the whole tree `files`, {path: entry}. Returns the ID of the commit."""
        sha = hashlib.sha1(json.dumps([self.info["commits"], title, files]).encode()).hexdigest()
        (self.folder / f"{sha}.json").write_text(json.dumps({"title": title, "files": files}))
        self._write(self.info | {"commits": [*self.info["commits"], sha]})
        return sha

    def files(self, revision="main"):
        """{path: entry} of a commit. Raises `RefusedError` if the revision does not exist."""
        return json.loads((self.folder / f"{self.resolve(revision)}.json").read_text())["files"]

    def resolve(self, revision):
        if revision == "main":
            return self.commits[-1]
        for sha in self.commits:
            if sha == revision:
                return sha
        raise RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def read(self, path, revision="main"):
        return self.content(self.files(revision)[path])

    def _write(self, info):
        (self.folder / "info.json").write_text(json.dumps(info))


class FakeHub(LocalServer):
    def __init__(self, folder):
        self.folder = Path(folder)
        self.lock = threading.RLock()
        self.failures, self.requests = [], []
        super().__init__(Handler)

    def environment(self, home):
        """Environment variables of a process that uses this Hub, with its cache in the folder `home`."""
        # Without Xet, files are uploaded by LFS.
        hub = {"HF_ENDPOINT": self.address, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
        return os.environ | hub | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}

    def repository(self, name, kind="models"):
        return Repository(self.folder / kind / name)

    def fail(self, method, path, how, times=1, **headers):
        """Make the next `times` requests of `method` whose path matches `path` fail.

        Args:
            how: a status; "drop" to close the connection halfway through the request; or "lose" to carry out the
                request and close the connection without an answer.
        """
        self.failures += [(method, re.compile(path), how, headers)] * times

    def count(self, method, path):
        """Number of requests received."""
        return sum(method == requested and bool(re.search(path, url)) for requested, url in self.requests)

    def planned(self, method, path):
        with self.lock:
            self.requests.append((method, path))
            for failure in self.failures:
                if failure[0] == method and failure[1].search(path):
                    self.failures.remove(failure)
                    return failure[2:]
        return None, {}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner = None

    def log_message(self, *arguments):
        pass

    def serve(self):
        """Answer one request, or fail it as planned."""
        how, headers = self.owner.planned(self.command, self.path)
        length = int(self.headers.get("Content-Length", 0))
        if how == "drop":
            self.rfile.read(length // 2)
            return self.hang_up()
        body = self.chunked() if self.headers.get("Transfer-Encoding") == "chunked" else self.rfile.read(length)
        try:
            if how == 502:  # from a gateway, not in the Hub's format
                return self.send(b"<html>Bad Gateway</html>", how, {"Content-Type": "text/html"})
            if isinstance(how, int):
                raise RefusedError(how, "failed on purpose", headers=headers)
            with self.owner.lock:
                answer = self.answer(body)
        except RefusedError as refused:
            headers = refused.headers | {"X-Error-Code": refused.code or "", "X-Error-Message": str(refused)}
            return self.send(json.dumps({"error": str(refused)}).encode(), refused.status, headers)
        if how == "lose":
            return self.hang_up()
        return self.send(*answer) if isinstance(answer, tuple) else self.send(json.dumps(answer).encode())

    do_GET = do_HEAD = do_POST = do_PUT = serve  # noqa: N815  (the names of http.server)

    def hang_up(self):
        self.close_connection = True
        self.connection.close()

    def chunked(self):
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def send(self, content, status=200, headers=None):
        headers = {"Content-Type": "application/json"} | (headers or {})
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted and status == 200:
            first, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content, status = content[first : last + 1], 206
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def answer(self, body):
        """Answer like the Hub: an object to send as JSON, or (content, status, headers)."""
        path = unquote(urlsplit(self.path).path)
        for method, pattern, function in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command in method:
                return function(self, body, **found.groupdict())
        raise RefusedError(404, f"{self.command} {path} is not implemented")

    def role(self):
        """Permission of the request's token: "write", "read", or None without a token. Refuses unknown tokens."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in TOKENS:
            raise RefusedError(401, "Invalid credentials in Authorization header")
        return TOKENS.get(token)

    def repository(self, kind, name, write=False):
        """Return a repository, or refuse the request as the Hub does if reading or writing is not permitted."""
        repository, role = self.owner.repository(name, kind.strip("/") or "models"), self.role()
        if not repository.exists or (repository.info["private"] and not role):
            raise RefusedError(404 if role else 401, "Repository not found", "RepoNotFound")
        if write:
            self.may_write(name.split("/")[0])
        return repository

    def may_write(self, owner):
        if not self.role():
            raise RefusedError(401, "Unauthorized")
        if self.role() != "write" or owner != "tester":
            raise RefusedError(403, f"You don't have the rights to write to the namespace {owner!r}")

    def whoami(self, body):
        if not self.role():
            raise RefusedError(401, "Invalid username or password.")
        return {"type": "user", "name": "tester", "orgs": [], "auth": {"accessToken": {"role": self.role()}}}

    def create(self, body):
        wanted = json.loads(body)
        owner, kind = wanted.get("organization") or "tester", f"{wanted.get('type') or 'model'}s"
        self.may_write(owner)
        repository = self.owner.repository(f"{owner}/{wanted['name']}", kind)
        answer = {"url": f"{self.owner.address}/{'' if kind == 'models' else kind + '/'}{owner}/{wanted['name']}"}
        if repository.exists:
            return json.dumps(answer | {"error": "You already created this repo"}).encode(), 409, {}
        repository.create(wanted.get("visibility") == "private", wanted.get("sdk"))
        return answer

    def validate(self, body):
        """A simplified version of the Hub's validation of model cards."""
        try:
            card = ModelCard(json.loads(body)["content"])
            errors = [] if card.data.to_dict() else ["no metadata"]
            known = {"language", "license", "pipeline_tag", "library_name", "base_model"}
            errors += [f"{key} must be a string" for key in known if not isinstance(card.data.get(key, ""), str | list)]
        except (ValueError, yaml.YAMLError) as error:
            errors = [str(error)]
        content = json.dumps({"errors": [{"message": error} for error in errors], "warnings": []})
        return content.encode(), 400 if errors else 200, {}

    def preupload(self, body, kind, name, revision):
        files = self.repository(kind, name, write=True).files(revision)
        answers = []
        for file in json.loads(body)["files"]:
            lfs, existing = file["path"].endswith(LFS_SUFFIXES), files.get(file["path"])
            answers.append(
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if lfs else "regular",
                    "shouldIgnore": False,
                    "oid": existing and existing["sha256" if lfs else "oid"],
                }
            )
        return {"files": answers}

    def batch(self, body, kind, name):
        repository = self.repository(kind, name, write=True)
        objects = json.loads(body)["objects"]
        for blob in objects:
            if not repository.holds(blob["oid"]):
                href = f"{self.owner.address}/lfs/{kind.strip('/') or 'models'}/{name}/{blob['oid']}"
                blob["actions"] = {"upload": {"href": href}}
        content = json.dumps({"transfer": "basic", "objects": objects}).encode()
        return content, 200, {"Content-Type": "application/vnd.git-lfs+json"}

    def upload(self, body, kind, name, oid):
        if hashlib.sha256(body).hexdigest() != oid:
            raise RefusedError(400, "the content does not match its hash")
        self.owner.repository(name, kind).store(body)
        return {}

    def commit(self, body, kind, name, revision):
        repository = self.repository(kind, name, write=True)
        files = repository.files(revision)
        header, *operations = [json.loads(line) for line in body.splitlines()]
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "deletedFile":
                files.pop(value["path"])
            elif operation["key"] == "file":
                files[value["path"]] = repository.store(base64.b64decode(value["content"]))
            elif not repository.holds(value["oid"]):
                raise RefusedError(400, f"{value['path']} was not uploaded")
            else:
                content = repository.content({"sha256": value["oid"]})
                files[value["path"]] = repository.store(content) | {"lfs": True}
        sha = repository.commit(header["value"]["summary"], files)
        prefix = "" if kind == "models" else f"{kind}/"
        return {"success": True, "commitOid": sha, "commitUrl": f"{self.owner.address}/{prefix}{name}/commit/{sha}"}

    def info(self, body, kind, name, revision="main"):
        repository = self.repository(kind, name)
        sha, files = repository.resolve(revision), repository.files(revision)
        card = ModelCard(repository.read("README.md", sha).decode()).data.to_dict() if "README.md" in files else {}
        return {
            "_id": "0" * 24,
            "id": name,
            "sha": sha,
            "private": repository.info["private"],
            "tags": card.get("tags", []),
            "cardData": card,
            "model-index": card.get("model-index"),
            "pipeline_tag": card.get("pipeline_tag"),
            "library_name": card.get("library_name"),
            "lastModified": "2026-01-01T00:00:00.000Z",
            "siblings": [{"rfilename": path} for path in files],
        }

    def auth_check(self, body, kind, name, write):
        self.repository(kind, name, write=bool(write))
        return {}

    def tree(self, body, kind, name, revision, path=""):
        files, below = self.repository(kind, name).files(revision), f"{path}/" if path else ""
        if path and not any(file.startswith(below) for file in files):
            raise RefusedError(404, f"{path} does not exist", "EntryNotFound")
        recursive = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() == "true"
        folders = Counter(
            parent.as_posix() for file in files if file.startswith(below) for parent in Path(file).parents[:-1]
        )
        entries = [_folder(name) for name in folders if name.startswith(below)]
        entries += [_file(file, entry) for file, entry in files.items() if file.startswith(below)]
        return [entry for entry in entries if recursive or "/" not in entry["path"].removeprefix(below)]

    def paths_info(self, body, kind, name, revision):
        files = self.repository(kind, name).files(revision)
        form = json.loads(body) if body.startswith(b"{") else parse_qs(body.decode())
        paths = [path.strip("/") for path in form["paths"]]
        return [
            _file(path, files[path]) if path in files else _folder(path)
            for path in paths
            if path in files or any(file.startswith(f"{path}/") for file in files)
        ]

    def file(self, body, kind, name, revision, path):
        repository = self.repository(kind, name)
        sha, files = repository.resolve(revision), repository.files(revision)
        if path not in files:
            raise RefusedError(404, f"{path} does not exist", "EntryNotFound", {"X-Repo-Commit": sha})
        etag = files[path]["sha256" if files[path]["lfs"] else "oid"]
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        return repository.content(files[path]), 200, headers | {"Content-Type": "application/octet-stream"}


def _folder(path):
    return {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0}


def _file(path, entry):
    answer = {"type": "file", "path": path, "oid": entry["oid"], "size": entry["size"]}
    if entry["lfs"]:
        answer["lfs"] = {"oid": entry["sha256"], "size": entry["size"], "pointerSize": 134}
    return answer


NAME = r"(?P<name>[^/]+/[^/]+)"
API = rf"/api/(?P<kind>{'|'.join(KINDS)})/{NAME}"
PAGE = rf"/(?P<kind>datasets/|spaces/|){NAME}"
REVISION = r"(?P<revision>[^/]+)"
ROUTES = [
    ("GET", "/api/whoami-v2", Handler.whoami),
    ("POST", "/api/repos/create", Handler.create),
    ("POST", "/api/validate-yaml", Handler.validate),
    ("POST", rf"{API}/preupload/{REVISION}", Handler.preupload),
    ("POST", rf"{PAGE}\.git/info/lfs/objects/batch", Handler.batch),
    ("PUT", rf"/lfs/(?P<kind>\w+)/{NAME}/(?P<oid>\w+)", Handler.upload),
    ("POST", rf"{API}/commit/{REVISION}", Handler.commit),
    ("GET", rf"{API}", Handler.info),
    ("GET", rf"{API}/auth-check(?P<write>/write)?", Handler.auth_check),
    ("GET", rf"{API}/revision/{REVISION}", Handler.info),
    ("GET", rf"{API}/tree/{REVISION}(/(?P<path>.+))?", Handler.tree),
    ("POST", rf"{API}/paths-info/{REVISION}", Handler.paths_info),
    (("GET", "HEAD"), rf"{PAGE}/resolve/{REVISION}/(?P<path>.+)", Handler.file),
]
