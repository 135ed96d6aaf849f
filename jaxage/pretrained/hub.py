"""Models on the Hugging Face Hub: the only file that speaks with it."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jaxage.types import Json, RunPath, UserError
from jaxage.utils.extras import require

CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "model.json", "model.safetensors", "README.md"
_HUB_PATH = re.compile(r"hf:/{1,2}(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>.+))?")
Access = Literal["read", "write"]
_NOT_OURS = (
    f"is no model of jaxage: it does not have both {CONFIG_FILE} and {WEIGHTS_FILE}; name one that jaxage push made"
)
_LOGIN = "set HF_TOKEN or run `hf auth login`"


class HubModel(NamedTuple):
    """A model on the Hub. repo: "owner/name". revision: a branch, a tag or a commit; None for the newest."""

    repo: str
    revision: str | None

    def __str__(self) -> str:
        return f"hf://{self.repo}" + (f"@{self.revision}" if self.revision else "")


class Pushed(NamedTuple):
    """A model that was uploaded. url: its page. model: the commit. private: whether only its owner sees it."""

    url: str
    model: HubModel
    private: bool


def parse_hub_path(run: RunPath) -> HubModel | None:
    """The model that `hf://owner/name` or `hf://owner/name@revision` names; None for any other path.

    A `Path` has `hf:/` in place of `hf://`, which is the same.

    Raises:
        UserError: for a path that begins so and names no model.
    """
    text = run.as_posix() if isinstance(run, Path) else run
    if not text.startswith("hf:/"):
        return None
    found = _HUB_PATH.fullmatch(text)
    if found is None:
        name = text.removeprefix("hf:").lstrip("/")
        raise UserError(f"hf://{name} names no model of the Hub: write hf://OWNER/NAME or hf://OWNER/NAME@REVISION")
    return HubModel(found["repo"], found["revision"])


def resolve_model(run: RunPath) -> Path:
    """The local folder of a run or model: `run` itself, or for `hf://owner/name@revision` the files from the Hub.

    `model.json`, `model.safetensors` and the card of one commit are downloaded into the cache of huggingface_hub, and
    nothing else is. What is there already is not downloaded again, and is used when the Hub cannot be reached.

    Args:
        run: A local path, or one of the Hub.

    Returns:
        A folder. That of a model of the Hub belongs to the cache: write nothing into it.

    Raises:
        UserError: for a model that is not there or not one of jaxage's, no connection, or a missing extra `hub`.
    """
    model = parse_hub_path(run)
    if model is None:
        return Path(run)
    return download(model, (CONFIG_FILE, WEIGHTS_FILE), (CARD_FILE,), _NOT_OURS)


def download(model: HubModel, files: Sequence[str], optional: Sequence[str], absent: str) -> Path:
    """Download files of one commit into the cache of huggingface_hub; the folder that they are in.

    Args:
        model: Where they are.
        files: Their names. All of them must be there.
        optional: Names of files that are downloaded if they are there.
        absent: Says why the model cannot be used if a file is not there.

    Raises:
        UserError: as `resolve_model` does.
    """
    hub = _hub(str(model))
    api = _client(hub)
    with _explained(api, model, "read", absent):
        first, *others = files
        folder = Path(api.hf_hub_download(model.repo, first, revision=model.revision)).parent
        for name in others:
            api.hf_hub_download(model.repo, name, revision=folder.name)  # the folder is named by the commit
        for name in optional:
            with suppress(hub.errors.EntryNotFoundError):
                api.hf_hub_download(model.repo, name, revision=folder.name)
    return folder


def upload_model(repo: str, files: Mapping[str, bytes | Path], message: str, public: bool) -> Pushed:
    """Add files to a repository of models, which is made if need be, in one commit.

    Args:
        repo: "owner/name".
        files: Names in the repository, and what they hold.
        message: Of the commit.
        public: Whether everybody may see the repository. If not, one that is public already is refused.

    Raises:
        UserError: if the Hub cannot be reached or refuses, for a name that cannot be, nobody logged in, and a missing
            extra `hub`.
    """
    hub = _hub("push")
    api, model = _client(hub), HubModel(repo, None)
    if not re.fullmatch(r"[^/]+/[^/]+", repo):
        raise UserError(f"{repo} is no name on the Hub: write OWNER/NAME")
    if hub.get_token() is None:
        raise UserError(f"nobody is logged in to the Hub: {_LOGIN}, with a token that may write")
    with _explained(api, model, "write"):
        api.create_repo(repo, private=not public, exist_ok=True)
        private = bool(api.model_info(repo).private)
        if not (private or public):
            raise UserError(f"{repo} is public already: add --public, or choose another name")
        additions = [hub.CommitOperationAdd(name, _content(content)) for name, content in files.items()]
        commit = api.create_commit(repo, additions, commit_message=message)
        if private and public:
            api.update_repo_settings(repo, private=False)
    return Pushed(f"{api.endpoint}/{repo}", HubModel(repo, commit.oid), not public)


def with_metadata(metadata: Json, text: str) -> str:
    """A card: the metadata as YAML, in the form that the Hub reads, and the text. Needs the extra `hub`."""
    dump = require("huggingface_hub.utils", "hub", "a card of the Hub").yaml_dump
    return f"---\n{dump(metadata, sort_keys=False)}---\n\n{text}"


def _content(content: bytes | Path) -> bytes | str:
    return str(content) if isinstance(content, Path) else content


def _hub(what: str) -> Any:
    return require("huggingface_hub", "hub", what)


def _client(hub: Any) -> Any:
    """For the address that HF_ENDPOINT names now; huggingface_hub itself reads it once."""
    return hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, library_name="jaxage")


@contextmanager
def _explained(api: Any, model: HubModel, access: Access, absent: str = "") -> Iterator[None]:
    """What huggingface_hub raises, as a UserError of one sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        wraps = isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception)
        sentence = _sentence(error.__cause__ if wraps else error, api.endpoint, model, access, absent)
        if sentence is None:
            raise
        raise UserError(sentence) from error


def _sentence(error: Any, endpoint: str, model: HubModel, access: Access, absent: str) -> str | None:
    """What an error means, and what to do; None for one that is not of the Hub, the network or the disk."""
    errors = require("huggingface_hub.errors", "hub", "the Hub")
    http_error = errors.HfHubHTTPError.__bases__[0]  # of the HTTP library that this version of huggingface_hub uses
    check = "check the connection, HF_ENDPOINT and HF_HUB_OFFLINE"
    if isinstance(error, errors.HFValidationError):
        return f"{model.repo} is no name on the Hub ({_on_one_line(error)}): write OWNER/NAME"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return f"{model}: {endpoint} does not answer, and the model was not downloaded before: {check}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{model}: the model has no such revision: name one of its branches, tags or commits"
    if isinstance(error, errors.EntryNotFoundError):
        return f"{model} {absent}"
    if isinstance(error, errors.HfHubHTTPError):
        return f"{model}: {_refusal(error, endpoint, model, access)}"
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
        return f"{error.filename or model}: {error.strerror}; HF_HOME names another folder for models of the Hub"
    if isinstance(error, OSError | http_error):
        return f"{model}: {endpoint} does not answer ({_on_one_line(error)}): {check}"
    if isinstance(error, ValueError):
        return f"{model}: {endpoint} refuses it ({_on_one_line(error)})"
    return None


def _refusal(error: Any, endpoint: str, model: HubModel, access: Access) -> str:
    """What an answer of the Hub means, and what to do."""
    status = error.response.status_code
    owner = model.repo.partition("/")[0]
    if access == "read" and status in (401, 403, 404):
        return f"there is no such model, or you may not read it: check the name; for a private one {_LOGIN}"
    if status == 401:
        return f"{endpoint} does not know your token: make one that may write, and {_LOGIN}"
    if status in (403, 404):
        return f"your token may not write for {owner}: check the name, make a token that may, and {_LOGIN}"
    if status == 429 or status >= 500:
        return f"{endpoint} answers {status}: try again later"
    return f"{endpoint} refuses it ({status}): {error.server_message or _on_one_line(error)}"


def _on_one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
