"""Synthetic audio-visual clips: what happens in them, how they look and sound, and what can be learnt from them."""
