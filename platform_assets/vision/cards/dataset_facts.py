"""What YAML may say of how images and labels came to be and what they are fit for, in the words of Croissant RAI 1.0."""

from __future__ import annotations

from datetime import date
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
_Day = Annotated[str, StringConstraints(pattern=r"^\d{4}(-\d\d(-\d\d)?)?$")]


def _as_list(value: object) -> object:
    """One value is a list of one; YAML reads an unquoted day as a date."""
    if value is None:
        return ()
    values = value if isinstance(value, list | tuple) else [value]
    return [str(each) if isinstance(each, date) else each for each in values]


Texts = Annotated[tuple[Text, ...], BeforeValidator(_as_list, json_schema_input_type=Text | tuple[Text, ...])]
Days = Annotated[
    tuple[_Day, ...], BeforeValidator(_as_list, json_schema_input_type=_Day | int | tuple[_Day | int, ...])
]


class ResponsibleAI(BaseModel):
    """The properties of the MLCommons Croissant RAI vocabulary 1.0, each optional: what is left out is a gap.

    `personal_sensitive_information` is `rai:personalSensitiveInformation`, and so on. Where the vocabulary allows many
    values, a list or one text is taken.
    """

    # YAML reads an unquoted 2019 or 3 as a number.
    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    data_collection: Text | None = Field(None, description="how the images were collected")
    data_collection_type: Texts = Field(
        (), description="kinds of collection: Web Scraping, Direct measurement, Experiments"
    )
    data_collection_missing_data: Text | None = Field(None, description="what could not be collected, and why")
    data_collection_raw_data: Text | None = Field(None, description="what the images were made from")
    data_collection_timeframe: Days = Field((), description="first and last day: 2019, 2019-03 or 2019-03-31")
    data_imputation_protocol: Text | None = Field(None, description="how missing data were filled in")
    data_manipulation_protocol: Text | None = Field(None, description="how the data were altered")
    data_preprocessing_protocol: Texts = Field((), description="steps from what was collected to these files")
    data_annotation_protocol: Text | None = Field(
        None, description="who labelled the images, and by which instructions"
    )
    data_annotation_platform: Texts = Field((), description="tools the annotators worked with")
    data_annotation_analysis: Texts = Field(
        (), description="how annotations became labels: disagreement, agreement, votes"
    )
    data_release_maintenance_plan: Texts = Field((), description="who maintains the data, how often, until when")
    personal_sensitive_information: Texts = Field((), description="people, faces, plates, places; how it was handled")
    data_social_impact: Text | None = Field(None, description="what the use of the data may do to people")
    data_biases: Texts = Field((), description="what is shown more or less often than where a model will be used")
    data_limitations: Texts = Field((), description="what the data do not hold for, and uses to keep from")
    data_use_cases: Texts = Field((), description="what the data are meant for")
    annotations_per_item: Text | None = Field(None, description="human labels an image")
    annotator_demographics: Texts = Field((), description="who the annotators are")
    machine_annotation_tools: Texts = Field((), description="software that labelled images")

    def terms(self) -> dict[str, tuple[str, ...]]:
        """Every property by its name in the vocabulary (`rai:dataBiases`), in its order; what is not stated is empty."""
        said = {f"rai:{to_camel(name)}": getattr(self, name) for name in type(self).model_fields}
        return {term: (value,) if isinstance(value, str) else value or () for term, value in said.items()}
