"""Training: cases and splits, one trainer, one recipe for each trained part.

Where to look:

    run.py                       `train_part`, and the table of parts; each part has its `Part` in a file of its own
    *_run.py, tumor_painter.py, residual.py, thresholds.py      train a part; thresholds only chooses settings
    aova.py, autoencoder.py, denoiser.py, segmenter.py, tumor_diffusion.py, vqgan.py    recipes: what is learned, how
    trainer.py, log.py, watch.py           the one training loop, its log, the best weights so far
    job.py, resuming.py, rehearsal.py      what a part is given, what a resumed run must share, what a dry run says
    data.py, anomalies.py, segmenter_data.py    scans on their grid, and the windows drawn from them
"""
