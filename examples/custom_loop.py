"""A training loop of your own: jaxage's network, freezing and loss, with an optax chain that jaxage does not have."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxage
from jaxage.types import Params, Variables

TRAINABLE, FACES, SIZE, BATCH, EPOCHS = "fc,layer4:0.2", 256, 64, 32, 3
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])  # what ImageNet weights expect


def make_optimizer(params: Params, groups: tuple[jaxage.Group, ...]) -> optax.GradientTransformation:
    """Lion for each group at its own rate, nothing for frozen layers, and a pause where gradients are not finite."""
    lions = {group.name: optax.lion(1e-4 * group.multiplier) for group in groups}
    each = optax.multi_transform(lions | {"frozen": optax.set_to_zero()}, jaxage.label_tree(params, groups))
    return optax.apply_if_finite(each, max_consecutive_errors=3)


def main() -> float:
    """Train on drawn faces, and give the MAE on others."""
    images, records = jaxage.synthetic_faces(FACES, SIZE, seed=0)
    images = ((images / 255 - MEAN) / STD).astype(np.float32)
    ages = records.age.astype(np.float32)
    train, test = np.arange(FACES // 4, FACES), np.arange(FACES // 4)

    objective = jaxage.make_objective("dldl", float(ages[train].mean()), float(ages[train].std()))
    model = jaxage.create_model("resnet18", outputs=objective.outputs)
    variables = jaxage.load_pretrained(model, "random")  # "imagenet1k_v1" downloads torchvision's weights
    groups = jaxage.parse_trainable(TRAINABLE, variables["params"])
    plan = jaxage.make_freeze_plan(model, variables, groups, "eval")
    optimizer = make_optimizer(variables["params"], groups)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(variables: Variables, state: optax.OptState, x: jax.Array, age: jax.Array) -> tuple:
        def loss(params: Params) -> tuple[jax.Array, Params]:
            current = variables | {"params": jaxage.stop_frozen(params, plan.labels)}  # no gradient below what learns
            output = model.apply(current, x, train_bn=plan.train_bn)
            return objective.loss(output.logits, age, jnp.ones(len(age))), output.batch_stats

        (value, batch_stats), gradient = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        updates, state = optimizer.update(gradient, state, variables["params"])
        params = optax.apply_updates(variables["params"], updates)
        return {"params": params, "batch_stats": batch_stats}, state, value

    state, order = optimizer.init(variables["params"]), np.random.default_rng(0)
    for epoch in range(EPOCHS):
        for rows in order.permutation(train).reshape(-1, BATCH):
            variables, state, value = step(variables, state, images[rows], ages[rows])
        predicted = objective.predict(jax.jit(model.apply)(variables, images[test]).logits)
        error = float(jaxage.mae(predicted, ages[test]))
        print(f"epoch {epoch + 1}  loss {value:.2f}  MAE {error:.1f} years")
    return error


if __name__ == "__main__":
    main()
