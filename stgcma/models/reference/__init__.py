"""Parameter names of the reference implementation -> ours, for the encoder and the heads."""
