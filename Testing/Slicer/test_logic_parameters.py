"""What a run is asked for and what is told of it: parameters become a job, an error a next step, progress a time."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from DiffuGTSSlicer.messages import failureOf, nextSteps, timeLeft
from DiffuGTSSlicer.parameters import RunParameters
from DiffuGTSSlicer.run_progress import RunProgress

from DiffuGTSLib.config import load_config
from DiffuGTSLib.worker import protocol


def test_built_in_sentences_are_sent_as_their_organ_and_others_as_they_are() -> None:
    written = RunParameters(
        organ="lung", normal="A normal CT scan of the lung", abnormal="An abnormal CT scan of the lung showing a tumor"
    )
    assert written.jobPrompts() == {"organ": "lung"}
    own = RunParameters(organ="lung", normal="lung", abnormal="lung nodule")
    assert own.jobPrompts() == {"normal": "lung", "abnormal": "lung nodule"}


def test_an_organ_names_what_is_found_where_the_sentences_speak_of_it() -> None:
    own = RunParameters(organ="Pulmonary", modality="CT")
    assert own.namedOrgan == "Pulmonary"
    for normal, abnormal in (("Lungs of a smoker", "Smoker with a nodule"), ("A chest", "Pulmonary nodule")):
        assert replace(own, normal=normal, abnormal=abnormal).namedOrgan == "Pulmonary"
    thigh = {"normal": "muscle of the thigh", "abnormal": "sarcoma of the thigh"}
    assert replace(own, **thigh).namedOrgan == "" == RunParameters(**thigh).namedOrgan
    assert RunParameters(organ="thigh", **thigh).namedOrgan == "thigh", "also one that is not built in"
    assert RunParameters(organ="soft tissue", **thigh).namedOrgan == "soft tissue", "by a synonym"
    assert replace(own, normal="no lung", abnormal="lung nodule").namedOrgan == "", "no run will take these"


def test_parameters_become_overrides_of_the_library() -> None:
    parameters = RunParameters(
        organ="lung", steps=7, seed=3, dilationMm=2.5, candidateThreshold=0.3, refinementThreshold=0.0
    )
    assert load_config("mini").masks.floor == parameters.config().masks.floor > 0.25
    as_it_is = replace(parameters, candidateFloor=load_config("mini").masks.floor).config()
    assert as_it_is.masks.region_floor == load_config("mini").masks.region_floor, "the slider was not moved"
    parameters = replace(parameters, candidateFloor=0.25)
    config = parameters.config()
    assert (config.inpainting.steps, config.runtime.seed, config.masks.dilation_mm) == (7, 3, 2.5)
    assert (config.masks.threshold, config.residual.rule) == (0.3, "otsu")
    assert config.masks.floor == config.masks.region_floor == 0.25, "a moved slider applies within a region, too"
    assert load_config("maisi-ct").residual.rule == "otsu"
    config = RunParameters(organ="lung", preset="maisi-ct", refinementThreshold=0.6).config()
    assert (config.residual.rule, config.residual.threshold) == ("fixed", 0.6)


@pytest.mark.parametrize("rule", ["fixed", "relative"])
def test_a_threshold_of_the_refined_mask_is_meant_as_the_preset_means_its_own(
    rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Presets").mkdir()
    (tmp_path / "Presets" / "ours.json").write_text(f'{{"residual": {{"rule": "{rule}", "threshold": 0.3}}}}')
    monkeypatch.setattr("DiffuGTSLib.config.resource_path", tmp_path.joinpath)
    config = RunParameters(organ="lung", preset="ours", refinementThreshold=0.6).config()
    assert (config.residual.rule, config.residual.threshold) == (rule, 0.6)


CODES_WITHOUT_STEP = re.compile(r'code="([a-z_]+)"')


def test_every_code_has_a_next_step() -> None:
    library = Path(protocol.__file__).resolve().parents[1]
    sources = [path.read_text(encoding="utf-8") for path in library.rglob("*.py")]
    codes = {code for text in sources for code in CODES_WITHOUT_STEP.findall(text)} | set(protocol.CODES) | {"crashed"}
    for code in codes:
        failure = failureOf(code, "What is wrong.", "do this")
        assert failure.nextStep and failure.text().startswith("What is wrong.\n")
    for code in (*protocol.CODES, "crashed", "geometry", "empty_candidate"):
        assert failureOf(code, "x", "" if code in nextSteps() else "y").nextStep != nextSteps()["error"], code


def test_a_step_of_the_command_line_is_not_told_in_the_panel() -> None:
    for hint in ("use --device cpu.", "see `diffugts doctor`."):
        assert "Advanced" in failureOf("config", "No GPU.", hint).nextStep
        assert hint not in failureOf("a_new_code", "What.", hint).nextStep
    assert failureOf("a_new_code", "What.", "wait.").nextStep == "Next step: wait."


def test_progress_is_weighed_by_how_long_stages_took() -> None:
    now = [0.0]
    progress = RunProgress(lambda: now[0])
    progress.learn({"load": 1, "read": 1, "aova": 6, "repaint": 10, "residual": 1, "write back": 0.5, "write": 0.5})
    progress.begin()
    assert progress.share == 0 and progress.leftS is None
    progress.update("repaint", 0.5)
    now[0] = 13.0
    assert progress.share == pytest.approx(13 / 20)
    assert progress.leftS == pytest.approx(7.0)
    progress.update("unknown", 0.9)
    assert progress.stage == "repaint"
    progress.begin(skip=("aova",))
    progress.update("repaint", 0.0)
    assert progress.share == pytest.approx(2 / 14)
    assert timeLeft(7) == "about 5 s left" and timeLeft(150) == "about 2 min left" and timeLeft(None) == ""
