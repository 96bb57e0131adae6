"""The question encoder's two starts: as published, and one that keeps words over the pads behind them."""

import torch

from stgcma.models.question import QuestionEncoder

OBJECTS = range(2, 8)
QUESTIONS = torch.tensor([[9, 10, word, 11] + [0] * 10 for word in OBJECTS])
"""Four words, one of them different, and ten pads."""


def share_of_words(*, remembers_words):
    """Of the variance of question vectors, what tells questions that differ in one word apart; mean of ten starts."""
    shares = []
    for seed in range(10):
        torch.manual_seed(seed)
        vectors = QuestionEncoder(12, 32, 0.1, remembers_words=remembers_words)(QUESTIONS)
        shares.append((vectors.var(dim=0).mean() / vectors.var()).item())
    return sum(shares) / len(shares)


def test_words_outweigh_the_pads_behind_them_only_where_asked_for():
    assert share_of_words(remembers_words=False) < 0.01
    assert share_of_words(remembers_words=True) > 0.1


def test_pads_bring_nothing_but_are_still_trained():
    encoder = QuestionEncoder(12, 32, remembers_words=True)
    assert not encoder.embedding.weight[0].any()
    encoder(QUESTIONS).sum().backward()
    assert encoder.embedding.weight.grad[0].any()
