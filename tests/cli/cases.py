"""Settings of a training of seconds with the real network."""

SMALL = (
    "data.generate.num_train=24",
    "data.generate.num_val=4",
    "backbone.weights=none",
    "neck.out_channels=16",
    "detector.head.num_convs=1",
    "solver.train_evals=3",
    "solver.test_evals=3",
    "solver.backward.max_vjps=2",
    "image.min_size=[64]",
    "image.max_size=128",
    "data.batch_size=4",
    "schedule.max_epochs=2",
    "callbacks.last.every_n_steps=1",
    "trainer.accelerator=cpu",
)
