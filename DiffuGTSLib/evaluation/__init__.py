"""Judging masks against references: overlap and surfaces, lesions found and missed, baselines, tables.

Nothing is imported here, so that reading a table does not load torch.
"""
