"""The arguments of `jaxage evaluate`."""

from pathlib import Path
from typing import Annotated

import tyro

from jaxage.commands.arguments.shared import RunFolder
from jaxage.commands.evaluate import EvaluateOptions
from jaxage.commands.evaluate import evaluate as score
from jaxage.report.groups import groups_table, worst_groups, worst_line
from jaxage.report.tables import intervals_line, scores_table
from jaxage.types import UserError
from jaxage.utils import cluster
from jaxage.utils.files import write_json
from jaxage.utils.runtime import prepare_jax


def evaluate(
    run: RunFolder, options: Annotated[EvaluateOptions, tyro.conf.arg(name="")], out: Path | None = None
) -> None:
    """Score the model of a run.

    Args:
        run: The folder of a finished run.
        options: What it is scored on.
        out: A JSON file to write the scores to as well.
    """
    if out is not None and not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")
    prepare_jax(processes="joined")
    scores = score(run, options)
    if not cluster.is_first():
        return
    print(scores_table({scores["split"]: scores}))
    print(f"\n{groups_table(scores['groups'])}\n\n{intervals_line(scores['intervals'])}")
    if worst := worst_groups(scores["groups"]):
        print(f"largest errors by {worst_line(worst)}")
    if scores["failed"]:
        print(f"{scores['failed']} images could not be used and are not among them")
    if out is not None:
        write_json(out, scores)
