import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Array, Float
from scipy import stats

from jaxage import metrics
from jaxage.metrics import (
    average_ranks,
    bias,
    bootstrap,
    cumulative_score,
    interval,
    mae,
    plcc,
    rmse,
    srocc,
    summary,
)

EVERY = (plcc, srocc, mae, rmse, bias, cumulative_score)
ROWS = 12

whole = st.integers(-1000, 1000)
pairs = st.lists(st.tuples(whole, whole), min_size=2, max_size=ROWS)
quick = settings(max_examples=60, deadline=None)


def ages(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Predictions that pull to the mean, and whole true ages, which tie."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 101, n).astype(np.float32)
    return (0.7 * target + 10 + rng.normal(0, 8, n)).astype(np.float32), target


def reference(prediction: np.ndarray, target: np.ndarray) -> list[float]:
    p, t = prediction.astype(np.float64), target.astype(np.float64)
    error = p - t
    return [
        stats.pearsonr(p, t).statistic,
        stats.spearmanr(p, t).statistic,
        np.abs(error).mean(),
        np.sqrt((error**2).mean()),
        error.mean(),
        (np.abs(error) <= 5).mean(),
    ]


@jax.jit
def every_metric(*columns: jax.Array) -> jax.Array:
    return jnp.stack([metric(*columns) for metric in EVERY])


def measured(prediction: np.ndarray, target: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    weight = np.ones(len(target)) if weight is None else weight
    return np.asarray(every_metric(*(jnp.asarray(column, jnp.float32) for column in (prediction, target, weight))))


def padded(rows: list[tuple[int, int]]) -> tuple[jax.Array, jax.Array, jax.Array]:
    columns = np.zeros((ROWS, 2), np.float32)
    columns[: len(rows)] = rows
    mask = np.arange(ROWS) < len(rows)
    return jnp.asarray(columns[:, 0]), jnp.asarray(columns[:, 1]), jnp.asarray(mask, jnp.float32)


@pytest.mark.parametrize("offset", [0, 1e6, -1e6])
@pytest.mark.parametrize("n", [2, 100, 7183])
def test_agrees_with_scipy(n: int, offset: float) -> None:
    prediction, target = (column + np.float32(offset) for column in ages(n))
    np.testing.assert_allclose(measured(prediction, target), reference(prediction, target), rtol=1e-6, atol=1e-6)


def test_agrees_with_scipy_when_only_one_side_is_far_from_zero() -> None:
    prediction, target = ages(100)
    prediction = prediction + np.float32(1e6)
    np.testing.assert_allclose(measured(prediction, target), reference(prediction, target), rtol=1e-6, atol=1e-6)


def test_sums_stay_exact_over_many_rows() -> None:
    prediction, target = ages(300_000)
    np.testing.assert_allclose(measured(prediction, target), reference(prediction, target), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-15, 1e25])
def test_correlations_survive_squares_outside_float32(scale: float) -> None:
    prediction, target = ages(100)
    prediction = prediction * np.float32(scale)
    expected = reference(prediction, target)
    np.testing.assert_allclose(measured(prediction, target)[:2], expected[:2], rtol=0, atol=1e-6)


@pytest.mark.parametrize("constant", [0, 0.1, 33.3, 1e6 + 0.3])
def test_constant_sides_are_nan(constant: float) -> None:
    varied, same = ages(9)[0], np.full(9, constant, np.float32)
    for sides in ((same, varied), (varied, same), (same, same)):
        assert np.isnan(measured(*sides)[:2]).all()
        assert np.isfinite(measured(*sides)[2:]).all()


def test_constants_are_nan_even_where_their_mean_is_rounded() -> None:
    rng = np.random.default_rng(0)
    target = jnp.arange(1000.0)
    for _ in range(200):
        constant = jnp.full(1000, rng.uniform(0, 100))
        assert jnp.isnan(plcc(constant, target, jnp.asarray(rng.integers(0, 3_000_000, 1000), jnp.float32)))


def test_too_few_rows() -> None:
    one = np.array([30.0])
    assert np.isnan(measured(one, one + 2)[:2]).all()
    np.testing.assert_allclose(measured(one, one + 2)[2:], [2, 2, -2, 1])
    assert np.isnan(measured(np.zeros(0), np.zeros(0))).all()
    assert np.isnan(measured(*ages(9), np.zeros(9))).all()


def test_rows_without_weight_are_not_seen() -> None:
    prediction, target = ages(6)
    rubbish = np.array([np.nan, np.inf, -1e30])
    masked = measured(np.append(prediction, rubbish), np.append(target, rubbish[::-1]), np.arange(9) < 6)
    np.testing.assert_allclose(masked, reference(prediction, target), rtol=1e-6, atol=1e-6)


def test_nan_in_a_row_that_counts_is_not_hidden() -> None:
    prediction, target = ages(9)
    prediction[3] = np.nan
    assert np.isnan(measured(prediction, target)).all()
    assert np.isnan(measured(target, prediction)).all()


@quick
@given(pairs)
def test_average_ranks_are_rankdata(rows: list[tuple[int, int]]) -> None:
    values, _, mask = padded(rows)
    expected = stats.rankdata([x for x, _ in rows])
    np.testing.assert_array_equal(average_ranks(values, mask)[: len(rows)], expected)


def test_average_ranks_are_exact_for_large_weights() -> None:
    values, weight = jnp.array([3.0, 1.0, 2.0, 1.0]), jnp.array([1.0, 4_000_000.0, 2.0, 3.0])
    np.testing.assert_array_equal(average_ranks(values, weight), [4_000_006, 2_000_002, 4_000_004.5, 2_000_002])


def test_negative_zero_ties_with_zero() -> None:
    np.testing.assert_array_equal(average_ranks(jnp.array([0.0, -0.0, 1.0]), jnp.ones(3)), [1.5, 1.5, 3])


@quick
@given(st.lists(st.tuples(whole, whole, st.integers(0, 4)), min_size=1, max_size=ROWS))
def test_a_weight_is_a_repetition(rows: list[tuple[int, int, int]]) -> None:
    columns = np.array(rows + [(0, 0, 0)] * (ROWS - len(rows)), np.float32)
    repeated = np.zeros((4 * ROWS, 3), np.float32)
    long = np.repeat(columns, columns[:, 2].astype(int), axis=0)
    repeated[: len(long)] = long
    np.testing.assert_allclose(
        measured(*columns.T),
        measured(repeated[:, 0], repeated[:, 1], np.arange(4 * ROWS) < len(long)),
        rtol=1e-6,
        atol=1e-6,
    )


@quick
@given(pairs, st.sampled_from([0.25, 1.0, 8.0]), whole)
def test_plcc_ignores_scale_and_shift(rows: list[tuple[int, int]], scale: float, shift: int) -> None:
    prediction, target, mask = padded(rows)
    plain = plcc(prediction, target, mask)
    np.testing.assert_allclose(plcc(scale * prediction + shift, target, mask), plain, rtol=0, atol=1e-6)
    np.testing.assert_allclose(plcc(target, -scale * prediction, mask), -plain, rtol=0, atol=1e-6)
    assert jnp.isnan(plain) or abs(plain) <= 1


@quick
@given(pairs)
def test_srocc_ignores_increasing_maps(rows: list[tuple[int, int]]) -> None:
    prediction, target, mask = padded(rows)
    np.testing.assert_array_equal(srocc(prediction**3, target, mask), srocc(prediction, target, mask))
    np.testing.assert_array_equal(srocc(target, prediction, mask), srocc(prediction, target, mask))


@pytest.mark.parametrize("metric", EVERY)
def test_jit_equals_eager(metric: metrics.MetricFunction) -> None:
    columns = [jnp.asarray(column) for column in ages(9)]
    with jax.disable_jit():
        eager = metric(*columns)
    np.testing.assert_allclose(metric(*columns), eager, rtol=1e-6)


def test_vmap_over_weights() -> None:
    prediction, target = (jnp.asarray(column) for column in ages(9))
    weights = jnp.asarray(np.random.default_rng(0).integers(0, 3, (5, 9)), jnp.float32)
    for metric in EVERY:
        batched = jax.vmap(metric, in_axes=(None, None, 0))(prediction, target, weights)
        np.testing.assert_allclose(batched, [metric(prediction, target, w) for w in weights], rtol=1e-6)


def test_cumulative_score_counts_the_border() -> None:
    target = jnp.array([20.0, 30.0, 40.0, 50.0])
    prediction = jnp.array([25.0, 35.5, 37.0, 80.0])
    assert cumulative_score(prediction, target) == 0.5
    assert cumulative_score(prediction, target, within=2.9) == 0
    assert cumulative_score(prediction, target, within=30.0) == 1


def test_bootstrap_draws_whole_clusters() -> None:
    cluster = np.array([0, 0, 1, 2, 2, 2, 3])

    def drawn(_: Array, __: Array, weight: Array) -> Float[Array, ""]:
        return sum(weight[first] for first in (0, 2, 3, 6))

    def torn(_: Array, __: Array, weight: Array) -> Float[Array, ""]:
        return jnp.abs(weight[:-1] - weight[1:])[np.diff(cluster) == 0].sum()

    def first(_: Array, __: Array, weight: Array) -> Float[Array, ""]:
        return weight[0]

    prediction, target = (jnp.asarray(column) for column in ages(7))
    both = jnp.stack([prediction, -prediction])
    values = bootstrap((drawn, torn, first), both, target, jnp.asarray(cluster), jax.random.key(0))
    assert values.shape == (1000, 2, 3)
    np.testing.assert_array_equal(np.percentile(values[:, 0], [2.5, 97.5], axis=0).T, [[4, 4], [0, 0], [0, 3]])
    np.testing.assert_array_equal(values[:, 1], values[:, 0])


def test_bootstrap_agrees_with_a_plain_loop() -> None:
    prediction, target = ages(30)
    cluster = np.arange(30) // 3
    rng = np.random.default_rng(1)
    values = []
    for _ in range(1000):
        rows = np.concatenate([np.flatnonzero(cluster == c) for c in rng.integers(0, 10, 10)])
        values.append(reference(prediction[rows], target[rows])[1:3])
    columns = jnp.asarray(prediction)[None], jnp.asarray(target), jnp.asarray(cluster)
    ours = np.asarray(bootstrap((srocc, mae), *columns, jax.random.key(0)))[:, 0]
    loop = np.percentile(values, [2.5, 97.5], axis=0).T
    intervals = [interval(ours[:, 0]), interval(ours[:, 1])]
    assert (np.abs(np.asarray(intervals) - loop) < 0.08 * np.diff(loop)).all()


def test_bootstrap_covers_the_truth() -> None:
    truth, n, sets = 0.8, 60, 300
    normal = jax.random.normal(jax.random.key(1), (2, sets, n))
    target = truth * normal[0] + np.sqrt(1 - truth**2) * normal[1]
    values = jax.vmap(lambda p, t, k: bootstrap((plcc,), p[None], t, jnp.arange(n), k, resamples=200))(
        normal[0], target, jax.random.split(jax.random.key(2), sets)
    )
    intervals = np.array([interval(each) for each in np.asarray(values)[:, :, 0, 0]])
    covered = ((intervals[:, 0] <= truth) & (truth <= intervals[:, 1])).mean()
    assert 0.9 < covered < 0.98


def test_bootstrap_leaves_out_undefined_resamples() -> None:
    prediction, target = jnp.array([20.0, 30.0]), jnp.array([1.0, 2.0])
    values = np.asarray(bootstrap((plcc,), prediction[None], target, jnp.arange(2), jax.random.key(0)))
    assert np.isnan(values).any()
    np.testing.assert_allclose(interval(values.ravel()), [1, 1], rtol=1e-6)
    assert interval(np.full(3, np.nan)) is None


def test_predictions_of_the_same_rows_are_resampled_together() -> None:
    """A prediction and itself shifted by a year: MAE differs by exactly that in every resample where all errors do."""
    target = jnp.asarray(ages(50)[1])
    predictions = jnp.stack([target + 3, target + 4])
    values = np.asarray(bootstrap((mae,), predictions, target, jnp.arange(50), jax.random.key(0)))[:, :, 0]
    np.testing.assert_allclose(values[:, 1] - values[:, 0], 1, rtol=1e-4)
    alone = np.asarray(bootstrap((mae,), predictions[1:], target, jnp.arange(50), jax.random.key(0)))[:, 0, 0]
    np.testing.assert_allclose(alone, values[:, 1], rtol=1e-6)


def test_summary_is_json_and_agrees_with_scipy() -> None:
    prediction, target = ages(300)
    identity = np.array([f"person{i % 40}" if i % 7 else "" for i in range(300)])
    result = summary(prediction, target, identity)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert list(result) == [
        "n",
        *(f"{m}{end}" for m in metrics.METRICS for end in ("", "_ci95")),
    ]
    expected = reference(prediction, target)
    del expected[4]
    np.testing.assert_allclose([result[m] for m in metrics.METRICS], expected, rtol=1e-6)
    for name in metrics.METRICS:
        low, high = result[f"{name}_ci95"]
        assert low < result[name] < high
    assert summary(prediction, target, identity) == result
    assert summary(prediction, target, identity, seed=1)["mae_ci95"] != result["mae_ci95"]


def test_summary_widens_the_interval_when_people_repeat() -> None:
    prediction, target = (np.repeat(column, 15) for column in ages(20))
    by_row, by_person = (
        summary(prediction, target),
        summary(prediction, target, np.repeat(np.arange(20), 15).astype(str)),
    )
    widths = [float(np.diff(result["mae_ci95"])[0]) for result in (by_row, by_person)]
    assert widths[1] / widths[0] == pytest.approx(np.sqrt(15), rel=0.2)
    unknown = summary(prediction, target, np.full(300, ""))
    assert unknown == by_row


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, t: (np.full_like(p, 33.5), t), r"every prediction is 33\.5: plcc and srocc are undefined"),
        (lambda p, t: (p, np.full_like(t, 40)), "every true age is 40: plcc and srocc are undefined"),
        (lambda p, t: (np.where(p == p[0], np.nan, p), t), "1 of 300 predictions are not finite"),
    ],
)
def test_summary_says_why_a_metric_is_missing(change, message: str) -> None:
    with pytest.warns(UserWarning, match=message):
        result = summary(*change(*ages(300)))
    assert result["plcc"] is result["plcc_ci95"] is result["srocc"] is result["srocc_ci95"] is None
    assert (result["mae"] is None) == ("finite" in message)
    json.dumps(result, allow_nan=False)


def test_summary_of_one_person_has_no_intervals() -> None:
    with pytest.warns(UserWarning, match="all rows are of one person"):
        result = summary(*ages(300), np.full(300, "nm1"))
    assert result["mae"] is not None
    assert result["mae_ci95"] is None


def test_summary_of_one_row() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = summary(np.array([30.0]), np.array([32.0]))
    assert len(caught) == 3
    assert (result["n"], result["plcc"], result["mae"], result["mae_ci95"]) == (1, None, 2.0, None)


@pytest.mark.usefixtures("no_type_checker")
@pytest.mark.parametrize("shapes", [((0,), (0,)), ((3,), (4,)), ((3, 1), (3,)), ((3, 1), (3, 1))])
def test_summary_refuses_other_shapes(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=f"prediction \\({shapes[0][0]},"):
        summary(np.zeros(shapes[0]), np.zeros(shapes[1]))


@pytest.mark.usefixtures("no_type_checker")
def test_metrics_refuse_unequal_shapes_without_the_type_checker() -> None:
    for metric in EVERY:
        with pytest.raises(ValueError, match=r"prediction \(3, 1\), target \(3,\)"):
            metric(jnp.zeros((3, 1)), jnp.zeros(3))


def test_a_metric_says_how_it_is_shown() -> None:
    error, correlation = metrics.METRICS["mae"], metrics.METRICS["plcc"]
    assert (error.heading, correlation.heading) == ("MAE, years", "PLCC")
    assert (error.format(5.126), error.format(0.2, "+"), error.format(None), error.format(np.nan)) == (
        "5.13",
        "+0.20",
        "-",
        "-",
    )
    assert (error.sentence(5.126), correlation.sentence(0.5)) == ("MAE 5.13 years", "PLCC 0.500")
    assert metrics.scores_line({"cs5": 0.25, "plcc": None}) == "PLCC -  CS@5 0.250"
    assert list(metrics.headlines()) == ["plcc", "srocc", "mae"]
