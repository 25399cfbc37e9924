"""Advanced: preset, device, seed, thresholds, interpreter, and memory; numbers are bound by the `.ui`."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from DiffuGTSLib.config import load_config, presets
from DiffuGTSLib.errors import InputError
from DiffuGTSSlicer.panel_models import HIDDEN_PRESETS
from DiffuGTSSlicer.panel_section import ChoiceBox, Section, connectPath, showsErrors
from DiffuGTSSlicer.parameters import applyPreset
from DiffuGTSSlicer.settings import INTERPRETER_KEY, setSetting, setting

QUALITIES = {"fast": 1 / 3, "balanced": 1.0, "full": 3.0}
"""Name → repainting steps, as a multiple of the preset's."""
CUSTOM = "custom"


class AdvancedSection(Section):
    """What most people never open."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        ui = self.ui
        self._described = presets()
        self._preset = ChoiceBox(ui.presetComboBox, self._presets(""), self._choosePreset)
        devices = [("auto", _("Graphics card if there is one")), ("cpu", _("Processor")), ("cuda", _("Graphics card"))]
        self._device = ChoiceBox(ui.deviceComboBox, devices, self._chooseDevice)
        qualities = [
            ("fast", _("Fast")),
            ("balanced", _("Balanced")),
            ("full", _("Full")),
            (CUSTOM, _("Own number of steps")),
        ]
        self._quality = ChoiceBox(ui.qualityComboBox, qualities, self._chooseQuality)
        ui.interpreterPathEdit.currentPath = setting(INTERPRETER_KEY)
        connectPath(ui.interpreterPathEdit, self.onInterpreter)
        ui.diceButton.connect("clicked()", self.onDice)
        ui.releaseButton.connect("clicked()", self.onRelease)

    def _presets(self, shown: str) -> list[tuple[str, str]]:
        return [(name, name) for name in self._described if name not in HIDDEN_PRESETS or name == shown]

    def refresh(self) -> None:
        """Show preset and device."""
        ui, state = self.ui, self.state
        ui.releaseButton.enabled = self.logic.client.isWarm and not self.logic.isRunning
        ui.advancedCollapsibleButton.enabled = state is not None
        if state is None:
            return
        self._preset.offer(self._presets(state.preset))
        self._preset.show(state.preset)
        ui.presetComboBox.setToolTip(self._described.get(state.preset, ""))
        self._device.show(state.device)
        wanted = [name for name in QUALITIES if stepsOf(state.preset, name) == state.steps]
        self._quality.show(wanted[0] if wanted else CUSTOM)
        ui.refinementThresholdSlider.enabled = not state.autoRefinement
        known = state.preset in self._described
        ui.candidateFloorSlider.enabled = known and load_config(state.preset).masks.rule == "relative"

    @showsErrors
    def _choosePreset(self, preset: str) -> None:
        """Take a preset with its values."""
        if self.state is not None:
            applyPreset(self.state, preset)

    @showsErrors
    def _chooseQuality(self, quality: str) -> None:
        """Take the steps that a quality stands for; one's own number stays."""
        if self.state is not None and quality in QUALITIES:
            self.state.steps = stepsOf(self.state.preset, quality)

    def _chooseDevice(self, device: str) -> None:
        if self.state is not None:
            self.state.device = device

    @showsErrors
    def onInterpreter(self, path: str) -> None:
        """Use another Python, with an empty path Slicer's; refused where there is none."""
        if path and not Path(path).is_file():
            raise InputError(
                _("{path} is no program.").format(path=path),
                hint=_("choose the python of an environment that has the packages, or leave it empty."),
                code="interpreter",
            )
        setSetting(INTERPRETER_KEY, path)
        self.panel.run.failure = None  # of the path as far as it was typed, or of the interpreter before
        self.panel.refresh()

    @showsErrors
    def onDice(self) -> None:
        """Draw another seed."""
        if self.state is not None:
            self.state.seed = random.randrange(1_000_000)  # noqa: S311 no secret

    @showsErrors
    def onRelease(self) -> None:
        """Have the worker give its memory back."""
        logging.info("DiffuGTS: release memory")
        self.logic.release()

    def onEvent(self, event: dict[str, Any]) -> None:
        """Tell that the memory is free."""
        if event["event"] == "released":
            self.panel.run.log(_("The worker has forgotten the model; its memory is free."))


def stepsOf(preset: str, quality: str) -> int:
    """Return how many steps a quality takes with a preset; 0 where there is no such preset.

    A small model needs fewer steps than a large one, so that a quality is a multiple of what its preset asks for.
    """
    if preset not in presets():
        return 0
    return min(max(1, round(QUALITIES[quality] * load_config(preset).inpainting.steps)), 1000)
