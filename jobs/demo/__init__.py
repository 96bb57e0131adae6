"""``stgcma-jobs demo``: synthetic clips to result tables, and how its small frozen backbones were pretrained."""
