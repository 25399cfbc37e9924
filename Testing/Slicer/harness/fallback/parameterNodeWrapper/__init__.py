"""A small `slicer.parameterNodeWrapper` for machines without the sources of Slicer.

Typed members that are kept as text in a parameter node, and bound to widgets of a `.ui` file by their dynamic property
SlicerParameterName. What Slicer refuses is refused here: a widget of another class than those listed in `bindings.py`, a
slider without range, a value of another type. With SLICER_SOURCE_DIR the real package is used instead.
"""

from .annotations import Choice, Decimals, Default, Maximum, Minimum, RangeBounds, SingleStep, WithinRange
from .encoding import FloatRange, parameterPack
from .wrapper import SlicerParameterNamePropertyName, isParameterNodeWrapper, parameterNodeWrapper

__all__ = [
    "Choice",
    "Decimals",
    "Default",
    "FloatRange",
    "Maximum",
    "Minimum",
    "RangeBounds",
    "SingleStep",
    "SlicerParameterNamePropertyName",
    "WithinRange",
    "isParameterNodeWrapper",
    "parameterNodeWrapper",
    "parameterPack",
]
