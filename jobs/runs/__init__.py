"""One run: configuration, folder, training loop, workers, evaluation and MLflow."""
