"""Data sets in the layouts of the field: made into protocols, checked, and split."""
