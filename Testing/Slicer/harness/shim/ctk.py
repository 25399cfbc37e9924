"""`ctk` as scripted modules see it: the widgets that a panel of a module is made of. Names and types are the real ones."""

from __future__ import annotations

from typing import Any

import qt
from declared_widget import declare
from PySide6 import QtCore, QtGui, QtWidgets
from ui_loader import register

HEADER_PX = 20
UNLIMITED_PX = 16777215


@register
class ctkCollapsibleButton(
    declare(
        "ctkCollapsibleButton",
        QtWidgets.QAbstractButton,
        [("bool", "collapsed", False, "contentsCollapsed"), ("bool", "flat", False, "")],
        ["contentsCollapsed(bool)"],
    )
):
    """A header that folds away what is below it. It is a button: checked means open."""

    def __init__(self, *arguments: Any) -> None:
        parent = next((a for a in arguments if issubclass(type(a), QtWidgets.QWidget)), None)
        super().__init__(parent)
        self.setText(next((a for a in arguments if isinstance(a, str)), ""))
        self.setCheckable(True)
        self.setChecked(True)
        self.setContentsMargins(6, HEADER_PX + 4, 6, 6)
        self.toggled.connect(lambda on: self.setCollapsed(not on))

    def on_collapsed(self, collapsed: bool) -> None:
        """Hide or show the children, and take the place that they need."""
        for child in self.children():
            if issubclass(type(child), QtWidgets.QWidget):
                child.setVisible(not collapsed)
        self.setMaximumHeight(HEADER_PX if collapsed else UNLIMITED_PX)
        self.updateGeometry()
        if self.isChecked() == collapsed:
            self.setChecked(not collapsed)

    def sizeHint(self) -> QtCore.QSize:
        """Ask for the layout's size, or for the header alone."""
        layout = self.layout()
        inner = layout.sizeHint() if layout is not None else QtCore.QSize(120, HEADER_PX)
        return QtCore.QSize(inner.width(), HEADER_PX if self.collapsed else max(inner.height(), HEADER_PX))

    def minimumSizeHint(self) -> QtCore.QSize:
        """Ask for no less than the layout does."""
        layout = self.layout()
        inner = layout.minimumSize() if layout is not None else QtCore.QSize(120, HEADER_PX)
        return QtCore.QSize(inner.width(), HEADER_PX if self.collapsed else max(inner.height(), HEADER_PX))

    def paintEvent(self, event: QtGui.QPaintEvent) -> None:
        """Draw the header and the frame."""
        painter = QtGui.QPainter(self)
        palette = self.palette
        painter.fillRect(0, 0, self.width, HEADER_PX, palette.color(QtGui.QPalette.Button))
        painter.setPen(palette.color(QtGui.QPalette.ButtonText))
        painter.drawText(HEADER_PX, 15, self.text)
        painter.drawText(6, 15, "\u25b8" if self.collapsed else "\u25be")
        painter.setPen(palette.color(QtGui.QPalette.Mid))
        painter.drawRect(0, 0, self.width - 1, self.height - 1)
        painter.end()


@register
class ctkCollapsibleGroupBox(
    declare("ctkCollapsibleGroupBox", QtWidgets.QGroupBox, [("bool", "collapsed", False, "")])
):
    """A group box that folds."""

    def on_collapsed(self, collapsed: bool) -> None:
        """Hide or show the children."""
        for child in self.children():
            if issubclass(type(child), QtWidgets.QWidget):
                child.setVisible(not collapsed)


@register
class ctkSliderWidget(
    declare(
        "ctkSliderWidget",
        QtWidgets.QWidget,
        [
            ("int", "decimals", 2, "decimalsChanged"),
            ("double", "singleStep", 1.0, ""),
            ("double", "pageStep", 10.0, ""),
            ("double", "minimum", 0.0, ""),
            ("double", "maximum", 99.0, ""),
            ("double", "value", 0.0, "valueChanged"),
            ("QString", "prefix", "", ""),
            ("QString", "suffix", "", ""),
            ("double", "tickInterval", 0.0, ""),
            ("bool", "tracking", True, ""),
            ("bool", "spinBoxVisible", True, ""),
        ],
        ["valueChanged(double)", "valueIsChanging(double)", "decimalsChanged(int)"],
    )
):
    """A slider with a spin box."""

    STEPS = 1000

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._slider, self._box = QtWidgets.QSlider(qt.Qt.Horizontal, self), QtWidgets.QDoubleSpinBox(self)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._slider)
        layout.addWidget(self._box)
        self._slider.setRange(0, self.STEPS)
        self._slider.valueChanged.connect(self._slide)
        self._box.valueChanged.connect(self.setValue)
        self._show()

    def _slide(self, step: int) -> None:
        value = self.minimum + step / self.STEPS * (self.maximum - self.minimum)
        self.valueIsChanging.emit(value)
        self.setValue(value)

    def _show(self, *_: Any) -> None:
        parts = (self._slider, self._box)
        blocked = [part.blockSignals(True) for part in parts]
        self._box.setDecimals(self.decimals)
        self._box.setSingleStep(self.singleStep)
        self._box.setRange(self.minimum, self.maximum)
        self._box.setSuffix(self.suffix)
        self._box.setPrefix(self.prefix)
        self._box.setValue(self.value)
        self._box.setVisible(self.spinBoxVisible)
        span = self.maximum - self.minimum
        self._slider.setValue(round((self.value - self.minimum) / span * self.STEPS) if span else 0)
        for part, was in zip(parts, blocked, strict=True):
            part.blockSignals(was)

    def _keep_within(self, *_: Any) -> None:
        self.setValue(self.value)
        self._show()

    def clamp_value(self, value: float) -> float:
        """Keep the value within the range, with as many decimals as are shown."""
        return round(min(max(value, self.minimum), self.maximum), self.decimals)

    def setRange(self, minimum: float, maximum: float) -> None:
        """Set both ends."""
        self.setMinimum(minimum)
        self.setMaximum(maximum)

    on_value = on_singleStep = on_suffix = on_prefix = on_spinBoxVisible = on_decimals = _show
    on_minimum = on_maximum = _keep_within


@register
class ctkPathLineEdit(
    declare(
        "ctkPathLineEdit",
        QtWidgets.QWidget,
        [
            ("QString", "currentPath", "", ""),
            ("QString", "settingKey", "", ""),
            ("QString", "label", "", ""),
            ("bool", "showBrowseButton", True, ""),
            ("bool", "showHistoryButton", True, ""),
            ("QStringList", "nameFilters", (), ""),
        ],
        ["currentPathChanged(QString)", "validInputChanged(bool)"],
    )
):
    """A line for a path, with a button that would open a dialog.

    An empty line is no valid input: CTK tells that it became one, and of no change of the path.
    """

    Files, Dirs, Drives, Hidden, NoDotAndDotDot, Executable, Readable, Writable = 2, 1, 4, 256, 24576, 64, 16, 32
    filters = 0

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._is_valid = False
        self._line, browse = QtWidgets.QLineEdit(self), QtWidgets.QToolButton(self)
        browse.setText("\u2026")
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._line)
        layout.addWidget(browse)
        self._line.textChanged.connect(self.setCurrentPath)

    def on_currentPath(self, path: str) -> None:
        """Show the path, and tell of it."""
        if self._line.text != path:
            self._line.setText(path)
        was_valid, self._is_valid = self._is_valid, bool(path)
        if path:
            self.currentPathChanged.emit(path)
        if was_valid != self._is_valid:
            self.validInputChanged.emit(self._is_valid)

    def addCurrentPathToHistory(self) -> None:
        """Keep no history."""


@register
class ctkRangeWidget(
    declare(
        "ctkRangeWidget",
        QtWidgets.QWidget,
        [
            ("int", "decimals", 2, ""),
            ("double", "singleStep", 1.0, ""),
            ("double", "minimum", 0.0, ""),
            ("double", "maximum", 99.0, ""),
            ("double", "minimumValue", 0.0, "minimumValueChanged"),
            ("double", "maximumValue", 99.0, "maximumValueChanged"),
        ],
        ["minimumValueChanged(double)", "maximumValueChanged(double)", "valuesChanged(double,double)"],
    )
):
    """Two ends of a range."""

    def setRange(self, minimum: float, maximum: float) -> None:
        """Set what the ends may be."""
        self.setMinimum(minimum)
        self.setMaximum(maximum)

    def setValues(self, minimum: float, maximum: float) -> None:
        """Set both ends."""
        self.setMinimumValue(minimum)
        self.setMaximumValue(maximum)

    def on_minimumValue(self, value: float) -> None:
        """Tell both."""
        self.valuesChanged.emit(self.minimumValue, self.maximumValue)

    on_maximumValue = on_minimumValue


@register
class ctkComboBox(declare("ctkComboBox", QtWidgets.QComboBox, [("QString", "defaultText", "", "")])):
    """A combo box with a text for no choice."""


_BOX = [("bool", "dontShowAgain", False, ""), ("QString", "dontShowAgainSettingsKey", "", "")]
_FOLDER = [("QString", "directory", "", "directoryChanged"), ("QString", "caption", "", "")]

ctkMessageBox = declare("ctkMessageBox", QtWidgets.QMessageBox, [*_BOX, ("bool", "dontShowAgainVisible", False, "")])
ctkCheckBox = declare("ctkCheckBox", QtWidgets.QCheckBox)
ctkCheckablePushButton = declare("ctkCheckablePushButton", QtWidgets.QPushButton)
ctkMenuButton = declare("ctkMenuButton", QtWidgets.QPushButton)
ctkExpandButton = declare("ctkExpandButton", QtWidgets.QToolButton)
ctkDoubleSpinBox = declare("ctkDoubleSpinBox", QtWidgets.QDoubleSpinBox)
ctkDoubleSlider = declare("ctkDoubleSlider", ctkSliderWidget)
ctkDirectoryButton = declare("ctkDirectoryButton", QtWidgets.QPushButton, _FOLDER, ["directoryChanged(QString)"])
ctkColorPickerButton = declare("ctkColorPickerButton", QtWidgets.QPushButton, [], ["colorChanged(QColor)"])
ctkFittedTextBrowser = declare("ctkFittedTextBrowser", QtWidgets.QTextBrowser)
ctkDoubleRangeSlider = declare("ctkDoubleRangeSlider", ctkRangeWidget)
