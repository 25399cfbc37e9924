"""DiffuGTS: zero-shot tumor segmentation by anomaly attention, latent repainting and residuals."""

__version__ = "0.1.0"
