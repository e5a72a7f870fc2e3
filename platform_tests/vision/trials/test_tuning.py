"""Searches with the real Optuna: the same trials whoever runs them, budgets, pruning, and what a killed process leaves."""

from __future__ import annotations

import logging
import math
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from platform_assets.vision.heads.probe import fit_probe
from platform_assets.vision.recipes.resolving import ProbeRecipe
from platform_assets.vision.recipes.tuning_options import Tune, with_best
from platform_assets.vision.recipes.variants import Variant
from platform_assets.vision.trials.tuning import (
    NothingCompleted,
    Pruned,
    Report,
    TrialFailed,
    Tuning,
    TuningStopped,
    TuningTrial,
    tune,
)
from platform_assets.vision.trials.tuning_study import TuningBusy

CNN = Variant(backbone="baseline_cnn", mode="scratch")
PROBE = Variant(backbone="tf_efficientnet_lite0", mode="linear_probe")
SPACE = {
    "train.learning_rate": {"low": 1e-5, "high": 1e-1, "log": True},
    "train.augmentation": {"choices": ["flip", "crop_flip"]},
    "train.epochs": {"low": 2, "high": 6, "step": 2},
    "train.layer_decay": {"choices": [None, 0.75]},
}


def search(**more: Any) -> Tune:
    return Tune.model_validate({"variant": "cnn", "space": SPACE, "pruner": "none", "trials": 6, **more})


def height(variant: Variant) -> float:
    """Highest at a learning rate of 1e-3; the augmentation matters a little."""
    assert variant.train is not None
    return 1 - (math.log10(variant.train.learning_rate) + 3) ** 2 - 0.1 * (variant.train.augmentation == "flip")


def hill(variant: Variant, report: Report) -> float:
    """Each epoch reports what is known of the height by then."""
    assert variant.train is not None
    for epoch in range(1, variant.train.epochs + 1):
        report(epoch, height(variant) - 1 / epoch)
    return height(variant)


def steps_of(tuning: Tuning) -> list[tuple[Any, ...]]:
    return [(trial.state, trial.value, trial.parameters, trial.epoch_values) for trial in tuning.trials]


@pytest.fixture(autouse=True)
def _no_warnings() -> Any:
    """Optuna's warnings of experimental or deprecated parts would be errors here."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize(("sampler", "trials"), [("tpe", 11), ("random", 4)])
def test_tune__the_same_seed_gives_the_same_trials(tmp_path: Path, sampler: str, trials: int) -> None:
    options = search(sampler=sampler, trials=trials)
    one, other = (tune(options, CNN, hill, storage=tmp_path / name) for name in ("one", "other"))
    assert steps_of(one) == steps_of(other)
    assert one.best == max(one.trials, key=lambda trial: trial.value or -math.inf)
    assert one.importances == other.importances
    third = tune(search(sampler=sampler, seed=1, trials=1), CNN, hill, storage=tmp_path / "third")
    assert steps_of(third)[0] != steps_of(one)[0]


def test_importances__name_the_option_that_matters(tmp_path: Path) -> None:
    found = tune(search(trials=14), CNN, hill, storage=tmp_path).importances
    assert sum(found.values()) == pytest.approx(1)
    assert next(iter(found)) == "train.learning_rate"
    level = tune(search(trials=10), CNN, lambda variant, report: 0.5, storage=tmp_path / "level").importances
    assert level == {}, "nothing varies"


def test_tune__the_table_has_a_row_a_trial_and_a_column_a_parameter(tmp_path: Path) -> None:
    found = tune(search(), CNN, hill, storage=tmp_path)
    assert found.table.columns == ["number", "state", "value", "seconds", "epochs", *SPACE, "reason"]
    assert found.table["number"].to_list() == [0, 1, 2, 3, 4, 5]
    assert found.table["epochs"].to_list() == found.table["train.epochs"].to_list()
    assert {2, 4, 6} >= set(found.table["train.epochs"])
    assert found.table["value"].max() == found.best.value
    assert with_best(CNN, found.best.parameters).train.epochs == found.best.parameters["train.epochs"]
    assert found.importances == {}, "six trials say too little"


def test_tune__is_kept_and_a_larger_budget_goes_on(tmp_path: Path) -> None:
    heard: list[TuningTrial] = []
    first = tune(search(trials=4), CNN, hill, storage=tmp_path, on_trial=heard.append)
    assert tune(search(trials=4), CNN, unasked, storage=tmp_path, on_trial=heard.append) == first
    whole = tune(search(trials=7), CNN, hill, storage=tmp_path, on_trial=heard.append)
    assert whole.trials[:4] == first.trials
    assert heard == list(whole.trials)
    assert steps_of(whole) == steps_of(tune(search(trials=7), CNN, hill, storage=tmp_path / "at once"))


def unasked(variant: Variant, report: Report) -> float:
    raise AssertionError("the budget is spent")


def test_tune__another_search_in_the_folder_is_passed_over(tmp_path: Path) -> None:
    tune(search(trials=2), CNN, hill, storage=tmp_path)
    assert len(tune(search(trials=3, seed=5), CNN, hill, storage=tmp_path).trials) == 3


def test_tune__real_probes_on_generated_vectors(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(120) % 3
    vectors = (generator.normal(size=(120, 8)) + np.eye(3, 8)[labels] * 1.5).astype(np.float32)
    parts = [(vectors[rows], labels[rows]) for rows in (slice(0, 60), slice(60, 120))]

    def objective(variant: Variant, report: Report) -> float:
        recipe = variant.probe or ProbeRecipe()
        fitted = fit_probe(*parts, num_classes=3, recipe=recipe, metric="macro_f1")
        return float(fitted.candidates.filter("chosen")["val_metric"].item())

    space = {
        "probe.log10_c_max": {"low": -4, "high": 1},
        "probe.log10_c_min": {"choices": [-6.0, -5.5]},
    }
    options = Tune.model_validate({"variant": "probe", "space": space, "trials": 5})
    found = tune(options, PROBE, objective, storage=tmp_path)
    assert [trial.state for trial in found.trials] == ["complete"] * 5
    assert found.best.value is not None
    assert found.best.value > 0.6
    assert found.table["epochs"].null_count() == 5


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_pruner__ends_the_worse_trials_early(tmp_path: Path, pruner: str) -> None:
    found = tune(search(pruner=pruner, trials=16), CNN, hill, storage=tmp_path)
    pruned = [trial for trial in found.trials if trial.state == "pruned"]
    assert pruned
    assert found.best.state == "complete"
    for trial in pruned:
        last = max(trial.epoch_values)
        assert trial.value == trial.epoch_values[last]
        assert trial.reason == f"pruned after epoch {last}"
    assert any(max(trial.epoch_values) < trial.parameters["train.epochs"] for trial in pruned)  # type: ignore[operator]


def test_pruned__passes_through_the_objective(tmp_path: Path) -> None:
    ended = []

    def objective(variant: Variant, report: Report) -> float:
        try:
            return hill(variant, report)
        except Pruned as pruned:
            ended.append(str(pruned))
            raise

    found = tune(search(pruner="median", trials=12), CNN, objective, storage=tmp_path)
    assert ended == [trial.reason for trial in found.trials if trial.state == "pruned"]


def test_minutes__end_the_search_after_the_trial_that_spends_them(tmp_path: Path) -> None:
    def slow(variant: Variant, report: Report) -> float:
        time.sleep(0.4)
        return height(variant)

    options = search(trials=50, minutes=1 / 60)
    found = tune(options, CNN, slow, storage=tmp_path)
    assert len(found.trials) == 3
    assert sum(trial.seconds for trial in found.trials[:2]) < 1 <= sum(trial.seconds for trial in found.trials)
    assert tune(options, CNN, unasked, storage=tmp_path) == found, "minutes of an earlier call count"


def test_failed_and_refused_trials__are_passed_over_with_their_reason(tmp_path: Path) -> None:
    space = {**SPACE, "train.warmup_epochs": {"low": 0.0, "high": 6.0}}
    base = with_best(CNN, {"train.epochs": 6})

    def fragile(variant: Variant, report: Report) -> float:
        assert variant.train is not None
        report(1, height(variant))
        if variant.train.learning_rate > 1e-2:
            raise TrialFailed("training loss is nan in epoch 2")
        return math.nan if variant.train.learning_rate > 3e-3 else height(variant)

    found = tune(search(space=space, trials=25), base, fragile, storage=tmp_path)
    rows = {state: [t for t in found.trials if t.state == state] for state in ("complete", "failed", "refused")}
    assert sum(map(len, rows.values())) == 25
    assert all(rows.values())
    assert {trial.reason for trial in rows["failed"]} == {"training loss is nan in epoch 2", "the objective is nan"}
    assert all("is longer than the" in str(trial.reason) for trial in rows["refused"])
    assert all(trial.value is None for state in ("failed", "refused") for trial in rows[state])


def test_tune__without_a_completed_trial_has_no_best(tmp_path: Path) -> None:
    def never(variant: Variant, report: Report) -> float:
        raise TrialFailed("out of memory")

    with pytest.raises(NothingCompleted, match=r"no trial of variant 'cnn' .*'failed': 2.*first reason: out of memory"):
        tune(search(trials=2), CNN, never, storage=tmp_path)


def test_stop_requested__keeps_what_is_done_and_tries_the_running_one_again(tmp_path: Path) -> None:
    reports = 0

    def counted(variant: Variant, report: Report) -> float:
        def counting(epoch: int, value: float) -> None:
            nonlocal reports
            reports += 1
            report(epoch, value)

        return hill(variant, counting)

    whole = tune(search(), CNN, hill, storage=tmp_path / "whole")
    stop_at = sum(len(trial.epoch_values) for trial in whole.trials[:2]) + 2
    with pytest.raises(TuningStopped, match="stopped on request in epoch 2 of trial 2"):
        tune(search(), CNN, counted, storage=tmp_path / "cut", stop_requested=lambda: reports >= stop_at)
    gone_on = tune(search(), CNN, hill, storage=tmp_path / "cut")
    assert [trial.state for trial in gone_on.trials] == ["complete"] * 2 + ["interrupted"] + ["complete"] * 4
    assert gone_on.trials[2].parameters == gone_on.trials[3].parameters
    assert [step for step in steps_of(gone_on) if step[0] != "interrupted"] == steps_of(whole)


KILLED = """
import sys, time
from pathlib import Path
from platform_tests.vision.trials.test_tuning import CNN, hill, search
from platform_assets.vision.trials.tuning import tune

def objective(variant, report):
    if tune_calls[0] == 3:
        report(1, 0.5)
        print("running", flush=True)
        time.sleep(60)
    tune_calls[0] += 1
    return hill(variant, report)

tune_calls = [0]
tune(search(), CNN, objective, storage=Path(sys.argv[1]))
"""


def test_killed_process__its_trial_is_tried_again_and_the_rest_is_as_undisturbed(tmp_path: Path) -> None:
    journal = tmp_path / "killed/journal.log"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(journal.parent)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    with pytest.raises(TuningBusy, match="another process is at this search"):
        tune(search(), CNN, hill, storage=journal.parent)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    # What a process killed while it writes leaves behind: half a line and the lock, on which Optuna waits for 30 s.
    with journal.open("ab") as file:
        file.write(b'{"op_code":9,"trial_')
    journal.with_name("journal.log.lock").symlink_to(journal)
    started, heard = time.monotonic(), []
    found = tune(search(), CNN, hill, storage=journal.parent, on_trial=heard.append)
    assert time.monotonic() - started < 10
    states = ["complete"] * 3 + ["interrupted"] + ["complete"] * 3
    assert [trial.state for trial in found.trials] == states
    assert found.trials[3].epoch_values == {1: 0.5}
    assert found.trials[4].parameters == found.trials[3].parameters
    assert heard == list(found.trials[3:])
    whole = tune(search(), CNN, hill, storage=tmp_path / "whole")
    assert [step for step in steps_of(found) if step[0] != "interrupted"] == steps_of(whole)


def test_on_trial__that_fails_is_told_again(tmp_path: Path) -> None:
    def broken(trial: TuningTrial) -> None:
        raise OSError("the tracking server is away")

    with pytest.raises(OSError, match="is away"):
        tune(search(trials=2), CNN, hill, storage=tmp_path, on_trial=broken)
    heard: list[TuningTrial] = []
    found = tune(search(trials=2), CNN, hill, storage=tmp_path, on_trial=heard.append)
    assert heard == list(found.trials)
    assert [trial.number for trial in heard] == [0, 1]


def test_tune__says_nothing_by_itself(tmp_path: Path, caplog: Any, capfd: Any) -> None:
    with caplog.at_level(logging.INFO, logger="optuna"):
        tune(search(trials=2), CNN, hill, storage=tmp_path)
    assert [record for record in caplog.records if record.name.startswith("optuna")] == []
    assert capfd.readouterr() == ("", "")


WITHOUT_OPTUNA = """
import sys
sys.modules["optuna"] = None
from pathlib import Path
from platform_tests.vision.trials.test_tuning import CNN, hill, search
from platform_assets.vision.trials.tuning import tune
from platform_assets.vision.trials.tuning_study import TuningUnavailable
try:
    tune(search(), CNN, hill, storage=Path(sys.argv[1]))
except TuningUnavailable as error:
    print(error)
"""


def test_tune__without_its_extra_says_which(tmp_path: Path) -> None:
    said = subprocess.check_output([sys.executable, "-c", WITHOUT_OPTUNA, str(tmp_path)], text=True)
    assert "optuna is not installed; a search needs the extra `tuning`" in said


def test_import__loads_no_optuna() -> None:
    code = (
        "import sys, platform_assets.vision.trials.tuning, platform_assets.vision.recipes.tuning_options\n"
        "import platform_assets.vision.datasets.folds\n"
        "print(sorted({'optuna', 'torch', 'numpy', 'polars', 'sklearn'} & sys.modules.keys()))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
