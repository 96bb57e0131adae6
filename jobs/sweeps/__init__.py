"""Executing a table: in this process, in a pool of processes or as Ray tasks, with a live board and MLflow."""
