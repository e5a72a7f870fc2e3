"""Whether two sets of images differ in labels, pixels, sizes or vectors: tests whose false alarms together stay below alpha."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

_LEAST_IMAGES = 5
_PERMUTATIONS = 999
_MOST_IMAGES = 1000
_MONTE_CARLO_BELOW = 5.0
"""Expected images in a cell of the label table below which the chi-square distribution is not trusted."""


class CannotCompare(ValueError):
    """Two sets that no test can tell apart or together."""


def shift(
    before: pl.DataFrame,
    after: pl.DataFrame,
    *,
    vectors: pl.DataFrame | None = None,
    alpha: float = 0.01,
    seed: int = 0,
) -> pl.DataFrame:
    """One row a test, smallest p first: test, subject, statistic, p_value, p_adjusted, shifted.

    `before` and `after` are records of two versions or parts without images in common. label: chi-square of the counts;
    brightness, contrast, width, height, aspect, bytes: two-sample Kolmogorov-Smirnov; vectors (image_id, vector, when given):
    energy distance with permutations (Szekely and Rizzo 2004). p_adjusted is Holm's: `shifted` is wrong anywhere in the table
    with probability at most `alpha`, however the subjects depend on each other. Raises CannotCompare.
    """
    import polars as pl

    _require_two_sets(before, after)
    tests = list(_tests(before.sort("image_id", "path"), after.sort("image_id", "path"), vectors, seed))
    schema = {"test": pl.String, "subject": pl.String, "statistic": pl.Float64, "p_value": pl.Float64}
    found = pl.DataFrame(tests, schema=schema, orient="row").sort("p_value", "subject")
    return found.with_columns(p_adjusted=_holm(found["p_value"])).with_columns(shifted=pl.col("p_adjusted") <= alpha)


def _require_two_sets(before: pl.DataFrame, after: pl.DataFrame) -> None:
    sizes = (len(before), len(after))
    if min(sizes) < _LEAST_IMAGES:
        raise CannotCompare(f"{sizes[0]} and {sizes[1]} images; at least {_LEAST_IMAGES} on each side are needed")
    if shared := set(before["image_id"]).intersection(after["image_id"]):
        raise CannotCompare(
            f"{len(shared)} images stand on both sides, the first is {min(shared)}; compare only what is new or gone, "
            "the tests take the sides for independent"
        )


def _tests(
    before: pl.DataFrame, after: pl.DataFrame, vectors: pl.DataFrame | None, seed: int
) -> Iterator[tuple[str, str, float, float]]:
    from scipy.stats import ks_2samp

    if before["label"].append(after["label"]).n_unique() > 1:
        yield ("chi_square", "label", *_label_test(before, after, seed))
    for subject, expression in _subjects().items():
        sides = [frame.select(expression.alias(subject))[subject].to_numpy() for frame in (before, after)]
        # The exact distribution fails on some samples with a warning; the asymptotic one errs on the safe side.
        statistic, p_value = ks_2samp(*sides, method="asymp")
        yield "kolmogorov_smirnov", subject, float(statistic), float(p_value)
    if vectors is not None:
        yield ("energy", "vectors", *_energy_test(_vectors_of(before, vectors), _vectors_of(after, vectors), seed))


def _subjects() -> dict[str, pl.Expr]:
    import polars as pl

    width, height = pl.col("width").cast(pl.Float64), pl.col("height").cast(pl.Float64)
    pixels = {"brightness": pl.col("pixel_mean").arr.mean(), "contrast": pl.col("pixel_std").arr.mean()}
    return {
        **pixels,
        "width": width,
        "height": height,
        "aspect": width / height,
        "bytes": pl.col("bytes").cast(pl.Float64),
    }


def _label_test(before: pl.DataFrame, after: pl.DataFrame, seed: int) -> tuple[float, float]:
    """Chi-square of the label counts; with small expected counts its distribution is drawn, labels permuted over the sides."""
    import numpy as np
    from scipy.stats import chi2_contingency, random_table

    labels = sorted(set(before["label"]).union(after["label"]))
    counts = [dict(frame["label"].value_counts().iter_rows()) for frame in (before, after)]
    table_2k = np.array([[side.get(label, 0) for label in labels] for side in counts])
    found = chi2_contingency(table_2k, correction=False)
    if found.expected_freq.min() >= _MONTE_CARLO_BELOW:
        return float(found.statistic), float(found.pvalue)
    drawn = random_table(table_2k.sum(axis=1), table_2k.sum(axis=0)).rvs(
        _PERMUTATIONS, method="patefield", random_state=np.random.default_rng(seed)
    )
    statistics = ((drawn - found.expected_freq) ** 2 / found.expected_freq).sum(axis=(1, 2))
    return float(found.statistic), _permutation_p(float(found.statistic), statistics)


def _permutation_p(found: float, drawn: NDArray[np.float64]) -> float:
    """The share of draws at least as large, the finding itself counted: exact, and never 0 (Phipson and Smyth 2010)."""
    return float(((drawn >= found * (1 - 1e-9)).sum() + 1) / (len(drawn) + 1))


def _vectors_of(records: pl.DataFrame, vectors: pl.DataFrame) -> NDArray[np.float32]:
    """The vectors of the first images by id, which are a random sample: ids are hashes of bytes."""
    asked = records.select("image_id").unique().sort("image_id").head(_MOST_IMAGES)
    held = asked.join(vectors, on="image_id", how="left", maintain_order="left")
    if missing := held["vector"].null_count():
        raise CannotCompare(f"{missing} of {len(held)} images have no vector; embed both sides with the same backbone")
    return held["vector"].to_numpy()


def _energy_test(one_nd: NDArray[np.float32], other_nd: NDArray[np.float32], seed: int) -> tuple[float, float]:
    """Energy distance of two samples: 2 mean|x - y| - mean|x - x'| - mean|y - y'|, its p by permutation of the sides."""
    import numpy as np
    from scipy.spatial.distance import pdist, squareform

    together = np.concatenate([one_nd, other_nd]).astype(np.float64)
    distance_nn = squareform(pdist(together))
    places_kn = np.random.default_rng(seed).random((_PERMUTATIONS + 1, len(together))).argsort(axis=1)
    places_kn[0] = np.arange(len(together))
    ones = (places_kn < len(one_nd)).T.astype(np.float64)
    within_one = np.einsum("nk,nk->k", ones, distance_nn @ ones)
    touching = distance_nn.sum(axis=1) @ ones
    across = touching - within_one
    within_other = distance_nn.sum() - touching - across
    count, rest = len(one_nd), len(other_nd)
    energy_k = 2 * across / (count * rest) - within_one / count**2 - within_other / rest**2
    return float(energy_k[0]), _permutation_p(float(energy_k[0]), energy_k[1:])


def _holm(p_values: pl.Series) -> pl.Series:
    """Of p values in ascending order, the smallest alpha at which Holm's procedure rejects each."""
    import polars as pl

    left = pl.Series(range(len(p_values), 0, -1))
    return (p_values * left).cum_max().clip(upper_bound=1.0)
