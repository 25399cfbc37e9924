"""One synthesis job: from the scan and the organ in its folder to the scan with tumors, there too."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np

from DiffuGTSLib.output.record import record_text
from DiffuGTSLib.storage import whole_file
from DiffuGTSLib.synthesis.case import Origin, make_case_record
from DiffuGTSLib.synthesis.organs import organ_spec
from DiffuGTSLib.synthesis.painter import Synthesis, TumorRequest, synthesize
from DiffuGTSLib.synthesis.painters import find_painter
from DiffuGTSLib.volumes.canonical import guess_modality
from DiffuGTSLib.volumes.io import read_mask, read_volume, write_volume
from DiffuGTSLib.volumes.volume import AS_ASKED, require_scan
from DiffuGTSLib.worker.protocol import SYNTHESIS_FILES, SynthesisSpec
from DiffuGTSLib.worker.teller import Teller


def perform_synthesis(folder: Path, spec: SynthesisSpec, teller: Teller) -> None:
    """Paint what a job says, tell of it as it goes, and tell `done` at the end.

    Args:
        folder: Of the job.
        spec: What it says.
        teller: Takes the events; may raise `Cancelled`.

    Raises:
        DiffuGTSError: Whatever reading, `organ_spec`, `find_painter` and `synthesize` refuse, or a file that cannot be
            written.
    """
    with teller.stage("load"):
        organ = organ_spec(spec.organ)
        scan = read_volume(folder / spec.scan)
        require_scan(scan)
        mask = read_mask(folder / spec.organ_mask, scan.geometry)
        modality, reason = (spec.modality, AS_ASKED) if spec.modality else guess_modality(scan)
        painter, weights = find_painter(spec.painter, spec.device)
        request = _request(spec)
        origin = Origin(
            scan, folder / spec.scan, mask, folder / spec.organ_mask, organ, request, modality, painter.name, weights,
            spec.seed,
        )  # fmt: skip
    painted = synthesize(
        scan, mask, organ, request, painter, modality=modality, rng=np.random.default_rng(spec.seed),
        on_progress=teller.progress,
    )  # fmt: skip
    with teller.stage("write"):
        for kind, volume in (("painted", painted.image), ("painted_tumor", painted.tumor)):
            write_volume(volume, folder / SYNTHESIS_FILES[kind], compressed=False)
            teller.artifact(kind, folder / SYNTHESIS_FILES[kind])
        with whole_file(folder / SYNTHESIS_FILES["record"]) as temporary:
            record = {**make_case_record(origin, painted, None), "asked": asdict(spec)}
            temporary.write_text(record_text(record), encoding="utf-8")
        teller.artifact("record", folder / SYNTHESIS_FILES["record"])
    teller.tell(
        "done",
        outcome=_outcome(painted),
        modality=modality,
        modality_reason=reason,
        timings_s={stage: round(taken_s, 3) for stage, taken_s in teller.seconds.items()},
        tumors=[asdict(tumor) for tumor in painted.tumors],
        skipped=list(painted.skipped),
    )


def _request(spec: SynthesisSpec) -> TumorRequest:
    """Return what the job wishes for; its zeros and empty lists stand for nothing asked."""
    r_a_s = tuple(spec.center_ras_mm)
    return TumorRequest(
        spec.size, spec.count or None, (r_a_s[0], r_a_s[1], r_a_s[2]) if r_a_s else None, spec.radius_mm or None,
        spec.avoid_vessels, spec.mass_effect, spec.capsule,
    )  # fmt: skip


def _outcome(painted: Synthesis) -> str:
    count, skipped = len(painted.tumors), len(painted.skipped)
    made = "nothing painted" if count == 0 else "1 tumor painted" if count == 1 else f"{count} tumors painted"
    return made + (f", {skipped} found no place: {painted.skipped[0]}" if skipped else "")
