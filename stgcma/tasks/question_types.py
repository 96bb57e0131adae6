"""The question types of MUSIC-AVQA, in the order of the columns of Table 6."""

QUESTION_TYPES: dict[str, tuple[str, ...]] = {
    "audio": ("counting", "comparative"),
    "visual": ("counting", "location"),
    "audio_visual": ("existential", "location", "counting", "comparative", "temporal"),
}
"""Group -> its types."""

TYPE_NAMES: tuple[str, ...] = tuple(f"{group}/{kind}" for group, kinds in QUESTION_TYPES.items() for kind in kinds)
