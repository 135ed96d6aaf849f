"""Fine-tune ImageNet networks to predict a person's age from a face, in pure-functional JAX."""

from jaxage.commands.evaluate import evaluate
from jaxage.commands.explain import age_map, explain
from jaxage.commands.predict import predict
from jaxage.commands.study.run import StudyConfig, study
from jaxage.commands.train import train
from jaxage.config import TrainConfig
from jaxage.data.dataset import Dataset, load_dataset
from jaxage.data.synthetic.faces import synthetic_faces
from jaxage.losses import make_objective
from jaxage.metrics import cumulative_score, mae, plcc, rmse, srocc, summary
from jaxage.models.registry import Model, create_model
from jaxage.pretrained.convert import to_flax, to_torch
from jaxage.pretrained.load import load_pretrained
from jaxage.training.export import ModelConfig, load_model
from jaxage.training.freeze import label_tree, parse_trainable, train_bn_modules
from jaxage.training.inputs import from_features, from_images
from jaxage.training.optimizer import make_optimizer
from jaxage.training.step import make_predict_step, make_train_step
from jaxage.training.unfreeze import labels_in, make_phases, parse_unfreeze
from jaxage.types import UserError

__all__ = [
    "Dataset",
    "Model",
    "ModelConfig",
    "StudyConfig",
    "TrainConfig",
    "UserError",
    "age_map",
    "create_model",
    "cumulative_score",
    "evaluate",
    "explain",
    "from_features",
    "from_images",
    "label_tree",
    "labels_in",
    "load_dataset",
    "load_model",
    "load_pretrained",
    "mae",
    "make_objective",
    "make_optimizer",
    "make_phases",
    "make_predict_step",
    "make_train_step",
    "parse_trainable",
    "parse_unfreeze",
    "plcc",
    "predict",
    "rmse",
    "srocc",
    "study",
    "summary",
    "synthetic_faces",
    "to_flax",
    "to_torch",
    "train",
    "train_bn_modules",
]
