"""The demo, from synthetic clips to result tables, and the pretraining of its small frozen backbones."""
