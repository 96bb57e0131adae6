"""One run: its configuration and folder, the training loop and where it runs, evaluation, MLflow."""
