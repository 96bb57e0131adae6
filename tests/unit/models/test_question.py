"""The two initialisations of the question encoder: as published, and one that keeps words over the padding."""

import torch

from stgcma.models.question import QuestionEncoder

OBJECTS = range(2, 8)
QUESTIONS = torch.tensor([[9, 10, word, 11] + [0] * 10 for word in OBJECTS])
"""Questions that differ in one of four words, with ten positions of padding."""


def share_of_words(*, remembers_words):
    """Share of the variance of question vectors that comes from the word that differs; mean of ten seeds."""
    shares = []
    for seed in range(10):
        torch.manual_seed(seed)
        vectors = QuestionEncoder(12, 32, 0.1, remembers_words=remembers_words)(QUESTIONS)
        shares.append((vectors.var(dim=0).mean() / vectors.var()).item())
    return sum(shares) / len(shares)


def test_words_outweigh_the_padding_only_with_remembers_words():
    assert share_of_words(remembers_words=False) < 0.01
    assert share_of_words(remembers_words=True) > 0.1


def test_padding_starts_at_zero_and_is_trained():
    encoder = QuestionEncoder(12, 32, remembers_words=True)
    assert not encoder.embedding.weight[0].any()
    encoder(QUESTIONS).sum().backward()
    assert encoder.embedding.weight.grad[0].any()
