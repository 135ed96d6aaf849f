import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from scipy import ndimage, special, stats

from jaxage.losses import LOSSES, Loss, Objective, age_density, balance_ages, make_objective
from jaxage.types import LossName, Params, UserError
from tests.tiny import tiny_model

NAMES = tuple(LOSSES)
MEAN, STD = 37.5, 20.25


def batch(objective: Objective, n: int = 6, seed: int = 0) -> tuple[jax.Array, jax.Array, jax.Array]:
    rng = np.random.default_rng(seed)
    logits, age = rng.normal(0, 1.5, (n, objective.outputs)), rng.uniform(0, 100, n)
    return jnp.asarray(logits, jnp.float32), jnp.asarray(age, jnp.float32), jnp.asarray(np.arange(n) % 3, jnp.float32)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("l1", [0.5, 3, 1]), ("mse", [0.25, 9, 1]), ("huber", [0.125, 2.5, 0.5])],
)
def test_regression_by_hand(name: LossName, expected: list[float]) -> None:
    objective = make_objective(name, mean=40.0, std=10.0)
    logits, age = jnp.array([[0.5], [-1.0], [0.0]]), jnp.array([40.0, 60.0, 30.0])
    np.testing.assert_allclose(objective.predict(logits), [45, 30, 40])
    for row, value in enumerate(expected):
        assert objective.loss(logits, age, jnp.eye(3)[row]) == pytest.approx(value)
    weighted = (2 * expected[0] + expected[1]) / 3
    assert objective.loss(logits, age, jnp.array([2.0, 1.0, 0.0])) == pytest.approx(weighted)


@pytest.mark.parametrize("name", ["l1", "mse", "huber"])
def test_regression_agrees_with_torch(name: LossName) -> None:
    torch = pytest.importorskip("torch")
    criterion = {"l1": torch.nn.L1Loss, "mse": torch.nn.MSELoss, "huber": torch.nn.HuberLoss}[name]()
    objective = make_objective(name, MEAN, STD)
    logits, age, _ = batch(objective)
    value, gradient = jax.value_and_grad(objective.loss)(logits, age, jnp.ones(6))
    output = torch.tensor(np.array(logits), requires_grad=True)
    expected = criterion(output[:, 0], (torch.tensor(np.array(age)) - MEAN) / STD)
    expected.backward()
    np.testing.assert_allclose(value, expected.detach(), rtol=1e-6)
    np.testing.assert_allclose(gradient, output.grad, rtol=1e-5, atol=1e-7)


def dldl_by_formula(logits: np.ndarray, age: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row losses and expectations in float64."""
    years = np.arange(101)
    label = stats.norm.pdf(years, loc=age.astype(float)[:, None], scale=2)
    label /= label.sum(axis=1, keepdims=True)
    softmax = special.softmax(logits.astype(float), axis=1)
    expectation = softmax @ years
    return special.rel_entr(label, softmax).sum(axis=1) + np.abs(expectation - age), expectation


def test_dldl_agrees_with_the_formula() -> None:
    objective = make_objective("dldl", MEAN, STD)
    logits, age, weight = batch(objective, n=50)
    age = age.at[:3].set(jnp.array([0.0, 100.0, 33.4]))
    losses, expectation = dldl_by_formula(np.asarray(logits), np.asarray(age))
    np.testing.assert_allclose(objective.predict(logits), expectation, rtol=1e-6)
    np.testing.assert_allclose(objective.loss(logits, age, weight), np.average(losses, weights=weight), rtol=1e-6)


def test_dldl_is_smallest_where_the_softmax_is_the_label() -> None:
    objective = make_objective("dldl", MEAN, STD)
    age, weight = jnp.array([40.0]), jnp.ones(1)
    label = jnp.asarray(stats.norm.logpdf(np.arange(101), 40, 2)[None], jnp.float32)
    assert objective.predict(label)[0] == pytest.approx(40, abs=1e-4)
    assert objective.loss(label, age, weight) == pytest.approx(0, abs=1e-4)
    for shift in (-7, -1, 1, 7):
        assert objective.loss(jnp.roll(label, shift, axis=1), age, weight) > 0.5
    assert objective.loss(2 * label, age, weight) > 0.05
    assert objective.loss(label / 2, age, weight) > 0.05


def test_dldl_descends_to_the_age() -> None:
    objective = make_objective("dldl", MEAN, STD)
    age, weight = jnp.array([4.0, 61.3]), jnp.ones(2)

    def step(_: int, logits: jax.Array) -> jax.Array:
        return logits - 0.5 * jax.grad(objective.loss)(logits, age, weight)

    logits = jax.lax.fori_loop(0, 3000, step, jnp.zeros((2, 101)))
    np.testing.assert_allclose(objective.predict(logits), age, atol=0.5)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_finite_differences(name: LossName) -> None:
    objective = make_objective(name, MEAN, STD)
    logits, age, weight = batch(objective)
    loss = jax.jit(lambda x: objective.loss(x, age, weight))
    check_grads(loss, (logits,), order=1, modes=["rev"], eps=1e-2, rtol=0.01, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_rows_without_weight_change_nothing(name: LossName) -> None:
    objective = make_objective(name, MEAN, STD)
    logits, age, _ = batch(objective)
    weight = jnp.array([1.0, 1.0, 0.0, 1.0, 0.0, 0.0])
    kept = np.flatnonzero(weight)
    expected = objective.loss(logits[kept], age[kept], jnp.ones(3))
    rubbish = jnp.where(weight[:, None] > 0, logits, jnp.nan), jnp.where(weight > 0, age, jnp.inf)
    value, gradient = jax.value_and_grad(objective.loss)(*rubbish, weight)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert (gradient[weight == 0] == 0).all()
    assert (gradient[weight > 0] != 0).any(axis=1).all()
    assert jnp.isnan(objective.loss(logits, age, jnp.zeros(6)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1e4, 1e15])
def test_extreme_logits_stay_finite(name: LossName, size: float) -> None:
    objective = make_objective(name, MEAN, STD)
    logits, age, weight = batch(objective)
    value, gradient = jax.value_and_grad(objective.loss)(size * jnp.sign(logits), age, weight)
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_logits_are_read_in_float32(name: LossName) -> None:
    objective = make_objective(name, MEAN, STD)
    logits, age, weight = batch(objective)
    half = logits.astype(jnp.bfloat16)
    assert objective.loss(half, age, weight) == objective.loss(half.astype(jnp.float32), age, weight)
    assert objective.predict(half).dtype == jnp.float32


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_no_age_is_below_0(name: LossName, data: st.DataObject) -> None:
    """And above 0, clipping changes nothing."""
    objective = make_objective(name, MEAN, STD)
    numbers = st.floats(-1e6, 1e6, width=32)
    row = data.draw(st.lists(numbers, min_size=objective.outputs, max_size=objective.outputs))
    logits = jnp.asarray([row], jnp.float32)
    age, unclipped = objective.predict(logits)[0], objective.unclipped(logits)[0]
    assert age >= 0
    assert age == (unclipped if unclipped > 0 else 0)
    if name == "dldl":
        assert age <= 100 + 1e-4


def test_where_an_age_is_clipped_the_loss_and_the_unclipped_age_still_have_a_gradient() -> None:
    objective, logits = make_objective("mse", MEAN, STD), jnp.array([[-4.0]])
    assert objective.predict(logits) == 0
    assert objective.unclipped(logits)[0] == pytest.approx(MEAN - 4 * STD)
    assert jax.grad(lambda x: objective.unclipped(x).sum())(logits)[0, 0] == pytest.approx(STD)
    assert jax.grad(objective.loss)(logits, jnp.zeros(1), jnp.ones(1))[0, 0] < 0
    assert jnp.isnan(objective.predict(logits * jnp.nan)).all()


def test_a_loss_of_ones_own_is_trained_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative log-likelihood of a Laplace distribution: two outputs, the place and the logarithm of the scale."""

    def laplace(logits: jax.Array, age: jax.Array, mean: float, std: float) -> jax.Array:
        return jnp.abs(logits[:, 0] - (age - mean) / std) * jnp.exp(-logits[:, 1]) + logits[:, 1]

    own = Loss("Laplace likelihood", 2, laplace, lambda z, mean, std: z[:, 0] * std + mean, "z[0] * age_std + age_mean")
    monkeypatch.setitem(LOSSES, "laplace", own)
    model, objective = tiny_model(outputs=2), make_objective("laplace", MEAN, STD)
    images, ages = jax.random.normal(jax.random.key(0), (8, 8, 8, 3)), jnp.linspace(0.0, 100.0, 8)
    variables = model.init(jax.random.key(1))

    @jax.jit
    @jax.value_and_grad
    def loss(params: Params) -> jax.Array:
        return objective.loss(model.apply(variables | {"params": params}, images).logits, ages, jnp.ones(8))

    value, gradient = loss(variables["params"])
    stepped = jax.tree.map(lambda p, g: p - 0.01 * g, variables["params"], gradient)
    assert loss(stepped)[0] < value
    assert objective.predict(model.apply(variables, images).logits).shape == (8,)


@pytest.mark.parametrize("name", NAMES)
def test_jit_equals_eager(name: LossName) -> None:
    objective = make_objective(name, MEAN, STD)
    columns = batch(objective)
    np.testing.assert_allclose(jax.jit(objective.loss)(*columns), objective.loss(*columns), rtol=1e-6)


@pytest.mark.usefixtures("no_type_checker")
@pytest.mark.parametrize("name", NAMES)
def test_other_shapes_are_refused(name: LossName) -> None:
    objective = make_objective(name, MEAN, STD)
    logits, age, weight = batch(objective)
    with pytest.raises(ValueError, match=r"age \(6, 1\), weight \(6,\): expected \(6, \d+\), \(6,\), \(6,\)"):
        objective.loss(logits, age[:, None], weight)
    with pytest.raises(ValueError, match=r"age \(6,\), weight \(6, 1\)"):
        objective.loss(logits, age, weight[:, None])
    with pytest.raises(ValueError, match=r"age \(5,\)"):
        objective.loss(logits, age[:5], weight)
    for wrong in (logits[:, 0], logits[:, :0], jnp.zeros((6, 2)), logits[None]):
        with pytest.raises(ValueError, match=r"logits \(.*\): expected \(n, \d+\)"):
            objective.loss(wrong, age, weight)
        with pytest.raises(ValueError, match=r"logits \(.*\): expected \(n, \d+\)"):
            objective.predict(wrong)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("L1", r"unknown loss 'L1' \(did you mean 'l1'\?\): choose one of l1 \(absolute error\), mse"),
        ("hubert", r"did you mean 'huber'"),
        ("crossentropy", r"unknown loss 'crossentropy': choose one of l1"),
    ],
)
def test_unknown_names_are_refused(name: LossName, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_objective(name, MEAN, STD)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("mean", "std"), [(30.0, 0.0), (30.0, -1.0), (30.0, np.inf), (30.0, np.nan), (np.nan, 1.0), (np.inf, 1.0)]
)
def test_useless_statistics_are_refused(name: LossName, mean: float, std: float) -> None:
    with pytest.raises(ValueError, match=f"mean {mean} and std {std}: both must be finite and std above 0"):
        make_objective(name, mean, std)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_rare_ages_count_more(power: float) -> None:
    """Against SciPy's Gaussian filter (cut off at 20 sigma, no wrapping) of the training ages' histogram."""
    rng = np.random.default_rng(0)
    ages = np.concatenate([rng.normal(30, 5, 900), rng.uniform(60, 100, 100)]).clip(0, 100).astype(np.float32)
    counts = np.bincount(np.round(ages).astype(int), minlength=101)
    smooth = ndimage.gaussian_filter1d(counts.astype(float), 2.0, mode="constant", truncate=50)
    weight = smooth[np.round(ages).astype(int)] ** -power
    weight /= weight.mean()
    objective = make_objective("mse", MEAN, STD)
    some = np.r_[0:5, 990:1000]
    logits = jnp.asarray(rng.normal(size=(15, 1)), jnp.float32)
    rows = jnp.asarray(np.resize([1.0, 0.0, 1.0], 15), jnp.float32)
    scaled = rows * jnp.asarray(weight[some], jnp.float32)
    expected = objective.loss(logits, jnp.asarray(ages[some]), scaled) * scaled.sum() / rows.sum()
    given = balance_ages(objective, ages, power)
    assert given.loss(logits, jnp.asarray(ages[some]), rows) == pytest.approx(float(expected), rel=1e-4)
    assert given.predict is objective.predict
    if power:
        assert weight[-1] > 2 * weight[0]


def test_the_logits_of_a_balanced_distribution_are_those_of_balanced_training_ages() -> None:
    """A head without inputs learns the distribution of the training ages; balanced, all of them are alike."""
    ages = np.repeat([20.0, 60.0], [90, 10]).astype(np.float32)
    plain = make_objective("dldl", MEAN, STD)
    objective = balance_ages(plain, ages, 1.0)
    logits = jnp.zeros((1, 101)).at[0, 20].set(20.0).at[0, 60].set(20.0)
    shifted = logits + jnp.log(jnp.asarray(age_density(ages), jnp.float32))[None]
    age, weight = jnp.asarray([20.0]), jnp.ones(1)
    assert objective.loss(logits, age, weight) == pytest.approx(float(plain.loss(shifted, age, weight)), rel=1e-6)
    assert plain.predict(shifted)[0] == pytest.approx(0.9 * 20 + 0.1 * 60, abs=1.5)
    assert objective.predict(logits)[0] == plain.predict(logits)[0]


def test_ages_that_training_has_none_of_have_a_finite_weight() -> None:
    objective = balance_ages(make_objective("l1", MEAN, STD), np.full(10, 30, np.float32), 1.0)
    assert np.isfinite(objective.loss(jnp.zeros((1, 1)), jnp.asarray([99.0]), jnp.ones(1)))
    padded = objective.loss(jnp.zeros((2, 1)), jnp.asarray([30.0, jnp.nan]), jnp.asarray([1.0, 0.0]))
    assert np.isfinite(padded)
