"""The model card as the Hugging Face Hub reads it: metadata, the card of the run, how to use it, and its license."""

import re
from typing import NamedTuple

from jaxage.metrics import METRICS
from jaxage.types import Json, UserError

_BASE_MODELS = {
    "resnet18.imagenet1k_v1": "timm/resnet18.tv_in1k",
    "resnet34.imagenet1k_v1": "timm/resnet34.tv_in1k",
    "resnet50.imagenet1k_v1": "timm/resnet50.tv_in1k",
    "resnet50.imagenet1k_v2": "timm/resnet50.tv2_in1k",
}
"""Weights of jaxage's manifest that are also on the Hub."""

# fmt: off
_LICENSES = frozenset({
    "apache-2.0", "mit", "openrail", "bsd", "bsd-2-clause", "bsd-3-clause", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5",
    "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0",
    "cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0",
    "cdla-sharing-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "c-uda", "agpl-3.0", "gpl", "gpl-2.0",
    "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "mpl-2.0", "odc-by", "odbl", "pddl", "unlicense", "unknown",
})
# fmt: on
"""Identifiers of the Hub. It also takes "other" with a name."""

_USE = """
## Use

With jaxage and its extra `hub`:

    jaxage predict hf://{repo} photo.jpg

```python
from jaxage import load_model, predict

for photo in predict("hf://{repo}", ["photo.jpg"]):
    print(photo.path, [face.estimate.age for face in photo.faces if face.estimate])
variables, config = load_model("hf://{repo}")
```

`@REVISION` at the end names a branch, a tag or a commit. Only `model.safetensors` and `model.json` are read, and
nothing is executed.

## License

{license}. Whoever uses the model is also bound by the terms of the faces that it learned from.
"""

_DEMONSTRATION = """
**A demonstration**: the model learned from drawn faces. Its numbers say nothing of people.
"""


class License(NamedTuple):
    """A license as it was written, and as metadata of the Hub."""

    text: str
    metadata: Json


def parse_license(text: str) -> License:
    """A license by its identifier of the Hub, such as "cc-by-nc-4.0"; any other text is a name of its own.

    Raises:
        UserError: if it is empty.
    """
    text = " ".join(text.split())
    name = re.sub(r"[^a-z0-9.+]+", "-", text.lower()).strip("-")
    if not name:
        raise UserError(f"--license {text!r} names no license: give one of the Hub, such as cc-by-nc-4.0, or a name")
    metadata = {"license": name} if name in _LICENSES else {"license": "other", "license_name": name}
    return License(text, metadata)


def hub_metadata(report: Json, repo: str, license: License) -> Json:
    """The metadata of a card, in the form that the Hub checks.

    Args:
        report: What `report.json` of the run holds.
        repo: "owner/name".
        license: Of the model.
    """
    base = _BASE_MODELS.get(report["weights"]["tag"])
    return {
        "library_name": "jaxage",
        "pipeline_tag": "image-classification",
        "tags": ["jaxage", "jax", "age-estimation", "face", report["arch"]],
        **license.metadata,
        **({"base_model": base} if base else {}),
        "model-index": [{"name": repo.partition("/")[2], "results": [_results(report)]}],
    }


def hub_text(card: str, report: Json, repo: str, license: License) -> str:
    """The card of the run, followed by how to use the model from the Hub, and its license."""
    demonstration = _DEMONSTRATION if report["demonstration"] else ""
    return f"{card.rstrip()}\n{demonstration}{_USE.format(repo=repo, license=license.text)}"


def _results(report: Json) -> Json:
    """Every metric of the test split with its 95 % interval."""
    name, test = report["data"]["name"], report["test"]
    metrics = [
        {"type": key, "name": metric.heading, "value": test[key], "args": {"ci95": test[f"{key}_ci95"]}}
        for key, metric in METRICS.items()
        if test.get(key) is not None
    ]
    return {
        "task": {"type": "image-classification", "name": "age regression"},
        "dataset": {"type": name, "name": name, "split": "test", "args": {"n": test["n"]}},
        "metrics": metrics,
    }
