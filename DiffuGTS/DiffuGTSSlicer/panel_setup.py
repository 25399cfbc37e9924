"""Setup: packages, device and model; collapsed when everything is installed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from DiffuGTSLib.config import load_config
from DiffuGTSLib.errors import ConfigError
from DiffuGTSSlicer.messages import failureOf
from DiffuGTSSlicer.model_folders import modelFolder
from DiffuGTSSlicer.panel_models import ModelsWindow
from DiffuGTSSlicer.panel_section import Section, showsErrors
from DiffuGTSSlicer.parameters import DEFAULT_PRESET, applyPreset
from DiffuGTSSlicer.requirements import nameOf
from DiffuGTSSlicer.settings import INTERPRETER_KEY, MODEL_FOLDER_KEY, setSetting, setting


class SetupSection(Section):
    """Packages, device, model; Install, Check, Models…."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        self.missing: list[str] = []
        self._devices: list[dict[str, Any]] | None = None
        self._isAsking = False
        self._versions: dict[str, str] = {}
        self._model = ("", "", "")
        self.window: ModelsWindow | None = None
        self.ui.installButton.connect("clicked()", self.onInstall)
        self.ui.checkButton.connect("clicked()", self.onCheck)
        self.ui.modelsButton.connect("clicked()", self.onModels)
        self.checkPackages()
        self.ui.setupCollapsibleButton.collapsed = self.isReady

    @property
    def isReady(self) -> bool:
        """Whether a run can start; packages of another interpreter are not checked."""
        return not self.missing or bool(setting(INTERPRETER_KEY))

    def checkPackages(self) -> None:
        """Check which packages are missing; nothing is imported or downloaded."""
        self.missing = self.panel.requirements.missing()

    def refresh(self) -> None:
        """Update packages, device and model."""
        ui = self.ui
        ui.packagesLabel.setText(self._packagesText())
        ui.installButton.enabled = not self.isReady and not self.logic.isRunning
        ui.checkButton.enabled = self.isReady and not self.logic.isRunning
        ui.deviceLabel.setText(self._deviceText())
        ui.modelLabel.setText(self._modelText())

    def close(self) -> None:
        """Stop the models window."""
        if self.window is not None:
            self.window.close()

    def onEvent(self, event: dict[str, Any]) -> None:
        """Store the devices of the worker; a worker that ends before it reports them has failed."""
        if event["event"] == "ready":
            self._devices, self._versions = list(event["devices"]), dict(event["versions"])
            self._isAsking = False
        elif event["event"] == "ended":
            self._devices = None
            if self._isAsking and not self.logic.client.isWarm:
                self._isAsking = False
                if not self.logic.isRunning:  # a run reports its failure itself
                    cause = event["cause"]
                    self.panel.showFailure(failureOf(cause["code"], cause["message"], "", cause["detail"]))

    @showsErrors
    def onInstall(self) -> None:
        """Install missing packages, after confirmation."""
        logging.info("DiffuGTS: install")
        self.install()

    def install(self) -> None:
        """Install missing packages and check again.

        Raises:
            InstallationError: If something is still missing.
        """
        try:
            self.panel.requirements.ensure()
        finally:
            self.checkPackages()
            self.ui.setupCollapsibleButton.collapsed = self.isReady
            self.panel.refresh()

    @showsErrors
    def onCheck(self) -> None:
        """Start the worker, which reports its devices."""
        logging.info("DiffuGTS: check")
        self.panel.run.failure = None
        interpreter = setting(INTERPRETER_KEY)
        if self.logic.client.interpreter != interpreter:
            self._devices = None
        self.panel.run.useInterpreter(interpreter)
        self._isAsking = self._devices is None
        self.logic.client.warmUp()
        self.panel.refresh()

    @showsErrors
    def onModels(self) -> None:
        """Open the models window."""
        self.window = ModelsWindow(self.ui.modelsButton, self.useModel)
        self.window.show()

    def useModel(self, folder: str, preset: str) -> None:
        """Use a model folder of the user, or the model of a preset; with neither, that of the selected preset."""
        setSetting(MODEL_FOLDER_KEY, folder)
        if preset and self.state is not None and self.state.preset != preset:
            applyPreset(self.state, preset)
        self.panel.refresh()

    def _packagesText(self) -> str:
        interpreter = setting(INTERPRETER_KEY)
        if interpreter:
            return _("Packages: of {interpreter}").format(interpreter=interpreter)
        if not self.missing:
            return _("Packages: installed")
        return _("Packages: {count} missing ({names})").format(
            count=len(self.missing), names=", ".join(map(nameOf, self.missing))
        )

    def _deviceText(self) -> str:
        if self._isAsking:
            return _("Device: asking the worker…")
        if self._devices is None:
            return _("Device: known when the worker has started")
        if not self._devices:
            return _("Device: CPU (PyTorch {version} finds no GPU)").format(version=self._versions.get("torch", "?"))
        names = [
            _("{name}, {gb} GB").format(name=device["name"], gb=round(device.get("total_bytes", 0) / 1e9))
            for device in self._devices
        ]
        return _("Device: {names}").format(names="; ".join(names))

    def _modelText(self) -> str:
        preset = (self.state.preset if self.state is not None else "") or DEFAULT_PRESET
        own = setting(MODEL_FOLDER_KEY)
        if (preset, own) != self._model[:2]:
            self._model = (preset, own, self._describeModel(preset, own))
        return self._model[2]

    @staticmethod
    def _describeModel(preset: str, own: str) -> str:
        try:
            config = load_config(preset)
        except ConfigError as error:
            return error.message
        found = Path(own) if own else modelFolder(config)
        if found is None:
            return _("Model: {preset} is not installed").format(preset=preset)
        if own:
            return _("Model: {preset}, from {folder}").format(preset=preset, folder=own)
        return _("Model: {preset}").format(preset=preset)
