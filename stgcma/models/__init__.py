"""The models: backbones, adaptations, the encoder built from them, and the heads."""
