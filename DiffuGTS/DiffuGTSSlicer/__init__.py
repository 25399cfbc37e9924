"""The Slicer side in rooms: nodes in, nodes out; never torch."""
