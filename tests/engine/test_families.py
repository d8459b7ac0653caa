"""The table of families says what is supported, and nothing else."""

from pathlib import Path

from engine.arch.gguf import GGUF_FAMILIES
from engine.arch.hub import HUB_FAMILIES
from scripts.families import FAMILIES, rows


def test_every_family_is_in_the_table() -> None:
    assert sorted(name for family in FAMILIES for name in family.types) == sorted(HUB_FAMILIES)
    assert {name for family in FAMILIES for name in family.gguf} == set(GGUF_FAMILIES)


def test_the_page_has_the_table() -> None:
    page = (Path(__file__).parents[2] / "engine/arch/README.md").read_text()
    assert "\n".join(rows()) in page
