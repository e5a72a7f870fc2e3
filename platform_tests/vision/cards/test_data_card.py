"""The data card: its head is what the Hub reads, its numbers are the facts, its gaps are said and counted."""

import polars as pl
import pytest
from huggingface_hub import DatasetCard
from pydantic import ValidationError

from platform_assets.vision.cards.data_card import DataCardFacts, data_card
from platform_assets.vision.cards.dataset_facts import ResponsibleAI
from platform_assets.vision.cards.licences import Licence
from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.datasets.profile import profile
from platform_assets.vision.datasets.splits import SplitRule
from platform_assets.vision.quality.findings import Findings

LABELS = LabelMap(names=("a|b", "c"))


def _records() -> pl.DataFrame:
    labels = ["a|b"] * 3 + ["c"] * 9
    return pl.DataFrame(
        {
            "image_id": [f"{i:064x}" for i in range(12)],
            "path": [f"{i}.png" for i in range(12)],
            "label": labels,
            "split": (["train"] * 2 + ["test"]) * 4,
            "width": [300] * 12,
            "height": [200] * 12,
            "mode": ["L"] * 12,
            "format": ["PNG"] * 12,
            "bytes": [1000] * 12,
            "pixel_mean": [[0.25, 0.5, 0.75]] * 12,
            "pixel_std": [[0.1, 0.2, 0.3]] * 12,
        },
        schema_overrides={"pixel_mean": pl.Array(pl.Float32, 3), "pixel_std": pl.Array(pl.Float32, 3)},
    )


def _data_facts(**changed: object) -> DataCardFacts:
    rejected = pl.DataFrame({"path": ["z.jpg", "y.jpg"], "reason": ["truncated"] * 2, "detail": [""] * 2})
    facts: dict[str, object] = {
        "name": "solar",
        "description": "Cells under light: which are broken?",
        "licence": "CC-BY-4.0",
        "citation": "Deitsch et al. 2019",
        "split": SplitRule(kind="stratified", group_by="panel", seed=4),
        "label_map": LABELS,
        "profile": profile(_records()),
        "rejected": rejected,
        "version": "0123456789abcdef",
    }
    return DataCardFacts(**{**facts, **changed})  # type: ignore[arg-type]


def test_data_card__the_hub_reads_its_head() -> None:
    card = DatasetCard(data_card(_data_facts()), ignore_metadata_errors=False)
    assert card.data.pretty_name == "solar"
    assert card.data.license == "cc-by-4.0"
    assert card.data.task_categories == ["image-classification"]
    assert card.data.size_categories == ["n<1K"]
    label = {"name": "label", "dtype": {"class_label": {"names": {"0": "a|b", "1": "c"}}}}
    assert card.data.dataset_info == {
        "features": [{"name": "image", "dtype": "image"}, label],
        "splits": [{"name": "train", "num_examples": 8}, {"name": "test", "num_examples": 4}],
        "dataset_size": 12_000,
    }


@pytest.mark.parametrize("name", ["yes", "007", "null", "a: b", "---", "# x", "naïve 猫", "'\"", "<script>"])
def test_data_card__the_hub_reads_odd_class_names_as_they_are(name: str) -> None:
    labels = LabelMap(names=(name, "c"))
    info = DatasetCard(data_card(_data_facts(label_map=labels))).data.dataset_info
    assert info["features"][1]["dtype"]["class_label"]["names"] == {"0": name, "1": "c"}


def test_data_card__a_licence_off_the_hubs_list_is_named_and_linked() -> None:
    licence = Licence(id="Birdwatch terms", source="https://birds.example/terms", approved_by="J. Doe")
    card = DatasetCard(data_card(_data_facts(licence=licence)))
    assert card.data.license == "other"
    assert card.data.license_name == "Birdwatch terms"
    assert card.data.license_link == "https://birds.example/terms"
    assert "| approved by | J. Doe |" in card.content
    assert "The licence is not known" not in card.content


def test_data_card__numbers_and_hashes() -> None:
    text = data_card(_data_facts())
    assert "12 images of 2 classes" in text
    assert "3.0 times the images of the smallest" in text
    assert r"| a\|b | 2 | 1 | 3 |" in text
    assert "| width | 300.0 | 300.0 | 300.0 |" in text
    assert "mean 0.2500, 0.5000, 0.7500, standard deviation 0.1000, 0.2000, 0.3000" in text
    assert "| truncated | 2 | y.jpg |" in text
    assert "seed 4: train 0.7, val 0.1, test 0.2" in text
    assert "Images of one `panel` stay together." in text
    assert LABELS.checksum in text
    assert "0123456789abcdef" in text


def test_data_card__gaps_are_said_and_counted() -> None:
    bare = data_card(_data_facts(licence=None, citation=None, rejected=pl.DataFrame(schema=["path", "reason"])))
    assert (
        "**Gaps:** 24 of 24 facts that people state are not stated, 2 of 2 kinds of finding were not looked for."
        in bare
    )
    assert "| licence | not stated |" in bare
    assert "| cite | not stated |" in bare
    assert "The licence is not known. id: no licence is stated" in bare
    assert "license: unknown" in bare
    assert "Every file was taken in." in bare
    assert bare.count("- `rai:") == bare.count("`: not stated") == 20
    assert "22 of 24 facts" in data_card(_data_facts())


def test_data_card__what_the_owners_state() -> None:
    stated = ResponsibleAI(data_biases=["Mostly noon.", "Few\n  rare birds."], annotations_per_item="Three.")
    text = data_card(_data_facts(responsible_ai=stated))
    assert "- `rai:dataBiases`: Mostly noon.; Few rare birds." in text
    assert "- `rai:annotationsPerItem`: Three." in text
    assert "20 of 24 facts" in text


def test_data_card__findings() -> None:
    findings = Findings(
        near_duplicates=pl.DataFrame({"image_id": list("abcdef"), "near_group": ["1", "1", "2", "2", "2", None]}),
        image_faults=pl.DataFrame({"fault": ["dark", "blurry", "blurry"]}),
        label_faults=pl.DataFrame({"image_id": ["a", "b"]}),
        overrides=pl.DataFrame({"action": ["keep", "relabel", "relabel"], "applied": [True, True, False]}),
    )
    text = data_card(_data_facts(findings=findings))
    assert "0 of 2 kinds of finding were not looked for" in text
    assert "| near duplicates | 5 images in 2 groups |" in text
    assert "| faults of images | 2 blurry, 1 dark |" in text
    assert "| labels in doubt | 2 images |" in text
    assert "| decisions of reviewers applied | 1 keep, 1 relabel; 1 no longer match |" in text


def test_data_card__a_search_that_found_nothing_is_no_gap() -> None:
    nothing = Findings(image_faults=pl.DataFrame(schema={"fault": pl.String}))
    text = data_card(_data_facts(findings=nothing))
    assert "| faults of images | none |" in text
    assert "1 of 2 kinds of finding" in text


def test_data_card__unknown_fact_is_refused() -> None:
    with pytest.raises(ValidationError, match="license"):
        _data_facts(license="MIT")


@pytest.mark.parametrize(
    ("images", "category"),
    [(1, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10_000, "10K<n<100K"), (10**7, "10M<n<100M")],
)
def test_data_card__size_category(images: int, category: str) -> None:
    numbers = profile(_records()).model_copy(update={"images": images})
    assert DatasetCard(data_card(_data_facts(profile=numbers))).data.size_categories == [category]
