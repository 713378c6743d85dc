"""Score a checkpoint, or a file of predictions, on a COCO-format data set: `python evaluate.py --help`."""

from omegaconf import DictConfig

from ifpn.cli.command import command


@command(config_name="evaluate")
def main(cfg: DictConfig) -> None:
    """Evaluate with the composed configuration."""
    from ifpn.cli.evaluate import evaluate

    evaluate(cfg)


if __name__ == "__main__":
    main()
