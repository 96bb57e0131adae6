"""From clips to rows: probe, decode, filter banks, Parquet shards. Knows Ray Data and media libraries, no model."""
