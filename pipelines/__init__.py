"""From media files to Parquet shards: probing, decoding, filter banks. Uses Ray Data and media libraries, no model."""
