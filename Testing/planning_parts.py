"""A scan and machines of any size, for the tests of what is planned."""

from DiffuGTSLib.planning.machine import Machine
from DiffuGTSLib.volumes.volume import Geometry

CHEST = Geometry.from_spacing((512, 512, 300), (0.75, 0.75, 1.0))


def machine(memory_gb: float, device: str = "cpu", name: str = "one of ours", tflops: float | None = 0.1) -> Machine:
    """Return a machine as if its memory and its speed had been asked for."""
    return Machine(device, name, memory_gb * 1e9, "as asked", tflops, "as asked")
