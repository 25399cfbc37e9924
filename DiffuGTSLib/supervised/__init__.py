"""Segmentation networks trained on painted tumors (DiffTumor), beside the zero-shot method."""
