"""Synthesis: painted anatomy and painted tumors, so that training needs no annotated tumor."""
