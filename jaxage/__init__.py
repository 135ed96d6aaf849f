"""Fine-tune ImageNet networks to predict a person's age from a face, in pure-functional JAX.

Names are imported when they are first used, so that `import jaxage` is quick.
"""

from importlib import import_module
from importlib.metadata import version
from typing import Any

_HOME = {
    "CalibrateOptions": "commands.calibrate",
    "Contract": "training.export:ModelConfig",
    "Dataset": "data.dataset",
    "EvaluateOptions": "commands.evaluate",
    "Framing": "types",
    "FreezePlan": "training.freeze",
    "Group": "training.freeze",
    "IMPORTERS": "data.importers.table",
    "InputContract": "types",
    "LOSSES": "losses",
    "Loss": "losses",
    "METRICS": "metrics",
    "MODELS": "models.registry",
    "Metric": "metrics",
    "Model": "models.registry",
    "ModelConfig": "training.export",
    "Network": "models.network",
    "Objective": "losses",
    "StepOptions": "training.step",
    "StudyConfig": "commands.study.run",
    "TrainConfig": "config",
    "UserError": "types",
    "age_map": "commands.explain",
    "calibrate": "commands.calibrate",
    "create_model": "models.registry",
    "cumulative_score": "metrics",
    "evaluate": "commands.evaluate",
    "explain": "commands.explain",
    "frame": "commands.frame",
    "from_features": "training.inputs",
    "from_images": "training.inputs",
    "label_tree": "training.freeze",
    "labels_in": "training.unfreeze",
    "live_batch_norms": "training.freeze:train_bn_modules",
    "load_dataset": "data.dataset",
    "load_model": "training.export",
    "load_pretrained": "pretrained.load",
    "mae": "metrics",
    "make_freeze_plan": "training.freeze",
    "make_objective": "losses",
    "make_optimizer": "training.optimizer",
    "make_phases": "training.unfreeze",
    "make_predict_step": "training.step",
    "make_train_step": "training.step",
    "parse_trainable": "training.freeze",
    "parse_unfreeze": "training.unfreeze",
    "plcc": "metrics",
    "predict": "commands.predict",
    "push": "commands.push",
    "rmse": "metrics",
    "srocc": "metrics",
    "stop_frozen": "training.freeze",
    "study": "commands.study.run",
    "summary": "metrics",
    "synthetic_faces": "data.synthetic.faces",
    "to_flax": "pretrained.convert",
    "to_torch": "pretrained.convert",
    "train": "commands.train",
    "train_bn_modules": "training.freeze",
}
"""The module below `jaxage` that has each public name, and the name it has there if that is another (earlier names)."""

__all__ = tuple(_HOME)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("jaxage")
    if name not in _HOME:
        raise AttributeError(f"module 'jaxage' has no attribute {name!r}")
    module, _, attribute = _HOME[name].partition(":")
    value = getattr(import_module(f"jaxage.{module}"), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
