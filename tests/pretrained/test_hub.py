import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jaxage.pretrained.hub import HubModel, parse_hub_path, resolve_model, upload_model
from jaxage.types import UserError
from tests.hub_server import TOKEN, Hub, Repo, hub_server

REPO = "alice/ages"
FILES = {
    "README.md": b"---\nlicense: mit\n---\n# ages\n",
    "model.json": b'{"arch": "x"}',
    "model.safetensors": b"w" * 999,
}

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's use of httpx


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with hub_server(monkeypatch, tmp_path / "cache") as server:
        yield server


@pytest.fixture
def alice(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub


def serve(hub: Hub, **files: bytes) -> str:
    """A public repository of somebody; its commit."""
    repo = hub.repos.setdefault("bob/model", Repo(private=False))
    return repo.commit({name.replace("__", "."): content for name, content in files.items()})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf://owner/name", HubModel("owner/name", None)),
        ("hf://owner/name@v1.0", HubModel("owner/name", "v1.0")),
        ("hf://owner/name@refs/pr/3", HubModel("owner/name", "refs/pr/3")),
        ("runs/hf", None),
        ("/hf:/owner/name", None),
    ],
)
def test_a_path_of_the_hub_is_told_from_others_also_as_a_path(text: str, expected: HubModel | None) -> None:
    assert parse_hub_path(text) == parse_hub_path(Path(text)) == expected
    assert expected is None or str(expected) == text


@pytest.mark.parametrize("text", ["hf://", "hf://name", "hf://owner/name/more", "hf://owner/name@", "hf:///name"])
def test_a_path_of_the_hub_that_names_no_model_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="hf://OWNER/NAME@REVISION"):
        parse_hub_path(text)


def test_what_is_uploaded_comes_back_byte_for_byte(alice: Hub, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.write_bytes(FILES["model.safetensors"])
    pushed = upload_model(REPO, FILES | {"model.safetensors": weights}, "first", public=False)
    repo = alice.repos[REPO]
    assert len(repo.commits) == 2  # the Hub's own first one, and ours
    assert repo.commits[pushed.model.revision or ""].keys() == {".gitattributes", *FILES}
    folder = resolve_model(str(pushed.model))
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "model.json", "model.safetensors"]
    for path in folder.iterdir():
        assert path.read_bytes() == FILES[path.name]
    gets = [path.rsplit("/", 1)[1] for path in alice.paths("GET") if "/resolve/" in path]
    assert gets == ["model.json", "README.md"]  # the weights came from the storage, without the token
    assert len([path for path in alice.paths("PUT") if "/storage/" in path]) == 1


def test_a_model_is_private_unless_it_is_to_be_public(alice: Hub) -> None:
    pushed = upload_model(REPO, FILES, "first", public=False)
    assert alice.repos[REPO].private
    assert pushed.private
    assert not upload_model(REPO, FILES, "second", public=True).private
    assert not alice.repos[REPO].private
    before = len(alice.repos[REPO].commits)
    with pytest.raises(UserError, match="alice/ages is public already: add --public"):
        upload_model(REPO, FILES, "third", public=False)
    assert len(alice.repos[REPO].commits) == before
    upload_model("alice/open", FILES, "first", public=True)
    assert not alice.repos["alice/open"].private


def test_a_revision_is_that_of_then_and_without_one_it_is_the_newest(hub: Hub) -> None:
    first = serve(hub, model__json=b"1", model__safetensors=b"one")
    hub.repos["bob/model"].refs["v1"] = first
    second = serve(hub, model__json=b"2", model__safetensors=b"two")
    for revision, text in (("@v1", "one"), (f"@{first}", "one"), ("", "two"), (f"@{second}", "two")):
        folder = resolve_model(Path(f"hf://bob/model{revision}"))
        assert (folder / "model.safetensors").read_text() == text


def test_both_files_are_of_one_commit_though_a_push_comes_between(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    serve(hub, model__json=b"1", model__safetensors=b"one")
    download = huggingface_hub.HfApi.hf_hub_download

    def then_pushed(api: huggingface_hub.HfApi, repo: str, name: str, **more: str | None) -> str:
        path = str(download(api, repo, name, **more))
        serve(hub, model__json=b"2", model__safetensors=b"two")
        return path

    monkeypatch.setattr(huggingface_hub.HfApi, "hf_hub_download", then_pushed)
    folder = resolve_model("hf://bob/model")
    assert [(folder / name).read_bytes() for name in ("model.json", "model.safetensors")] == [b"1", b"one"]


def test_what_was_downloaded_is_used_when_the_hub_is_away(hub: Hub) -> None:
    commit = serve(hub, model__json=b"1", model__safetensors=b"one")
    folder = resolve_model("hf://bob/model")
    hub.fail = 503
    assert resolve_model("hf://bob/model") == resolve_model(f"hf://bob/model@{commit}") == folder


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("hf://bob/nothing", "no such model, or you may not read it: .* HF_TOKEN or run `hf auth login`"),
        ("hf://alice/secret", "no such model, or you may not read it: .* HF_TOKEN or run `hf auth login`"),
        ("hf://bob/model@v9", "hf://bob/model@v9: the model has no such revision"),
        ("hf://bob/model", "no model of jaxage: it does not have both model.json and model.safetensors"),
        ("hf://bob/..model", "is no name on the Hub"),
    ],
)
@pytest.mark.parametrize("token", [None, "hf_ofbob"])
def test_what_cannot_be_read_is_one_sentence(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, path: str, words: str, token: str | None
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    serve(hub, pytorch_model__bin=b"\x80\x04pickle", config__json=b"{}")
    hub.repos["alice/secret"] = Repo(private=True)
    hub.repos["alice/secret"].commit(FILES)
    with pytest.raises(UserError, match=words) as caught:
        resolve_model(path)
    assert "\n" not in str(caught.value)
    assert not [path for path in hub.paths("GET") if "pickle" in path or "pytorch_model" in path]


def test_weights_that_are_only_a_pickle_are_not_fetched(hub: Hub) -> None:
    serve(hub, pytorch_model__bin=b"\x80\x04pickle", model__json=b"{}")
    with pytest.raises(UserError, match=r"does not have both model\.json and model\.safetensors"):
        resolve_model("hf://bob/model")
    assert not any("pytorch_model" in path for _, path in hub.calls)


@pytest.mark.parametrize(
    ("repo", "token", "words"),
    [
        (REPO, None, "nobody is logged in to the Hub: set HF_TOKEN or run `hf auth login`"),
        (REPO, "hf_wrong", "does not know your token"),
        ("bob/ages", TOKEN, "your token may not write for bob"),
        ("ages", TOKEN, "ages is no name on the Hub: write OWNER/NAME"),
        ("alice/ages/1", TOKEN, "is no name on the Hub: write OWNER/NAME"),
        ("alice/-ages", TOKEN, "is no name on the Hub"),
    ],
)
def test_what_cannot_be_written_is_one_sentence(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, repo: str, token: str | None, words: str
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UserError, match=words) as caught:
        upload_model(repo, FILES, "message", public=False)
    assert "\n" not in str(caught.value)
    assert not hub.repos


def test_somebody_elses_public_model_is_not_written_to(alice: Hub) -> None:
    serve(alice, model__json=b"1")
    with pytest.raises(UserError, match="your token may not write for bob"):
        upload_model("bob/model", FILES, "message", public=True)


def test_metadata_that_the_hub_refuses_are_named(alice: Hub) -> None:
    with pytest.raises(UserError, match='"license" must be one of'):
        upload_model(REPO, FILES | {"README.md": b"---\nlicense: mine\n---\n"}, "message", public=False)


@pytest.mark.parametrize("status", [413, 500])
def test_other_answers_are_named_by_their_number(alice: Hub, status: int) -> None:
    alice.fail = status
    with pytest.raises(UserError, match=str(status)):
        upload_model(REPO, FILES, "message", public=False)


def test_no_network_is_one_sentence(alice: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda _: None)  # between tries
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:9 does not answer.*check the connection"):
        upload_model(REPO, FILES, "message", public=False)
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:9 does not answer.*check the connection"):
        resolve_model("hf://alice/ages")


def test_a_cache_that_cannot_be_written_is_named(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    serve(hub, model__json=b"1", model__safetensors=b"one")
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="HF_HOME names another folder"):
        resolve_model("hf://bob/model")


def test_a_local_path_needs_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert resolve_model("runs/a") == Path("runs/a")
    with pytest.raises(UserError, match=r"hf://owner/name needs huggingface_hub: pip install 'jaxage\[hub\]'"):
        resolve_model("hf://owner/name")
