"""From one media file to one row: probing, frames, sound, masks."""
