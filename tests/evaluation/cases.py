"""Random data sets and detections with everything that makes COCO's evaluation hard."""

from typing import Any

import numpy as np


def random_case(
    seed: int, *, images: int = 6, classes: int = 4, most: int = 10
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ground truth and COCO results: crowd regions, tied scores, exact hits, wrong classes, empty images.

    Category ids are 1, 4, 7, ... and image ids leave gaps too.
    """
    rng = np.random.default_rng(seed)
    image_ids = (1 + 7 * np.arange(images)).tolist()
    category_ids = (1 + 3 * np.arange(classes)).tolist()
    annotations: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for image_id in image_ids:
        mine = []
        for _ in range(rng.integers(0, most)):
            # sizes on both sides of, and exactly at, COCO's borders between small, medium and large
            side = rng.choice([8.0, 32.0, 50.0, 96.0, 150.0], size=2) + rng.choice([0.0, 3.7])
            box = [*rng.uniform(0, 300, 2), *side]
            area = float(side.prod()) * float(rng.choice([1.0, 0.6]))  # of a mask, which fills the box in part
            mine.append((box, int(rng.choice(category_ids))))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": mine[-1][1],
                    "bbox": [float(v) for v in box],
                    "area": area,
                    "iscrowd": int(rng.random() < 0.2),
                }
            )
        for _ in range(rng.integers(0, 2 * most)):
            box, category = (
                np.array([*rng.uniform(0, 300, 2), *rng.uniform(0, 160, 2)]),
                int(rng.choice(category_ids)),
            )
            if mine and rng.random() < 0.7:
                exact, category = mine[rng.integers(len(mine))]
                box = np.array(exact) * (1 + rng.choice([0.0, 0.05]) * rng.normal(size=4))
            found.append(
                {
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": [float(v) for v in np.maximum(box, 0)],
                    "score": float(np.round(rng.random(), 1)),
                }
            )
    truth = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 480, "height": 480} for i in image_ids],
        "categories": [{"id": c, "name": f"class {c}"} for c in category_ids],
        "annotations": annotations,
    }
    return truth, found
