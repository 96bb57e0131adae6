"""The method: adapters, the adapted block, backbones and the encoder built from them."""
