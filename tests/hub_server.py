"""A Hub in this process: the paths that huggingface_hub uses for models, with the answers that the real one gives.

Repositories with commits, branches and tags; private ones; names of owners; LFS storage behind another host, to which
no token may go. What it does not have is Xet, the newer storage of the real Hub, which huggingface_hub uses in place of
LFS where its library hf_xet is installed.
"""

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

TOKEN = "hf_ofalice"
OWNER = "alice"
LICENSES = {"apache-2.0", "mit", "cc-by-nc-4.0", "other"}


@dataclass
class Repo:
    """commits: the files of each, by its id. refs: commits of branches and tags."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes]) -> str:
        """Add files to the newest ones; the new commit."""
        now = self.commits.get(self.refs.get("main", ""), {}) | files
        name = hashlib.sha1(repr((sorted(now.items()), len(self.commits))).encode()).hexdigest()
        self.commits[name], self.refs["main"] = now, name
        return name

    def find(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.refs.get(revision)


@dataclass
class Hub:
    """repos: by "owner/name". calls: of each request its method and path. fail: a status to answer to all of them."""

    url: str = ""
    storage: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    fail: int = 0

    def paths(self, method: str) -> list[str]:
        return [path for called, path in self.calls if called == method]


@contextmanager
def hub_server(patch: pytest.MonkeyPatch, cache: Any) -> Iterator[Hub]:
    """Run one, and point huggingface_hub at it, with an empty cache and nobody logged in."""
    constants = pytest.importorskip("huggingface_hub.constants")
    hub = Hub()
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    hub.url, hub.storage = f"http://127.0.0.1:{http.server_port}", f"http://localhost:{http.server_port}"
    patch.setenv("HF_ENDPOINT", hub.url)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        patch.delenv(name, raising=False)
    read_at_import = {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_URL_HOSTS": {"127.0.0.1"},
        "HF_HUB_CACHE": str(cache),
        "HF_TOKEN_PATH": "/nowhere",
        "HF_HUB_DISABLE_XET": True,
    }
    http_module = pytest.importorskip("huggingface_hub.utils._http")
    if hasattr(http_module, "time"):  # retries need not wait
        patch.setattr(http_module, "time", SimpleNamespace(sleep=lambda seconds: None, time=time.time))
    for name, value in read_at_import.items():
        patch.setattr(constants, name, value, raising=False)
    try:
        yield hub
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer()

        do_GET = do_POST = do_PUT = do_HEAD

        def log_message(self, *_: object) -> None:
            pass

        def answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.calls.append((self.command, path))
            self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Transfer-Encoding") == "chunked":
                self.body = self.chunks()
            if hub.fail:
                self.send(hub.fail, {"error": "made to fail"})
                return
            for method, pattern, respond in _ROUTES:
                found = re.fullmatch(pattern, path)
                if found and self.command in method.split():
                    respond(self, **found.groupdict())
                    return
            self.send(404, {"error": f"this Hub has no {self.command} {path}"})

        def chunks(self) -> bytes:
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def send(self, status: int, value: Any = b"", **headers: str) -> None:
            content = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            for name, text in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name.replace("_", "-"), text)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def refuse(self, status: int, code: str, message: str) -> None:
            self.send(status, {"error": message}, X_Error_Code=code, X_Error_Message=message)

        def token(self) -> str | None:
            return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

        def repo(self, name: str, write: bool = False) -> Repo | None:
            """The repository if the caller may use it; else the answer is given."""
            repo, mine = hub.repos.get(name), self.token() == TOKEN and name.startswith(f"{OWNER}/")
            if repo is None or (repo.private and not mine):
                known = self.token() == TOKEN
                message = "Repository not found" if known else "Invalid username or password."
                self.refuse(404 if known else 401, "RepoNotFound", message)
                return None
            if write and not mine:
                self.refuse(403, "Forbidden", "Forbidden: pass `create_pr=1` as a query parameter to create a PR")
                return None
            return repo

        def create(self) -> None:
            asked = json.loads(self.body)
            name = f"{asked['organization']}/{asked['name']}"
            if self.token() != TOKEN:
                self.refuse(401, "", "Invalid credentials in Authorization header")
            elif asked["organization"] != OWNER:
                self.refuse(403, "", f'You don\'t have the rights to create a model under "{asked["organization"]}"')
            elif name in hub.repos:
                self.send(409, {"error": "You already created this model repo", "url": f"{hub.url}/{name}"})
            else:
                private = asked.get("private", asked.get("visibility") == "private")
                hub.repos[name] = Repo(private)
                hub.repos[name].commit({".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
                self.send(200, {"url": f"{hub.url}/{name}", "name": name})

        def validate(self) -> None:
            block = json.loads(self.body)["content"].split("---\n")[1]
            import yaml  # comes with huggingface_hub

            license = yaml.safe_load(block).get("license")
            errors = [] if license in LICENSES else [{"message": f'"license" must be one of {sorted(LICENSES)}'}]
            self.send(400 if errors else 200, {"errors": errors, "warnings": []})

        def info(self, name: str, revision: str = "main") -> None:
            if (repo := self.repo(name)) is not None:
                files = [{"rfilename": file} for file in repo.commits[repo.refs[revision]]]
                about = {"sha": repo.refs[revision], "private": repo.private, "siblings": files, "tags": []}
                self.send(200, {"_id": "1", "id": name, "modelId": name, "downloads": 0, "likes": 0} | about)

        def settings(self, name: str) -> None:
            if (repo := self.repo(name, write=True)) is not None:
                asked = json.loads(self.body)
                repo.private = asked.get("private", asked.get("visibility") == "private")
                self.send(200, {"private": repo.private})

        def preupload(self, name: str, revision: str) -> None:
            if self.repo(name, write=True) is not None:
                modes = [
                    {"path": file["path"], "uploadMode": _mode(file["path"]), "shouldIgnore": False, "oid": None}
                    for file in json.loads(self.body)["files"]
                ]
                self.send(200, {"files": modes})

        def batch(self, name: str) -> None:
            if self.repo(name, write=True) is not None:
                objects = []
                for asked in json.loads(self.body)["objects"]:
                    oid = asked["oid"]
                    upload = {"href": f"{hub.storage}/storage/{oid}"}
                    verify = {"href": f"{hub.url}/{name}.git/info/lfs/objects/verify"}
                    actions = {} if oid in hub.blobs else {"actions": {"upload": upload, "verify": verify}}
                    objects.append(asked | {"authenticated": True} | actions)
                self.send(200, {"transfer": "basic", "objects": objects})

        def verify(self, name: str) -> None:
            asked = json.loads(self.body)
            whole = len(hub.blobs.get(asked["oid"], b"")) == asked["size"]
            self.send(200 if whole else 404, {"message": "ok"})

        def store(self, oid: str) -> None:
            if self.token() or hashlib.sha256(self.body).hexdigest() != oid:
                self.send(400, {"error": "a token that is not for this host, or another content"})
                return
            hub.blobs[oid] = self.body
            self.send(200)

        def stored(self, oid: str) -> None:
            if self.token():
                self.send(400, {"error": "a token that is not for this host"})
                return
            self.send(200, hub.blobs[oid], ETag=f'"{oid}"')

        def commit(self, name: str, revision: str) -> None:
            if (repo := self.repo(name, write=True)) is None:
                return
            files = {}
            for line in map(json.loads, self.body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                if line["key"] == "lfsFile":
                    files[value["path"]] = hub.blobs[value["oid"]]
            oid = repo.commit(files)
            self.send(200, {"success": True, "commitOid": oid, "commitUrl": f"{hub.url}/{name}/commit/{oid}"})

        def resolve(self, name: str, revision: str, file: str) -> None:
            if (repo := self.repo(name)) is None:
                return
            if (commit := repo.find(revision)) is None:
                self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
                return
            content = repo.commits[commit].get(file)
            if content is None:
                message = "Entry not found"
                about = {"X_Error_Code": "EntryNotFound", "X_Error_Message": message, "X_Repo_Commit": commit}
                self.send(404, {"error": message}, **about)
            elif _mode(file) == "lfs":
                oid = hashlib.sha256(content).hexdigest()
                hub.blobs[oid] = content
                linked = {"X_Linked_Etag": f'"{oid}"', "X_Linked_Size": str(len(content)), "X_Repo_Commit": commit}
                self.send(302, b"", Location=f"{hub.storage}/storage/{oid}", **linked)
            else:
                etag = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
                self.send(200, content, ETag=f'"{etag}"', X_Repo_Commit=commit)

    _NAME = r"(?P<name>[^/]+/[^/]+)"
    _ROUTES: list[tuple[str, str, Any]] = [
        ("POST", "/api/repos/create", Handler.create),
        ("POST", "/api/validate-yaml", Handler.validate),
        ("GET", f"/api/models/{_NAME}", Handler.info),
        ("GET", f"/api/models/{_NAME}/revision/(?P<revision>.+)", Handler.info),
        ("PUT", f"/api/models/{_NAME}/settings", Handler.settings),
        ("POST", f"/api/models/{_NAME}/preupload/(?P<revision>.+)", Handler.preupload),
        ("POST", f"/api/models/{_NAME}/commit/(?P<revision>.+)", Handler.commit),
        ("POST", f"/{_NAME}.git/info/lfs/objects/batch", Handler.batch),
        ("POST", f"/{_NAME}.git/info/lfs/objects/verify", Handler.verify),
        ("PUT", "/storage/(?P<oid>.+)", Handler.store),
        ("GET HEAD", "/storage/(?P<oid>.+)", Handler.stored),
        ("GET HEAD", f"/{_NAME}/resolve/(?P<revision>.+)/(?P<file>[^/]+)", Handler.resolve),
    ]
    return Handler


def _mode(file: str) -> str:
    return "lfs" if file.endswith((".safetensors", ".bin")) else "regular"
