"""What went wrong and what to do next, for every code of an error, in words that can be translated."""

from __future__ import annotations

from dataclasses import dataclass

from slicer.i18n import tr as _

from DiffuGTSLib.errors import DiffuGTSError

SELF_EXPLAINING = ("dicom", "batch_item")
"""Codes whose message names a next step for each of its points."""


@dataclass(frozen=True)
class Failure:
    """An error as the panel shows it.

    Attributes:
        code: The stable word.
        message: What is wrong, in the words of whoever noticed.
        nextStep: What to do about it.
        detail: The last lines of a worker that died.
    """

    code: str
    message: str
    nextStep: str = ""
    detail: str = ""

    def text(self) -> str:
        """Return what is wrong and the next step, one paragraph each."""
        return "\n".join(filter(None, [self.message, self.nextStep]))


def failureOf(code: str, message: str, hint: str = "", detail: str = "") -> Failure:
    """Return a failure with the next step of its code; the library's own hint where the panel knows no better."""
    steps = nextSteps()
    if code in SELF_EXPLAINING:
        return Failure(code, message, "", detail)
    if "--" in hint or "diffugts " in hint:  # meant for the command line
        hint = ""
    step = steps.get(code) or (_("Next step: {hint}").format(hint=hint) if hint else steps["error"])
    return Failure(code, message, step, detail)


def failureOfError(error: DiffuGTSError) -> Failure:
    """Return the failure that an error of the library is."""
    return failureOf(error.code, error.message, error.hint)


def nextSteps() -> dict[str, str]:
    """Return code → next step, in the language that is set now.

    Codes whose hint from the library is already a step in this panel (wrong prompts, geometry) are left to it.
    """
    return {
        "oom": _("Crop the scan (module Crop Volume), close other programs, or take a smaller preset under Advanced."),
        "cuda_arch": _(
            "This PyTorch was not built for your graphics card: reinstall it in the PyTorch module, "
            "or set Device to Processor under Advanced."
        ),
        "cuda": _(
            "Start again: that starts a new worker. If it happens once more, set Device to Processor under Advanced."
        ),
        "disk_full": _("Make room on the disk of Slicer's temporary folder, or choose another in the settings."),
        "weights_missing": _("Open Models… under Setup: it tells which model folder is expected, and where."),
        "weights_corrupt": _("Copy the model folder again; Models… under Setup shows where it lies."),
        "weights_hash": _("Copy the model folder again; Models… under Setup shows where it lies."),
        "weights": _("Open Models… under Setup and check the model folder."),
        "config": _("Check preset, device and values under Advanced."),
        "untrained": _("Choose the preset mini under Advanced."),
        "import_failed": _(
            "Press Install under Setup; if that was done already, restart Slicer. An interpreter of your own under "
            "Advanced needs the packages in its own environment: install them there, or leave it empty."
        ),
        "empty_candidate": _(
            "Paint a candidate inside the region of interest or the organ's segment, larger if it is tiny; "
            "or set both to None under Inputs."
        ),
        "empty_region": _("Paint the organ's segment or move the region of interest, or set both to None."),
        "no_organ": _(
            "Outline the organ in Segment Editor, or have a module like TotalSegmentator do it, "
            "and choose its segment under Inputs."
        ),
        "empty_organ": _(
            "Choose another organ segment under Inputs, or paint this one; "
            "the Transforms module shows whether something moved it away from the scan."
        ),
        "empty_mask": _("Choose another organ segment under Inputs, or paint this one."),
        "no_place": _("Place a point where the tumor shall be, or set Place to Anywhere in the organ."),
        "painter": _("Choose another painter, or the folder of a trained one."),
        "cache": _("Press Segment instead of Refine: the scan or the settings have changed."),
        "interpreter": _("Choose another Python under Advanced, Interpreter, or leave it empty for Slicer's own."),
        "crashed": _("Start again: that starts a new worker. If it happens once more, copy the log and report it."),
        "protocol": _("Restart Slicer, so that panel and worker are of the same version."),
        "worker": _("Start again: that starts a new worker."),
        "storage": _("Check that Slicer's temporary folder can be written to and has room."),
        "resource_missing": _("Install the extension again."),
        "no_segment": _(
            "Choose the organ's segment again under Inputs, or draw the candidate region again under Refine."
        ),
        "segmentation": _("Choose Create new segmentation under Run."),
        "missing": _("Start again; the files of this run are gone."),
        "unreadable": _("Start again; the files of this run cannot be read."),
        "modality": _("Set the modality under Inputs instead of having it guessed."),
        "mask": _("Choose the scan under Inputs, not a mask that was drawn on it."),
        "not_hu": _(
            "Load the series again as DICOM, or add what the file lost, as a rule -1024, with ShiftScaleImageFilter in the "
            "module Simple Filters."
        ),
        "declined": _("Press Install under Setup when you are ready."),
        "pytorch_extension": _("Install the PyTorch extension in the Extensions Manager and restart Slicer."),
        "torch_loaded": _(
            "Restart Slicer, uninstall PyTorch in the PyTorch module, then press Install under Setup. Other extensions may "
            "need the version that is there now."
        ),
        "slicer_version": _(
            "Install 3D Slicer 5.12 or newer, or choose under Advanced the Python of an environment that has the packages."
        ),
        "install_failed": _("Copy the message and look at the installation log."),
        "error": _("Copy the log and report it."),
    }


def stageName(stage: str, isSynthesis: bool = False) -> str:
    """Return what a stage does, for the progress bar."""
    names = {
        "": _("Starting the worker"),
        "load": _("Reading scan and organ") if isSynthesis else _("Loading the model"),
        "read": _("Reading the scan"),
        "aova": _("Looking for what is abnormal"),
        "repaint": _("Repainting as healthy"),
        "residual": _("Comparing"),
        "write back": _("Carrying the result back to the scan"),
        "synthesize": _("Painting"),
        "write": _("Writing"),
    }
    return names.get(stage, stage)


def timeLeft(seconds: float | None) -> str:
    """Return "about 20 s left", in steps that do not flicker; empty where it is not known."""
    if seconds is None:
        return ""
    if seconds < 60:
        return _("about {seconds} s left").format(seconds=max(5, 5 * round(seconds / 5)))
    return _("about {minutes} min left").format(minutes=round(seconds / 60))
