"""Experiment trackers that follow a search or a training: TensorBoard, Weights & Biases, MLflow, trackio."""
