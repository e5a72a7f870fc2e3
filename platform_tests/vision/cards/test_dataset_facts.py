"""Responsible-AI facts: the vocabulary's own terms, and what YAML may give for each."""

from __future__ import annotations

from datetime import date

import pytest
from pydantic import ValidationError

from platform_assets.vision.cards.dataset_facts import ResponsibleAI

# The property table of the Croissant RAI specification, version 1.0 (2024-03), in its order.
PROPERTIES = """
dataCollection dataCollectionType dataCollectionMissingData dataCollectionRawData dataCollectionTimeframe
dataImputationProtocol dataManipulationProtocol dataPreprocessingProtocol dataAnnotationProtocol dataAnnotationPlatform
dataAnnotationAnalysis dataReleaseMaintenancePlan personalSensitiveInformation dataSocialImpact dataBiases
dataLimitations dataUseCases annotationsPerItem annotatorDemographics machineAnnotationTools
"""


def test_terms__are_those_of_the_vocabulary() -> None:
    assert list(ResponsibleAI().terms()) == [f"rai:{name}" for name in PROPERTIES.split()]


def test_facts__one_text_or_many() -> None:
    one = ResponsibleAI(data_biases="Mostly noon.", data_collection="By drone.")  # type: ignore[arg-type]
    many = ResponsibleAI(data_biases=["Mostly noon.", "Few rare birds."], data_use_cases=None)  # type: ignore[arg-type]
    assert one.terms()["rai:dataBiases"] == ("Mostly noon.",)
    assert one.terms()["rai:dataCollection"] == ("By drone.",)
    assert many.terms()["rai:dataBiases"] == ("Mostly noon.", "Few rare birds.")
    assert many.terms()["rai:dataUseCases"] == many.terms()["rai:dataCollection"] == ()


def test_facts__days_and_numbers_as_yaml_reads_them() -> None:
    said = ResponsibleAI.model_validate(
        {"data_collection_timeframe": [2019, date(2020, 3, 31)], "annotations_per_item": 3}
    )
    assert said.terms()["rai:annotationsPerItem"] == ("3",)
    assert said.terms()["rai:dataCollectionTimeframe"] == ("2019", "2020-03-31")


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"data_bias": "x"}, "Extra inputs are not permitted"),
        ({"data_biases": [" "]}, "at least 1 character"),
        ({"data_collection": ""}, "at least 1 character"),
        ({"data_collection_timeframe": "spring"}, "pattern"),
    ],
)
def test_facts__bad_yaml_is_refused(said: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        ResponsibleAI.model_validate(said)


def test_facts__the_schema_allows_one_text() -> None:
    field = ResponsibleAI.model_json_schema()["properties"]["data_biases"]
    assert [kind["type"] for kind in field["anyOf"]] == ["string", "array"]
