"""A synthesis job: what it writes, what it tells, and what it refuses; and once through a real worker process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from phantoms import Phantom, ct_phantom, grid

from DiffuGTSLib.errors import Cancelled, ConfigError, GeometryError, InputError
from DiffuGTSLib.volumes.io import read_mask, read_volume, write_volume
from DiffuGTSLib.worker.protocol import SYNTHESIS_FILES, SYNTHESIS_STAGES, SynthesisSpec
from DiffuGTSLib.worker.synthesis_job import perform_synthesis
from DiffuGTSLib.worker.teller import Teller

Event = dict[str, Any]


@pytest.fixture(scope="module")
def a_body() -> Phantom:
    """A phantom on an oblique, left-handed grid."""
    return ct_phantom(grid((36, 40, 30), (3.0, 2.5, 3.5), orientation=np.diag([-1.0, 1.0, 1.0]), degrees=(5, -4, 8)))


@pytest.fixture
def a_job(tmp_path: Path, a_body: Phantom) -> Path:
    """A job folder with a scan and an organ."""
    write_volume(a_body.scan, tmp_path / "input.nrrd")
    write_volume(a_body.organ, tmp_path / "organ.nrrd")
    return tmp_path


def heard(folder: Path, **wishes: Any) -> list[Event]:
    """Do a job and return what it told."""
    events: list[Event] = []
    teller = Teller(lambda event, **values: events.append({"event": event, **values}), lambda: None)
    perform_synthesis(folder, SynthesisSpec(**{"organ": "liver", "size": "small", **wishes}), teller)
    return events


def test_a_tumor_is_painted_on_the_very_grid_and_told_of(a_job: Path, a_body: Phantom) -> None:
    events = heard(a_job, count=1, seed=3)
    assert {event["stage"] for event in events if event["event"] == "stage"} == set(SYNTHESIS_STAGES)
    made = {event["kind"]: Path(event["path"]) for event in events if event["event"] == "artifact"}
    assert {kind: path.name for kind, path in made.items()} == SYNTHESIS_FILES
    painted, tumor = read_volume(made["painted"]), read_mask(made["painted_tumor"], a_body.scan.geometry)
    assert painted.geometry.difference(a_body.scan.geometry) == ""
    assert (painted.array != a_body.scan.array)[tumor.array > 0].mean() > 0.9
    done = events[-1]
    assert done["event"] == "done"
    assert done["outcome"] == "1 tumor painted"
    assert done["modality_reason"].startswith("the darkest")
    record = json.loads(made["record"].read_text())
    assert record["tumors"][0]["volume_ml"] == done["tumors"][0]["volume_ml"]
    assert record["asked"]["seed"] == 3


def test_a_tumor_without_a_place_is_counted_and_said(a_job: Path, a_body: Phantom) -> None:
    organ = np.zeros_like(a_body.organ.array)
    organ[18, 20, 15] = 1
    write_volume(a_body.organ.with_array(organ), a_job / "organ.nrrd")
    done = heard(a_job, count=1, modality="CT")[-1]
    assert done["tumors"] == []
    assert len(done["skipped"]) == 1
    assert done["outcome"].startswith("nothing painted, 1 found no place: ")
    assert done["modality_reason"] == "as asked"


@pytest.mark.parametrize(
    ("wishes", "error", "message"),
    [
        ({"organ": "livr"}, ConfigError, "no organ file for 'livr'"),
        ({"painter": "monet"}, InputError, "Unknown painter"),
        ({"center_ras_mm": (9000.0, 0.0, 0.0)}, InputError, "outside the scan"),
    ],
)
def test_a_wish_that_cannot_be_met_is_refused(
    a_job: Path, wishes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        heard(a_job, **wishes)
    assert not (a_job / SYNTHESIS_FILES["painted"]).exists()


def test_an_organ_on_another_grid_is_refused(a_job: Path, a_body: Phantom) -> None:
    write_volume(a_body.organ.cut((slice(0, 30), slice(0, 40), slice(0, 30))), a_job / "organ.nrrd")
    with pytest.raises(GeometryError):
        heard(a_job)


def test_it_stops_when_asked(a_job: Path) -> None:
    def stop() -> None:
        raise Cancelled("stop")

    with pytest.raises(Cancelled):
        perform_synthesis(a_job, SynthesisSpec(organ="liver"), Teller(lambda *_, **__: None, stop))
