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
    """Expert settings."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        ui = self.ui
        self._described = presets()
        self._preset = ChoiceBox(ui.presetComboBox, self._presets(""), self._choosePreset)
        devices = [("auto", _("GPU if available")), ("cpu", _("CPU")), ("cuda", _("GPU"))]
        self._device = ChoiceBox(ui.deviceComboBox, devices, self._chooseDevice)
        qualities = [
            ("fast", _("Fast")),
            ("balanced", _("Balanced")),
            ("full", _("Full")),
            (CUSTOM, _("Custom number of steps")),
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
        """Apply a preset."""
        if self.state is not None:
            applyPreset(self.state, preset)

    @showsErrors
    def _chooseQuality(self, quality: str) -> None:
        """Set the number of steps of a quality; "custom" keeps the current one."""
        if self.state is not None and quality in QUALITIES:
            self.state.steps = stepsOf(self.state.preset, quality)

    def _chooseDevice(self, device: str) -> None:
        if self.state is not None:
            self.state.device = device

    @showsErrors
    def onInterpreter(self, path: str) -> None:
        """Use another Python; an empty path selects Slicer's. A path that does not exist is refused."""
        if path and not Path(path).is_file():
            raise InputError(
                _("{path} is not a program.").format(path=path),
                hint=_("choose the python of an environment that has the packages, or leave it empty."),
                code="interpreter",
            )
        setSetting(INTERPRETER_KEY, path)
        self.panel.run.failure = None  # of a partly typed path, or of the previous interpreter
        self.panel.refresh()

    @showsErrors
    def onDice(self) -> None:
        """Set another random seed."""
        if self.state is not None:
            self.state.seed = random.randrange(1_000_000)  # noqa: S311 no secret

    @showsErrors
    def onRelease(self) -> None:
        """Release the worker's memory."""
        logging.info("DiffuGTS: release memory")
        self.logic.release()

    def onEvent(self, event: dict[str, Any]) -> None:
        """Log that the memory was released."""
        if event["event"] == "released":
            self.panel.run.log(_("The worker has unloaded the model and released its memory."))


def stepsOf(preset: str, quality: str) -> int:
    """Return the number of steps of a quality in a preset; 0 if there is no such preset.

    It is a multiple of the preset's number, since a small model needs fewer steps than a large one.
    """
    if preset not in presets():
        return 0
    return min(max(1, round(QUALITIES[quality] * load_config(preset).inpainting.steps)), 1000)
