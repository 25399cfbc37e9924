"""Training: cases and splits, one trainer, one recipe for each trained part."""
