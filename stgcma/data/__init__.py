"""Rows, batches and everything between a Parquet shard and a training step."""
