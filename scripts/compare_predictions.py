"""Is one detector better than another, as far as these validation images can tell?

    python evaluate.py ckpt=A/best.ckpt run_dir=eval_a      # writes eval_a/predictions.json
    python scripts/compare_predictions.py ANNOTATIONS.json eval_a/predictions.json eval_b/predictions.json

Draws the images again a thousand times, with replacement and the same for both (the paired bootstrap), and prints
the difference of the two APs with the range of 95 % of the draws. What another seed of the training would change
is not in it: train more than once for that.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ifpn.errors import UserError
from ifpn.evaluation import GroundTruth, ScoredMatches, paired_bootstrap, read_predictions


def main() -> None:
    """Read the command line and print the differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotations", type=Path)
    parser.add_argument("a", type=Path, help="predictions of one detector, in COCO's format")
    parser.add_argument("b", type=Path, help="predictions of the other")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    args = parser.parse_args()
    try:
        truth = GroundTruth.load(args.annotations)
        a, b = (ScoredMatches(truth, read_predictions(file, truth)) for file in (args.a, args.b))
        found = paired_bootstrap(a, b, args.resamples, args.seed)
    except (UserError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(f"AP {found.a:.4f}  {args.a}")
    print(f"AP {found.b:.4f}  {args.b}")
    print(
        f"difference {found.difference:+.4f}, {found.low:+.4f} to {found.high:+.4f} in 95 % of {args.resamples} "
        f"draws of the {len(truth.image_ids)} images (standard deviation {found.error:.4f})"
    )


if __name__ == "__main__":
    main()
