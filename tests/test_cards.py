"""The dataset's card, as Hugging Face would read it."""

import yaml

from facefoundry.dataset_card import dataset_card

CHAIN = [
    {"name": "StyleGAN", "licence": "research only", "commercial": "no", "real_faces": "yes"},
    {"name": "Head", "licence": "CC0-1.0", "commercial": "yes", "real_faces": "no"},
]


def rows() -> list[dict]:
    return [
        {
            "identity": f"i{n // 4}",
            "split": "train" if n < 24 else "test",
            "generator": "render" if n < 20 else None,
            "attributes": {"age": float(n)} if n < 20 else {},
        }
        for n in range(32)
    ]


def test_front_matter_is_yaml_with_every_licence() -> None:
    _, head, _ = dataset_card(rows(), CHAIN).split("---\n", 2)
    values = yaml.safe_load(head)
    assert values["license"] == "other"
    assert values["license_name"] == "research only + CC0-1.0"
    assert values["size_categories"] == ["n<1K"]


def test_counts_and_spread_are_those_of_the_rows() -> None:
    card = dataset_card(rows(), CHAIN)
    assert "# 32 aligned faces of 8 identities" in card
    assert "| test | 2 | 8 |" in card and "| train | 6 | 24 |" in card
    assert "| render | 5 | 20 |" in card and "| unknown | 3 | 12 |" in card
    assert "| age | 20 | 0 | 4.75 | 9.5 | 14.25 | 19 |" in card


def test_the_limits_follow_the_licence_chain() -> None:
    mixed, clean = dataset_card(rows(), CHAIN), dataset_card(rows(), CHAIN[1:])
    assert "real people through: StyleGAN" in mixed and "not granted by: StyleGAN" in mixed
    assert "No photograph of a real person" in clean and "Nothing in the chain forbids" in clean


def test_without_attributes_groups_are_said_to_be_unknown() -> None:
    bare = [row | {"attributes": {}} for row in rows()]
    assert "cannot be told from this data" in dataset_card(bare, CHAIN)
