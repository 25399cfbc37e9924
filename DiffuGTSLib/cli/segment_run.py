"""Segmenting one scan as it was asked for, into its result folder: what `segment` does once and `batch` many times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from DiffuGTSLib.cli.interrupts import stop_if_asked
from DiffuGTSLib.cli.scan_inputs import allowed_region, open_mask, open_scan
from DiffuGTSLib.cli.terminal import ERR, print_note
from DiffuGTSLib.config import Config
from DiffuGTSLib.errors import ConfigError, did_you_mean
from DiffuGTSLib.progress import TerminalProgress
from DiffuGTSLib.text.prompts import PromptPair, chosen_prompts, require_choice

if TYPE_CHECKING:
    from DiffuGTSLib.components import Components
    from DiffuGTSLib.output.findings import Finding
    from DiffuGTSLib.planning.plan import Plan


@dataclass(frozen=True)
class SegmentRequest:
    """What is asked of a scan, wherever it lies.

    Attributes:
        config: As it was asked for; each scan's plan may give some of it up.
        organ: Built-in sentences of this organ, or
        normal: the user's own, of the healthy organ
        abnormal: and of the sick one.
        modality: "CT" or "MR"; None: guessed.
        offset_hu: Added to a CT that is not in HU; 0 says that it is; None: refused where it is not.
        stages: As the command line names them; None: all.
        image_format: One of `results.FORMATS`.
        force: Replace earlier results.
        quiet: Print errors only.
        allow_untrained: Run networks without trained weights.
    """

    config: Config
    organ: str | None = None
    normal: str | None = None
    abnormal: str | None = None
    modality: str | None = None
    stages: str | None = None
    image_format: str = "nifti"
    force: bool = False
    quiet: bool = False
    allow_untrained: bool = False
    offset_hu: float | None = None

    def __post_init__(self) -> None:
        hint = "write --organ liver, or both --normal and --abnormal sentences of your own."
        require_choice(self.organ, self.normal, self.abnormal, hint)

    def prompts(self, modality: str) -> PromptPair:
        """Return the organ's built-in pair, or the user's own.

        Raises:
            PromptError: As `organ_prompts` and `free_prompts`.
        """
        return chosen_prompts(self.organ, self.normal, self.abnormal, modality)

    @property
    def chosen_stages(self) -> tuple[str, ...]:
        """The stages in the order of the pipeline.

        Raises:
            ConfigError: As `chosen_stages`.
        """
        from DiffuGTSLib.pipeline import STAGES

        return chosen_stages(self.stages, STAGES)

    def load(self, plan: Plan) -> Components:
        """Load the networks as the plan of a scan wants them; other scans' plans can use them as well.

        Raises:
            ConfigError, WeightsError: As `load_components`.
        """
        from DiffuGTSLib.components import load_components

        return load_components(plan.config, allow_untrained=self.allow_untrained)

    def run(
        self,
        scan: Path,
        output: Path,
        *,
        organ_mask: Path | None = None,
        box: Sequence[float] | None = None,
        coarse_mask: Path | None = None,
        components: Components | None = None,
    ) -> list[Finding]:
        """Segment a scan into a folder and return the findings.

        Args:
            scan: To segment.
            output: Folder of the result.
            organ_mask: Where to look, a mask on the scan's grid.
            box: Where to look, see `allowed_region`.
            coarse_mask: Instead of detecting.
            components: Networks that are loaded already.

        Raises:
            InputError: If the scan, a mask or the folder is no good.
            Others: As `load_components`, `segment_by_plan` and `write_results`.
        """
        from DiffuGTSLib.volumes.digest import scan_sha256
        from DiffuGTSLib.volumes.io import find_source

        source = find_source(scan)
        digest = scan_sha256(source)  # of what is read now; it may be written anew while this runs
        volume, kind, reason = open_scan(source, self.modality, self.quiet, self.offset_hu)
        prompts = self.prompts(kind)
        notes = {"asked": request_record(organ_mask, box, coarse_mask, self.offset_hu)}
        region = allowed_region(volume.geometry, organ_mask, box)
        drawn = None if coarse_mask is None else open_mask(coarse_mask, volume.geometry)

        from DiffuGTSLib.drawn import inside_region
        from DiffuGTSLib.output import results  # torch: seconds
        from DiffuGTSLib.planning.running import plan_here, segment_by_plan

        stages = self.chosen_stages
        if drawn is not None:
            print_always(inside_region(drawn, region)[1])
        results.require_result_folder(output, self.force)
        plan = plan_here(volume.geometry, self.config)
        print_plan(plan, self.quiet)
        with TerminalProgress(ERR, quiet=self.quiet, check=stop_if_asked) as progress:
            if components is None:
                progress("load", 0.0)
                components = self.load(plan)
                progress("load", 1.0)
            result = segment_by_plan(
                volume, prompts, components, plan, on_step_down=print_always, modality=kind, region=region,
                coarse_mask=drawn, stages=stages, on_progress=progress,
            )  # fmt: skip
            result = replace(result, modality_reason=reason)
            return results.write_results(
                output, volume, scan, result, components, stages=stages, region=region, image_format=self.image_format,
                notes=notes, force=self.force, digest=digest, on_progress=progress,
            )  # fmt: skip


def request_record(
    organ_mask: Path | None = None,
    box: Sequence[float] | None = None,
    coarse_mask: Path | None = None,
    offset_hu: float | None = None,
) -> dict[str, Any]:
    """Return, for the record, where to look was asked for, and what to add to a CT."""
    from DiffuGTSLib.volumes.digest import scan_sha256

    return {
        "organ_mask": organ_mask and str(organ_mask),
        "organ_mask_sha256": organ_mask and scan_sha256(organ_mask),
        "roi_ras_mm": box and list(box),
        "coarse_mask": coarse_mask and str(coarse_mask),
        "offset_hu": offset_hu,
    }


def print_plan(plan: Plan, quiet: bool) -> None:
    """Say aloud what the plan gives up of what was asked for, and what to know of this grid, if anything."""
    if quiet:
        return
    if plan.notes:
        print_note(f"Beware: {'; '.join(plan.notes)}.")
    if plan.rung:
        asked = f"{plan.machine.memory_bytes / 1e9:.1f} GB ({plan.machine.memory_source})"
        print_note(f"Planned for {asked}: {', '.join(plan.ladder[1 : plan.rung + 1])}.")


def print_always(said: str) -> None:
    """Say what a quiet run says, too: that memory ran out, or that some of what was drawn was cut off; not nothing."""
    if said:
        print_note(said, "yellow")


def chosen_stages(text: str | None, known: Sequence[str]) -> tuple[str, ...]:
    """Return the stages of a comma-separated list in the order of the pipeline; all of them for None.

    Raises:
        ConfigError: Unknown or no stage, or one without those before it.
    """
    if text is None:
        return tuple(known)
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise ConfigError(f"Unknown stage '{name}'.", hint=did_you_mean(name, known))
    if not names:
        raise ConfigError("--stages names no stage.", hint=f"known: {', '.join(known)}.")
    chosen = tuple(known[: len(set(names))])
    if set(chosen) != set(names):
        raise ConfigError(
            f"--stages: expected a beginning of {', '.join(known)}, got {', '.join(names)}.",
            hint="each stage builds on those before it.",
        )
    return chosen
