"""The files of examples/cluster: whether they are well formed, and name options that exist."""

import dataclasses
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from jaxage.config import TrainConfig

CLUSTER = Path(__file__).parent.parent / "examples" / "cluster"
OPTIONS = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(TrainConfig)} | {"--processes"}
JAX = {"JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"}


def options(text: str) -> set[str]:
    """The options of the command that starts jaxage."""
    (command,) = re.findall(r"^(?!#).*?\bjaxage[, ]+((?:train|launch)\b.*)$", text, re.MULTILINE)
    return set(re.findall(r"--[a-z][a-z-]*", command))


@pytest.mark.parametrize("name", ["local.sh", "slurm.sbatch"])
def test_scripts_are_well_formed(name: str) -> None:
    subprocess.run(["bash", "-n", CLUSTER / name], check=True)
    text = (CLUSTER / name).read_text()
    assert options(text) <= OPTIONS
    assert "--resume" in text


@pytest.mark.parametrize("name", ["jobset.yaml", "trainjob.yaml", "skypilot.yaml"])
def test_manifests_are_well_formed(name: str) -> None:
    text = (CLUSTER / name).read_text()
    assert isinstance(yaml.safe_load(text), dict)
    assert options(text) <= OPTIONS
    assert "--resume" in text


def test_a_jobset_names_its_processes() -> None:
    job: Any = yaml.safe_load((CLUSTER / "jobset.yaml").read_text())
    (replicated,) = job["spec"]["replicatedJobs"]
    spec = replicated["template"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert environment.keys() >= JAX
    assert int(environment["JAX_NUM_PROCESSES"]) == spec["parallelism"] == spec["completions"]
    first = f"{job['metadata']['name']}-{replicated['name']}-0-0.{job['metadata']['name']}"
    assert environment["JAX_COORDINATOR_ADDRESS"] == f"{first}:{container['ports'][0]['containerPort']}"


def test_skypilot_sets_what_jax_reads() -> None:
    assert set(re.findall(r"export (JAX_\w+)=", yaml.safe_load((CLUSTER / "skypilot.yaml").read_text())["run"])) == JAX
