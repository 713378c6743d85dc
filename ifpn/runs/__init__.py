"""What a run leaves on disk: checkpoints, exports, its result, and the identity of its configuration."""
