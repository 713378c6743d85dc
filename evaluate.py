"""Score a checkpoint, or a file of predictions, on a COCO-format data set: `python evaluate.py --help`."""

from omegaconf import DictConfig

from ifpn.config.command import command


@command(config_name="evaluate")
def main(cfg: DictConfig) -> None:
    from ifpn.inference.commands import evaluate

    evaluate(cfg)


if __name__ == "__main__":
    main()
