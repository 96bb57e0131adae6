"""What each task reports, as plain names; no torch here."""

from __future__ import annotations

METRICS: dict[str, tuple[str, ...]] = {
    "ave": ("accuracy",),
    "avs": ("miou", "fscore"),
    "avqa": (
        "overall",
        "audio",
        "visual",
        "audio_visual",
        "audio/counting",
        "audio/comparative",
        "visual/counting",
        "visual/location",
        "audio_visual/existential",
        "audio_visual/location",
        "audio_visual/counting",
        "audio_visual/comparative",
        "audio_visual/temporal",
    ),
    "grounding": ("match_accuracy",),
}
"""Task -> what it reports on a split, besides values per class or category; the first one selects the checkpoint."""
