"""Error messages and next steps for every error code, as translatable text."""

from __future__ import annotations

from dataclasses import dataclass

from slicer.i18n import tr as _

from DiffuGTSLib.errors import DiffuGTSError

SELF_EXPLAINING = ("dicom", "batch_item")
"""Codes whose message contains the next steps already."""


@dataclass(frozen=True)
class Failure:
    """An error as the panel shows it.

    Attributes:
        code: Error code.
        message: What is wrong.
        nextStep: What to do about it.
        detail: Last output of a worker that crashed.
    """

    code: str
    message: str
    nextStep: str = ""
    detail: str = ""

    def text(self) -> str:
        """Return message and next step, one line each."""
        return "\n".join(filter(None, [self.message, self.nextStep]))


def failureOf(code: str, message: str, hint: str = "", detail: str = "") -> Failure:
    """Return a failure with the next step of its code, or else with the library's hint."""
    steps = nextSteps()
    if code in SELF_EXPLAINING:
        return Failure(code, message, "", detail)
    if "--" in hint or "diffugts " in hint:  # meant for the command line
        hint = ""
    step = steps.get(code) or (_("Next step: {hint}").format(hint=hint) if hint else steps["error"])
    return Failure(code, message, step, detail)


def failureOfError(error: DiffuGTSError) -> Failure:
    """Convert an error of the library."""
    return failureOf(error.code, error.message, error.hint)


def nextSteps() -> dict[str, str]:
    """Return code → next step, in the current language.

    Codes are left out if the library's hint fits the panel as it is (prompts, geometry).
    """
    return {
        "oom": _(
            "Crop the scan (module Crop Volume), close other programs, or select a smaller preset under Advanced."
        ),
        "cuda_arch": _(
            "This PyTorch was not built for your graphics card: reinstall it in the PyTorch module, "
            "or set Device to CPU under Advanced."
        ),
        "cuda": _(
            "Try again: a new worker process is started. If the error persists, set Device to CPU under Advanced."
        ),
        "disk_full": _(
            "Free space on the disk of Slicer's temporary folder, or choose another folder in the application settings."
        ),
        "weights_missing": _("Open Models… under Setup: it shows which model folder is expected, and where."),
        "weights_corrupt": _("Copy the model folder again; Models… under Setup shows where it is."),
        "weights_hash": _("Copy the model folder again; Models… under Setup shows where it is."),
        "weights": _("Open Models… under Setup and check the model folder."),
        "config": _("Check preset, device and values under Advanced."),
        "untrained": _("Choose the preset mini under Advanced."),
        "import_failed": _(
            "Press Install under Setup; if that was done already, restart Slicer. Another interpreter set under "
            "Advanced needs the packages in its own environment: install them there, or leave the field empty."
        ),
        "empty_candidate": _(
            "Paint a candidate inside the region of interest or the organ's segment, larger if it is tiny; "
            "or set both to None under Inputs."
        ),
        "empty_region": _("Paint the organ's segment or move the region of interest, or set both to None."),
        "no_organ": _(
            "Segment the organ in Segment Editor or with a module like TotalSegmentator, "
            "and choose its segment under Inputs."
        ),
        "empty_organ": _(
            "Choose another organ segment under Inputs, or paint this one; "
            "check in the Transforms module that no transform moves it away from the scan."
        ),
        "empty_mask": _("Choose another organ segment under Inputs, or paint this one."),
        "no_place": _("Place a point at the center of the tumor, or set Place to Anywhere in the organ."),
        "painter": _("Choose another painter, or the folder of a trained painter."),
        "cache": _("Press Segment instead of Refine: the scan or the settings have changed."),
        "cache_other": _("Press Segment instead of Refine: the scan or the settings have changed."),
        "interpreter": _("Choose another Python under Advanced, Interpreter, or leave it empty for Slicer's own."),
        "crashed": _("Try again: a new worker process is started. If the error persists, copy the log and report it."),
        "protocol": _("Restart Slicer, so that panel and worker have the same version."),
        "worker": _("Try again: a new worker process is started."),
        "storage": _("Check that Slicer's temporary folder is writable and has free space."),
        "resource_missing": _("Install the extension again."),
        "no_segment": _(
            "Choose the organ's segment again under Inputs, or draw the candidate region again under Refine."
        ),
        "segmentation": _("Choose Create new segmentation under Run."),
        "missing": _("Run it again: the files of this run are gone."),
        "unreadable": _("Run it again: the files of this run cannot be read."),
        "modality": _("Set the modality under Inputs instead of having it guessed."),
        "mask": _("Choose the scan under Inputs, not a mask that was drawn on it."),
        "not_hu": _(
            "Load the series again from DICOM, or add the lost offset, usually -1024, with ShiftScaleImageFilter in the "
            "module Simple Filters."
        ),
        "declined": _("Press Install under Setup when you are ready."),
        "pytorch_extension": _("Install the PyTorch extension in the Extensions Manager and restart Slicer."),
        "torch_loaded": _(
            "Restart Slicer, uninstall PyTorch in the PyTorch module, then press Install under Setup. Other extensions may "
            "need the installed version."
        ),
        "slicer_version": _(
            "Install 3D Slicer 5.12 or newer, or set Interpreter under Advanced to a Python that has the packages."
        ),
        "install_failed": _("Copy the message and look at the installation log."),
        "error": _("Copy the log and report it."),
    }


def stageName(stage: str, isSynthesis: bool = False) -> str:
    """Return the description of a stage, for the progress bar."""
    names = {
        "": _("Starting the worker"),
        "load": _("Reading scan and organ") if isSynthesis else _("Loading the model"),
        "read": _("Reading the scan"),
        "aova": _("Computing the attention map"),
        "repaint": _("Repainting as healthy"),
        "residual": _("Comparing with the pseudo-healthy image"),
        "write back": _("Resampling the result to the scan"),
        "synthesize": _("Painting tumors"),
        "write": _("Writing the results"),
    }
    return names.get(stage, stage)


def timeLeft(seconds: float | None) -> str:
    """Return "about 20 s left", rounded so that it does not flicker; empty if it is not known."""
    if seconds is None:
        return ""
    if seconds < 60:
        return _("about {seconds} s left").format(seconds=max(5, 5 * round(seconds / 5)))
    return _("about {minutes} min left").format(minutes=round(seconds / 60))
