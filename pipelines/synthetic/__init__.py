"""Synthetic audio-visual clips: what happens in them, how they look and sound, what can be learnt from them."""
