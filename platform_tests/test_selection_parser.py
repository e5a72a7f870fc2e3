"""The antlr guard: dagster's selections, hydra's overrides and omegaconf's interpolations parse in one interpreter."""

import dagster as dg
import pytest

REINSTALL = "antlr4 is not 4.13 beside hydra-core 1.4; see the pins in pyproject.toml, then `make setup`"


@dg.asset(key=["elpv", "records"], group_name="elpv", kinds={"polars"})
def records() -> None: ...


@dg.asset(key=["elpv", "probe", "checkpoint"], group_name="elpv_probe", deps=[records], owners=["team:vision"])
def checkpoint() -> None: ...


@dg.asset(key=["elpv", "probe", "metrics"], group_name="elpv_probe", deps=[checkpoint])
def metrics() -> None: ...


EVERYTHING = {"elpv/records", "elpv/probe/checkpoint", "elpv/probe/metrics"}
SELECTIONS = [
    ("*", EVERYTHING),
    ("elpv/records", {"elpv/records"}),
    ('key:"elpv/probe/*"', {"elpv/probe/checkpoint", "elpv/probe/metrics"}),
    ("group:elpv_probe", {"elpv/probe/checkpoint", "elpv/probe/metrics"}),
    ('key:"elpv/records"+', EVERYTHING),
    ('1+key:"elpv/probe/metrics"', {"elpv/probe/checkpoint", "elpv/probe/metrics"}),
    ('+key:"elpv/probe/checkpoint" and not kind:polars', {"elpv/probe/checkpoint"}),
    ('owner:"team:vision" or kind:polars', {"elpv/probe/checkpoint", "elpv/records"}),
]


@pytest.mark.parametrize(("selection", "expected"), SELECTIONS)
def test_selection__parses_and_resolves(selection: str, expected: set[str]) -> None:
    parsed = dg.AssetSelection.from_coercible([selection])
    keys = parsed.resolve([records, checkpoint, metrics])
    assert {key.to_user_string() for key in keys} == expected, REINSTALL


def test_selection__dvc_and_hydra_parse_beside_it() -> None:
    # 2026-11: with antlr 4.9, which hydra-core 1.3 wants, dagster died; with 4.13 beside hydra-core 1.3, this does.
    import dvc.repo
    import omegaconf
    from dvc.utils.hydra import to_hydra_overrides

    assert dvc.repo.Repo
    assert [override.key_or_group for override in to_hydra_overrides(["train.epochs=3", "train.grid=[1,2]"])] == [
        "train.epochs",
        "train.grid",
    ]
    assert omegaconf.OmegaConf.create({"epochs": 3, "again": "${epochs}"}).again == 3
    assert dg.AssetSelection.from_string('key:"elpv/*" and not group:elpv_probe'), REINSTALL
