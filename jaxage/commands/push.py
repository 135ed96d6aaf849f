"""`jaxage push`: upload the model of a finished run to the Hugging Face Hub."""

import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from jaxage.pretrained.hub import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE, Pushed, upload_model, with_metadata
from jaxage.report.hub_card import License, hub_metadata, hub_text, parse_license
from jaxage.training.export import load_model, model_folder
from jaxage.training.run_folder import REPORT, finished_report
from jaxage.types import Log, UserError

_QUESTION = (
    "License of the model, which the terms of its faces must allow: an identifier of the Hub, such as cc-by-nc-4.0, or "
    "a name\n> "
)


@dataclass(frozen=True)
class PushOptions:
    """What a model on the Hub says of its license, and who sees it."""

    license: str | None = None
    """Of the model, which the terms of its faces must allow: an identifier of the Hub, such as cc-by-nc-4.0, or a name;
    without it, a terminal is asked."""

    public: bool = False
    """Let everybody see the model, not only its owner."""


_DEFAULTS = PushOptions()


def push(run: Path, repo: str, options: PushOptions = _DEFAULTS, log: Log = print) -> Pushed:
    """Upload `model.safetensors`, `model.json` and a model card with the test's scores, in one commit.

    Args:
        run: The folder of a finished run.
        repo: Where to, "owner/name". It is made if need be.
        options: The license, and whether everybody may see the model.
        log: Takes where it went.

    Raises:
        UserError: for a run without a report or model, no license, a missing extra `hub`, nobody logged in, and what
            the Hub refuses.
    """
    files = pushed_files(run, repo, parse_license(options.license or _ask()))
    pushed = upload_model(repo, files, f"Age model by jaxage {version('jaxage')}", options.public)
    log(f"{pushed.url} ({'private' if pushed.private else 'public'}): use it as {pushed.model}")
    return pushed


def pushed_files(run: Path, repo: str, license: License) -> Mapping[str, bytes | Path]:
    """The files of a model for the Hub, by name; the card gets metadata and how to use the model.

    Raises:
        UserError: for a run without a report or model, and a missing extra `hub`.
    """
    report = finished_report(run)
    if report is None:
        raise UserError(f"{run} holds no {REPORT}, so it is no finished run: give the folder of one")
    load_model(run)  # another program's file would not be read back
    folder = model_folder(run)
    card = hub_text((folder / CARD_FILE).read_text(encoding="utf-8"), report, repo, license)
    return {
        CARD_FILE: with_metadata(hub_metadata(report, repo, license), card).encode(),
        CONFIG_FILE: (folder / CONFIG_FILE).read_bytes(),
        WEIGHTS_FILE: folder / WEIGHTS_FILE,
    }


def _ask() -> str:
    with suppress(EOFError):
        if sys.stdin.isatty():
            return input(_QUESTION)
    raise UserError("push needs the license of the model: add --license, such as --license cc-by-nc-4.0")
