"""The run folder: names of its files, and which of them may be there before a run starts."""

CONFIG = "config.yaml"
METRICS = "metrics.csv"
RESULT = "result.json"
COMPLETE = "complete.json"
LAST, BEST = "last.ckpt", "best.ckpt"
EXPORT = "export"
EVIDENCE = "nonfinite"
SAMPLES, CURVES, CONVERGENCE = "samples.png", "curves.png", "convergence.png"
BATCH, CONFUSION = "train_batch.png", "confusion.png"
PRECISION_RECALL, OPERATING = "precision_recall.png", "operating_points.png"
PREDICTIONS = "predictions.json"
# Of a sweep, and of its jobs.
SWEEP, FAILED, JOB_LOG = "sweep.json", "failed.txt", "job.log"
# Of evaluate.py.
SCORES = "scores.json"

# What other libraries write in place.
PICTURES = (BATCH, SAMPLES, CURVES, CONVERGENCE, CONFUSION, PRECISION_RECALL, OPERATING)
WRITTEN_IN_PLACE = (METRICS, *PICTURES, "profile.txt", JOB_LOG, EVIDENCE, EXPORT, "hydra", "wandb")
