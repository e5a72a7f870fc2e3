"""What is told to MLflow of a trial."""

from platform_assets.components.tracking import small_files
from platform_assets.stores.runs import SMALL_FILE_BYTES, TrialRun


def test_small_files__a_large_one_stays_in_its_folder() -> None:
    """The metrics of a thousand classes were refused as too large, and the trial failed after its training."""
    said: list[str] = []
    files = {"metrics.json": bytes(SMALL_FILE_BYTES + 1), "env.json": bytes(SMALL_FILE_BYTES)}
    kept = small_files(files, said.append)
    assert kept.keys() == {"env.json"}
    assert said == ["metrics.json has 1.0 MB and is not shown in MLflow; it lies in the trial's folder"]
    named = dict.fromkeys(("experiment", "asset", "partition", "config_hash", "data_version"), "a")
    TrialRun(**named, dagster_run_id="r", status="RUNNING", started_ms=0, ended_ms=0, files=kept)
