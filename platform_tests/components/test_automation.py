"""What the graph asks for by itself, judged by Dagster's own evaluation of conditions, sensors and schedules."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from platform_tests.components.projects import Project, write_images

READ = {"records", "rejected", "label_map", "near_duplicates"}
DESCRIBED = {"changes", "image_issues", "profile", "tiny_subset", "data_card"}


def _keys(names: set[str]) -> str:
    return " or ".join(f'key:"photos/{name}"' for name in sorted(names))


def _add_an_image(tmp_path: Path) -> None:
    extra = next((write_images(tmp_path / "more", per_class=1, seed=5) / "red").iterdir())
    extra.rename(tmp_path / "images/red/one_more.png")


def _tick(project: Project, cursor: dg.AssetDaemonCursor | None = None) -> tuple[set[str], object]:
    result = dg.evaluate_automation_conditions(project.load(), project.instance, cursor=cursor)
    requested = {"/".join(e.key.path) for e in result.results if result.get_num_requested(e.key)}
    return requested, result.cursor


def _sensor(project: Project) -> dg.SensorExecutionData:
    definitions = project.load()
    repository = definitions.get_repository_def()
    sensor = repository.get_sensor_def("photos_new_dataset_version")
    context = dg.build_sensor_context(
        instance=project.instance, repository_def=repository, resources=_resources(definitions)
    )
    return sensor.evaluate_tick(context)


def _resources(definitions: dg.Definitions) -> dict[str, object]:
    found = definitions.resources or {}
    return {name: found[name] for name in ("tables", "files")}


def test_automation__unchanged_source_asks_for_nothing(photos: Project) -> None:
    photos.materialize("group:photos")
    requested, cursor = _tick(photos)
    photos.materialize('key:"photos/source"')
    again, _ = _tick(photos, cursor)
    assert (requested, again) == (set(), set())


def test_automation__one_added_image_asks_for_what_depends_on_it(photos: Project, tmp_path: Path) -> None:
    photos.materialize("group:photos")
    _, cursor = _tick(photos)
    _add_an_image(tmp_path)
    photos.materialize('key:"photos/source"')
    first, cursor = _tick(photos, cursor)
    photos.materialize(_keys(READ))
    second, cursor = _tick(photos, cursor)
    photos.materialize(_keys(DESCRIBED))
    third, _ = _tick(photos, cursor)
    assert first == {f"photos/{name}" for name in READ}
    assert second == {f"photos/{name}" for name in DESCRIBED}
    assert third == set()


def test_sensor__asks_once_for_a_changed_source_and_says_what_it_saw(photos: Project, tmp_path: Path) -> None:
    before = _sensor(photos)
    photos.materialize("group:photos")
    unchanged = _sensor(photos)
    _add_an_image(tmp_path)
    changed = _sensor(photos)
    assert len(before.run_requests) == 1
    assert not unchanged.run_requests
    assert "60 files" in (unchanged.skip_message or "")
    assert len(changed.run_requests) == 1
    assert changed.run_requests[0].run_key != before.run_requests[0].run_key


def test_schedule__asks_for_every_trial_in_one_run(photos: Project) -> None:
    repository = photos.load().get_repository_def()
    schedule = repository.get_schedule_def("photos_first_weekly_retrain")
    data = schedule.evaluate_tick(dg.build_schedule_context(instance=photos.instance))
    (request,) = data.run_requests or []
    assert schedule.cron_schedule == "0 3 * * 1"
    assert request.tags["dagster/asset_partition_range_start"] == "cnn__s0"
    assert request.tags["dagster/asset_partition_range_end"] == "probe__s1"


def test_automation__everything_ships_stopped(photos: Project) -> None:
    repository = photos.load().get_repository_def()
    instigators = [*repository.sensor_defs, *repository.schedule_defs]
    assert instigators
    assert {each.default_status.value for each in instigators} == {"STOPPED"}
