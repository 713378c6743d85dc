"""Messages of libraries that a user of ours cannot act on, each with its reason; everything else is shown."""

from __future__ import annotations

import logging
import warnings

KNOWN = {
    ".*does not have many workers.*": "the number of loader workers is a setting of ours, chosen with a measurement",
    ".*in eval mode at the start of training.*": "frozen parts of a backbone stay in evaluation mode on purpose",
    ".*your dataloader is not resumable.*": "resuming within an epoch is exact: the sampler goes on where it was",
    ".*exists and is not empty.*": "Hydra makes the run folder first; `check_run_dir` sees to it that it holds no run",
    ".*You have overridden `on_after_batch_transfer`.*": "uint8 becomes float there, for any data module",
    ".*isinstance.treespec, LeafSpec.*": "Lightning 2.6.6 uses a torch function that torch 2.14 renames",
    ".*when logging on epoch level in distributed setting.*": "every rank has the numbers of the gathered detections",
    ".*Total length of `list` across ranks is zero.*": "data.val_share=0 asks for no validation",
    ".*is smaller than the logging interval.*": "a short run logs when it ends; nothing is lost",
}


def silence_known_warnings() -> None:
    """Silence `KNOWN`, and Lightning's notes on the machine and on its own products, which are no warnings."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for message in KNOWN:
        warnings.filterwarnings("ignore", message=message)
