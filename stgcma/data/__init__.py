"""The data path from a Parquet shard to a training step: rows, readers, augmentation and batches."""
