"""The gate through the real graph: each refusal with its reason, records, approvals, and a crash while aliases move."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from platform_assets.components.promotion_request import what_started
from platform_assets.stores.gate_records import GateRecord, GateRecords
from platform_assets.stores.mlflow_database import load_mlflow
from platform_assets.stores.outputs import OutputFolder, Outputs
from platform_assets.stores.runs import Runs
from platform_assets.stores.tables import Tables
from platform_assets.vision.evaluation.comparability import Comparability
from platform_assets.vision.evaluation.gates import Gate
from platform_tests.components.forgeries import forged
from platform_tests.components.projects import (
    CNN,
    RECORDS,
    TRIAL,
    Project,
    dataset_yaml,
    experiment_yaml,
    failed_checks,
    failure,
    lasting_project,
    metadata,
    write_images,
)
from platform_tests.stores.test_gate_records import asked

HARDLY = {**CNN, "train": {**CNN["train"], "learning_rate": 1e-9}}
LONGER = {**CNN, "train": {**CNN["train"], "epochs": 3}}
KEY = ["photos", "first"]
JUDGED = 'key:"photos/first/champion"'
EASY = {"max_regression": 1.0}


def yaml(**changes: Any) -> dict[str, Any]:
    variants = {"good": CNN, "longer": LONGER, "bad": HARDLY}
    return experiment_yaml(**{"variants": variants, "baseline": "good", "seeds": [0], "gate": EASY, **changes})


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Iterator[Project]:
    """Three trials, trained once; good__s0 serves. Every test leaves it so."""
    folder = tmp_path_factory.mktemp("gate")
    with lasting_project(folder, write_images(folder / "images", side=24), mlflow_database) as made:
        made.write("first", yaml())
        made.materialize(RECORDS)
        made.materialize(TRIAL, partitions=("good__s0", "bad__s0"))
        made.materialize('key:"photos/first/leaderboard"')
        assert judge(made, "good__s0").success
        yield made


@pytest.fixture
def gate(served: Project) -> Iterator[Project]:
    yield served
    served.write("first", yaml())
    runs, good = registry(served), served_version(served, "good__s0")
    now = runs.champion("photos_first")
    assert now is not None
    runs.set_champion("photos_first", good, instead_of=now.version)
    runs.withdraw_challenger("photos_first")


def judge(project: Project, trial: str | None, **request: Any) -> dg.ExecuteInProcessResult:
    """The champion asset, as `kestrel promote` materializes it."""
    config = {"asked_by": "ada", "asked_with": "a test", **({"trial": trial} if trial else {}), **request}
    return project.materialize(JUDGED, raises=False, run_config={"ops": {"photos_first__champion": {"config": config}}})


def registry(project: Project) -> Runs:
    return Runs(f"sqlite:///{project.data / 'mlflow/mlflow.db'}", artifact_root=None)


def served_version(project: Project, trial: str) -> int:
    client = load_mlflow().MlflowClient(f"sqlite:///{project.data / 'mlflow/mlflow.db'}")
    return next(int(v.version) for v in client.search_model_versions("name='photos_first'") if v.tags["trial"] == trial)


def aliases(project: Project) -> dict[str, str]:
    """Alias to the trial that it names, as MLflow's readers see it."""
    client = load_mlflow().MlflowClient(f"sqlite:///{project.data / 'mlflow/mlflow.db'}")
    named = client.get_registered_model("photos_first").aliases
    return {a: client.get_model_version("photos_first", v).tags["trial"] for a, v in named.items()}


def records(project: Project) -> list[GateRecord]:
    return GateRecords(project.data / "gate_records/photos/first", Tables(project.data / "tables"), KEY).read()


def last(project: Project) -> GateRecord:
    return records(project)[-1]


def folder_of(project: Project, trial: str) -> OutputFolder:
    url = Tables(project.data / "tables").read([*KEY, "checkpoint"], trial)["folder_url"].item()
    return Outputs(str(project.data / "outputs"), scratch=project.data / "cache/outputs").at(url)


@contextmanager
def put_back(*paths: Path) -> Iterator[None]:
    """The bytes of these files as they were."""
    before = {path: path.read_bytes() for path in paths}
    try:
        yield
    finally:
        for path, data in before.items():
            path.write_bytes(data)


def refused(project: Project, trial: str, rule: str) -> str:
    """Why the candidate is refused, by that rule alone, while good__s0 goes on serving."""
    result = judge(project, trial)
    assert "champion_passes_its_gate" in failed_checks(result)
    record = last(project)
    assert record.verdict == "refused"
    assert {finding.rule for finding in record.findings if not finding.passed} == {rule}
    assert aliases(project)["champion"] == "good__s0"
    assert "challenger" not in aliases(project)
    assert Tables(project.data / "tables").read([*KEY, "champion"])["gate_record"].item() == record.id
    return record.reason


def test_gate__a_worse_challenger_is_kept_out_whatever_it_may_lose(gate: Project) -> None:
    result = judge(gate, "bad__s0")
    record = last(gate)
    assert result.success
    assert (record.verdict, aliases(gate)["champion"]) == ("kept", "good__s0")
    assert record.reason.endswith("significantly worse")
    assert "on the same 15 images" in record.reason
    found = {finding.rule: finding for finding in record.findings}
    assert found["not_significantly_worse"].measured is not None
    assert found["not_significantly_worse"].measured < 0 == found["not_significantly_worse"].threshold
    assert found["max_regression"].passed


def test_gate__a_loss_that_chance_does_not_rule_out_keeps_the_incumbent(gate: Project) -> None:
    gate.write("first", yaml(gate={"max_regression": 0.0}))
    judge(gate, "bad__s0")
    assert "a loss beyond 0.0000 is not ruled out" in last(gate).reason


def test_gate__an_edited_metrics_file_is_a_damaged_file(gate: Project) -> None:
    file = folder_of(gate, "longer__s0").path("metrics.json")
    with put_back(file):
        file.write_bytes(file.read_bytes().replace(b'"top1"', b'"top2"'))
        assert "damaged file: " in refused(gate, "longer__s0", "files_match_manifest")
    assert "metrics.json has changed" in last(gate).reason


def test_gate__an_edited_metrics_file_with_a_fitting_manifest_is_found_by_recomputation(gate: Project) -> None:
    folder = folder_of(gate, "longer__s0")
    file = folder.path("metrics.json")
    with put_back(file, file.with_name("MANIFEST.json")):
        said = json.loads(file.read_bytes())
        said["test"]["macro_f1"] = 0.125
        said["test_shots"]["few"] = 0.75
        folder.add("metrics.json", json.dumps(said).encode())
        reason = refused(gate, "longer__s0", "figures_follow_from_predictions")
    assert "edited or outdated figures: metrics.json says test.macro_f1 0.125, the predictions give" in reason
    assert "metrics.json says test_shots.few 0.75, the predictions give" in reason


@pytest.mark.parametrize(
    "edits",
    [
        {"test_macro_f1": 0.99, "val_macro_f1": 1.0},
        {"test_adaptive_ece": 0.01, "parameters": 7, "test_coarse_top1": 0.5},
    ],
)
def test_gate__an_edited_metrics_table_is_found_by_recomputation(gate: Project, edits: dict[str, Any]) -> None:
    tables = Tables(gate.data / "tables")
    row = tables.read([*KEY, "metrics"], "bad__s0")
    with put_back(tables.root / "photos/first/metrics/bad__s0.parquet"):
        edited = [pl.lit(value, row.schema[name]).alias(name) for name, value in edits.items()]
        tables.write([*KEY, "metrics"], row.with_columns(edited), "bad__s0")
        reason = refused(gate, "bad__s0", "figures_follow_from_predictions")
    for name, value in edits.items():
        assert f"the metrics table says {name} {value}, the predictions give" in reason


def test_gate__edited_predictions_are_found_in_the_table_and_in_the_calibration(gate: Project) -> None:
    tables, folder = Tables(gate.data / "tables"), folder_of(gate, "longer__s0")
    table = tables.root / "photos/first/predictions/longer__s0.parquet"
    calibration = folder.path("calibration.json")
    with put_back(table, calibration, calibration.with_name("MANIFEST.json")):
        frame = tables.read([*KEY, "predictions"], "longer__s0")
        tables.write([*KEY, "predictions"], frame.with_columns(confidence=pl.col("confidence") / 2), "longer__s0")
        said = json.loads(calibration.read_bytes())
        said["on_test"]["ece"] += 0.25
        folder.add("calibration.json", json.dumps(said).encode())
        reason = refused(gate, "longer__s0", "figures_follow_from_predictions")
    assert "calibration.json says on_test.ece" in reason
    assert "the table of predictions is not predictions.parquet of the trial's folder" in reason


def test_gate__predictions_that_the_weights_do_not_make_are_refused(gate: Project) -> None:
    """Every file and table said that it is always right, in agreement, and a model that is hardly trained served."""
    paths, forge = forged(Tables(gate.data / "tables"), folder_of(gate, "bad__s0"), KEY, "bad__s0")
    with put_back(*paths):
        forge()
        reason = refused(gate, "bad__s0", "predictions_follow_from_weights")
    assert "of 30 images have not the logits that the weights give" in reason


def test_gate__a_differently_split_evaluation_is_refused(gate: Project) -> None:
    """One image of val was evaluated as one of test, everywhere consistently."""
    tables, folder = Tables(gate.data / "tables"), folder_of(gate, "longer__s0")
    table, file = tables.root / "photos/first/predictions/longer__s0.parquet", folder.path("predictions.parquet")
    with put_back(table, file, file.with_name("MANIFEST.json")):
        frame = tables.read([*KEY, "predictions"], "longer__s0")
        moved = frame.filter(part="val")["path"].sort()[0]
        part = pl.when(pl.col("path") == moved).then(pl.lit("test")).otherwise("part")
        edited = frame.with_columns(part=part)
        tables.write([*KEY, "predictions"], edited, "longer__s0")
        buffer = io.BytesIO()
        edited.write_parquet(buffer)
        folder.add("predictions.parquet", buffer.getvalue())
        reason = refused(gate, "longer__s0", "split_is_that_of_the_records")
    assert (
        f"differently split evaluation: 1 images are not split as the records are: {moved} is evaluated as test"
        in reason
    )


def test_gate__an_evaluation_of_older_records_is_stale(gate: Project) -> None:
    images = gate.folder.parent / "images"
    split = {"kind": "stratified", "train": 0.5, "val": 0.25, "test": 0.25, "seed": 1}
    before = Tables(gate.data / "tables").current_version(["photos", "records"])
    try:
        gate.write("photos", dataset_yaml(images, split=split))
        gate.materialize(RECORDS)
        after = Tables(gate.data / "tables").current_version(["photos", "records"])
        reason = refused(gate, "longer__s0", "evaluation_is_current")
    finally:
        gate.write("photos", dataset_yaml(images))
        gate.materialize(RECORDS)
    assert f"stale evaluation: it was fitted and evaluated on records {before}, now they are {after}" in reason
    assert "materialize trial longer__s0 again (checkpoint, predictions, metrics)" in reason


def test_gate__an_evaluation_of_another_checkpoint_is_stale(gate: Project) -> None:
    """The YAML changed and only the checkpoint was made again."""
    tables = Tables(gate.data / "tables")
    row = tables.root / "photos/first/checkpoint/bad__s0.parquet"
    old = tables.read([*KEY, "checkpoint"], "bad__s0")["checkpoint_id"].item()
    with put_back(row):
        gate.write(
            "first",
            yaml(variants={"good": CNN, "longer": LONGER, "bad": {**CNN, "train": {**CNN["train"], "epochs": 1}}}),
        )
        assert "its YAML, or what it was made of, changed" in refused(gate, "bad__s0", "evaluation_is_current")
        gate.materialize('key:"photos/first/checkpoint"', partitions=("bad__s0", "bad__s0"))
        new = tables.read([*KEY, "checkpoint"], "bad__s0")["checkpoint_id"].item()
        reason = refused(gate, "bad__s0", "evaluation_is_current")
    assert f"stale evaluation: its metrics are of checkpoint {old}, the trial's is {new} now" in reason
    assert f"checkpoint {new} has no predictions.parquet and no metrics.json" in reason


def test_gate__val_does_not_choose_among_trials_that_are_not_comparable(gate: Project) -> None:
    """The leaderboard refused to rank them, and the champion was chosen by the same figures all the same."""
    tables = Tables(gate.data / "tables")
    row = tables.read([*KEY, "metrics"], "bad__s0")
    parts = row.select(*Comparability.model_fields).row(0, named=True) | {"metric_code": "0ld"}
    changed = {name: pl.lit(value) for name, value in Comparability(**parts).columns.items()}
    with put_back(tables.root / "photos/first/metrics/bad__s0.parquet"):
        tables.write([*KEY, "metrics"], row.with_columns(**changed), "bad__s0")
        assert "have different code of their metrics" in failure(judge(gate, None))
    assert aliases(gate)["champion"] == "good__s0"


def test_gate__data_without_a_licence_is_refused(gate: Project) -> None:
    images = gate.folder.parent / "images"
    try:
        gate.write("photos", dataset_yaml(images, licence=None))
        reason = refused(gate, "longer__s0", "licence_is_stated")
    finally:
        gate.write("photos", dataset_yaml(images))
    assert "the licence of dataset photos is not known: licence.id: no licence is stated" in reason


def test_gate__a_blocking_check_that_failed_is_not_green_until_it_passes_again(gate: Project) -> None:
    stray = Path(folder_of(gate, "bad__s0").url, "stray.txt")
    stray.touch()
    assert "checkpoint_matches_its_manifest" in failed_checks(gate.run_check("checkpoint_matches_its_manifest"))
    stray.unlink()
    reason = refused(gate, "longer__s0", "checks_are_green")
    assert "check checkpoint_matches_its_manifest of photos/first/checkpoint failed: " in reason
    assert "stray.txt is not listed" in reason
    assert not failed_checks(gate.run_check("checkpoint_matches_its_manifest"))
    judge(gate, "longer__s0")
    assert last(gate).verdict != "refused"


def test_gate__a_check_that_this_instance_never_saw_is_not_green(gate: Project) -> None:
    with dg.DagsterInstance.ephemeral() as empty:
        reason = refused(Project(gate.folder, gate.package, empty), "longer__s0", "checks_are_green")
    assert "records_have_no_split_leak of photos/records was never evaluated in this Dagster instance" in reason


def test_gate__each_broken_rule_is_a_reason_of_its_own(gate: Project) -> None:
    said = {
        "minimum": (1.0, "below the minimum 1.0000"),
        "class_floor": ({"score": "f1", "minimum": 0.9, "min_images": 5}, "below its floor 0.9000"),
        "max_ece": (0.0, "after temperature scaling is over 0.0000"),
        "max_parameters": (1000, "parameters, over 1,000"),
        "max_weights_mb": (0.1, "MB, over 0.1"),
        "max_latency_ms": (0.001, "ms by torch on this machine's CPU, over 0.001"),
    }
    rules = {**EASY, **{rule: threshold for rule, (threshold, _) in said.items()}}
    gate.write("first", yaml(gate=rules))
    judge(gate, "bad__s0")
    record = last(gate)
    broken = {
        finding.rule: finding.said
        for finding in record.findings
        if finding.otherwise == "refused" and not finding.passed
    }
    assert broken.keys() == said.keys()
    assert all(reason in broken[rule] for rule, (_, reason) in said.items())
    assert record.reasons == tuple(broken.values())
    assert record.rules == Gate.model_validate(rules).model_dump(mode="json")
    assert aliases(gate)["champion"] == "good__s0"


def test_gate__rules_that_are_kept_are_measured_and_let_through(gate: Project) -> None:
    rules = {"max_ece": 1.0, "max_parameters": 10**8, "max_weights_mb": 100, "max_latency_ms": 10_000}
    gate.write("first", yaml(gate={**EASY, **rules, "class_floor": {"minimum": 0.0, "min_images": 5}}))
    result = judge(gate, "longer__s0")
    record = last(gate)
    assert record.verdict == "promoted", record.reason
    assert aliases(gate) == {"champion": "longer__s0", "previous_champion": "good__s0"}
    measured = {finding.rule: finding.measured for finding in record.findings}
    assert measured["max_weights_mb"] == pytest.approx(
        folder_of(gate, "longer__s0").path("ckpt.safetensors").stat().st_size / 1e6
    )
    assert measured["max_parameters"] > 10_000
    assert set(rules) <= measured.keys()
    shown = metadata(result, "photos/first/champion")
    assert [row.data["rule"] for row in shown["gate"].records] == list(measured)
    assert shown["history"].records[0].data["verdict"] == "promoted"


def test_gate__every_decision_says_who_asked_and_is_a_row_for_sql(gate: Project) -> None:
    result = judge(gate, "bad__s0")
    record = last(gate)
    assert (record.asked.by, record.asked.how) == ("ada", "a test")
    assert record.asked.dagster_run_id == result.run_id
    assert record.incumbent is not None
    assert record.incumbent.trial == "good__s0"
    found = asked(gate.data / "tables", 'select id, verdict from gate_records order by "at"')
    assert found == [(each.id, each.verdict) for each in records(gate)]


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"dagster/schedule_name": "photos_weekly_retrain", "dagster/backfill": "b"}, "schedule photos_weekly_retrain"),
        ({"dagster/sensor_name": "photos_new_version"}, "sensor photos_new_version"),
        ({"dagster/from_automation_condition": "true"}, "automation condition"),
        ({"dagster/backfill": "abcd"}, "backfill abcd"),
        ({"team": "vision"}, "a run of retrain, from the UI or a shell"),
    ],
)
def test_what_started__is_read_from_the_tags_of_the_run(tags: dict[str, str], said: str) -> None:
    assert what_started(tags, "retrain") == said


APPROVAL = {**EASY, "approval": {"required": True, "approvers": ["Ada Lovelace", "Grace Hopper"]}}


def test_gate__a_candidate_waits_for_a_named_person_and_the_approval_is_of_that_checkpoint(gate: Project) -> None:
    gate.write("first", yaml(gate=APPROVAL))
    result = judge(gate, "longer__s0")
    held = last(gate)
    assert result.success
    assert held.verdict == "held"
    assert aliases(gate)["champion"] == "good__s0"
    assert aliases(gate)["challenger"] == "longer__s0"
    checkpoint = held.candidate.checkpoint_id
    assert held.reason == (
        f"checkpoint {checkpoint} waits for the approval of Ada Lovelace or Grace Hopper; to give it: kestrel promote "
        f"photos/first --trial longer__s0 --checkpoint {checkpoint} --approve 'Ada Lovelace'"
    )
    check = failed_checks(result)["champion_passes_its_gate"] or ""
    assert "longer__s0 is held" in check

    def asked(name: str, of: str) -> str:
        return failure(judge(gate, "longer__s0", approved_by=[name], checkpoint_id=of))

    assert "Bob: not among the approvers Ada Lovelace, Grace Hopper" in asked("Bob", checkpoint)
    assert f"the approval is for checkpoint {'0' * 16}, and the candidate longer__s0 is {checkpoint}" in asked(
        "Grace Hopper", "0" * 16
    )
    assert last(gate).id == held.id
    judge(gate, "longer__s0", approved_by=["Grace Hopper"], checkpoint_id=checkpoint)
    approved = last(gate)
    assert (approved.verdict, aliases(gate)["champion"]) == ("promoted", "longer__s0")
    assert [(a.name, a.checkpoint_id, a.asked.by) for a in approved.approvals] == [("Grace Hopper", checkpoint, "ada")]


def test_gate__approval_helps_no_worse_challenger(gate: Project) -> None:
    gate.write("first", yaml(gate=APPROVAL))
    bad = folder_of(gate, "bad__s0").manifest().checkpoint_id
    judge(gate, "bad__s0", approved_by=["Ada Lovelace"], checkpoint_id=bad)
    assert (last(gate).verdict, aliases(gate)["champion"]) == ("kept", "good__s0")


@pytest.mark.parametrize("at", ["previous_champion", "champion", "delete"])
def test_gate__a_crash_while_the_aliases_move_leaves_one_model_and_the_next_run_completes(
    gate: Project, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = len(records(gate))
    client = load_mlflow().MlflowClient
    plain: Callable[..., Any] = client.set_registered_model_alias

    def move(self: Any, name: str, alias: str, version: str) -> None:
        if alias == at:
            raise OSError("the disk is gone")
        plain(self, name, alias, version)

    def delete(self: Any, name: str, alias: str) -> None:
        raise OSError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(client, "set_registered_model_alias", move)
        if at == "delete":
            patch.setattr(client, "delete_registered_model_alias", delete)
        result = judge(gate, "longer__s0")
    assert "the disk is gone" in failure(result)
    assert [each.verdict for each in records(gate)[known:]] == ["promoted"], "recorded before an alias moves"
    moved = at == "delete"
    assert aliases(gate)["champion"] == ("longer__s0" if moved else "good__s0")
    assert aliases(gate)["challenger"] == "longer__s0"
    assert judge(gate, "longer__s0").success
    assert last(gate).verdict == ("kept" if moved else "promoted")
    assert aliases(gate) == {"champion": "longer__s0", "previous_champion": "good__s0"}


def test_gate__a_damaged_incumbent_is_beaten_by_nobody(gate: Project) -> None:
    """Its weights were read as they were: whoever spoils them lets a worse model pass."""
    weights = folder_of(gate, "good__s0").path("ckpt.safetensors")
    with put_back(weights):
        data = weights.read_bytes()
        weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        judge(gate, "longer__s0")
    assert (last(gate).verdict, aliases(gate)["champion"]) == ("kept", "good__s0")
    assert "the incumbent, version 1, has a damaged file: " in last(gate).reason
    assert "ckpt.safetensors has changed" in last(gate).reason


def test_gate__an_incumbent_of_other_classes_is_compared_with_nothing(gate: Project) -> None:
    """A class more in the data, and every judgement ended with an error and without a record."""
    images, anew = gate.folder.parent / "images", RECORDS
    known = len(records(gate))
    shutil.copytree(images / "red", images / "white")
    for picture in (images / "white").iterdir():
        picture.write_bytes(picture.read_bytes() + b"white")
    try:
        gate.materialize(anew)
        assert Tables(gate.data / "tables").read(["photos", "label_map"]).height == 4
        gate.materialize(TRIAL, partitions=("longer__s0", "longer__s0"))
        result = judge(gate, "longer__s0")
        assert [each.verdict for each in records(gate)[known:]] == ["kept"]
        assert result.success
        assert "knows other classes: " in last(gate).reason
        assert aliases(gate)["champion"] == "good__s0"
        assert "challenger" not in aliases(gate)
    finally:
        shutil.rmtree(images / "white")
        gate.materialize(anew)
        gate.materialize(TRIAL, partitions=("longer__s0", "longer__s0"))
