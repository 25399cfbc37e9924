"""`presets` and `prompts`: what can be chosen. Both answer without torch."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from DiffuGTSLib import config
from DiffuGTSLib.cli.options import examples
from DiffuGTSLib.cli.terminal import OUT, print_line
from DiffuGTSLib.text import prompts as built_in

PROMPTS_EXAMPLES = examples("diffugts prompts", "diffugts prompts --organ liver")


def presets() -> None:
    """List the presets."""
    table = Table("Preset", "What it is")
    for name, description in config.presets().items():
        table.add_row(Text(name), Text(description))
    OUT.print(table)


def prompts(
    organ: Annotated[str | None, typer.Option("--organ", help="Show the sentences of one organ.")] = None,
) -> None:
    """List the organs that have built-in prompts, or the sentences of one of them."""
    if organ is None:
        table = Table("Organ", "Also called")
        for name, synonyms in built_in.organs().items():
            table.add_row(Text(name), Text(", ".join(synonyms)))
        OUT.print(table)
        print_line("Any other organ: write --normal and --abnormal sentences of your own.")
        return
    name = built_in.find_organ(organ)
    table = Table("", "Normal", "Abnormal", title=Text(name))
    for modality in ("CT", "MR"):
        pair = built_in.organ_prompts(name, modality)
        table.add_row(modality, Text(pair.normal), Text(pair.abnormal))
    OUT.print(table)
    print_line(f"Tumors of it in other words: {', '.join(built_in.tumor_words(name))}.")
