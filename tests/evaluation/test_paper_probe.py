import numpy as np
import pytest
import torch

from engine.evaluation import fit_paper_probe, linear_probe_score, paper_probe, zero_shot_score
from engine.evaluation.paper_probe import train_probe_heads
from tests.evaluation.test_linear_probe import Data, blobs


def with_text(num_classes: int, dimension: int, shots: int, noise: float = 2.0) -> tuple[Data, np.ndarray]:
    """Blobs, and text that points roughly where their classes are."""
    data = blobs(num_classes, dimension, shots, noise)
    means = np.stack([data[2][data[3] == label].mean(axis=0) for label in range(num_classes)])
    text = means + 0.5 * means.std() * np.random.default_rng(1).normal(size=means.shape)
    return data, text[:, None].astype(np.float32)


def torch_head(x: torch.Tensor, labels: torch.Tensor, start: torch.Tensor, rate: float, decay: float, epochs: int):
    """The same training by torch's own modules, one head at a time."""
    norm = torch.nn.BatchNorm1d(x.shape[1], affine=False)
    head = torch.nn.Linear(*start.T.shape)
    with torch.no_grad():
        head.weight.copy_(start)
        head.bias.zero_()
    optimizer = torch.optim.SGD(head.parameters(), lr=rate, momentum=0.9, weight_decay=decay)
    generator = torch.Generator().manual_seed(7)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(64):
            if len(rows) > 1:
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(head(norm(x[rows])), labels[rows]).backward()
                optimizer.step()
    return norm.eval(), head


@pytest.mark.parametrize("num_rows", [150, 129])  # 129 leaves a last batch of one row
def test_every_head_of_the_grid_is_torchs_own(num_rows: int) -> None:
    (train, labels, test, _), text = with_text(6, 12, 25)
    x, columns = paper_probe.scaled(torch.tensor(train))[:num_rows], torch.tensor(labels)[:num_rows]
    start = torch.tensor(text[:, 0])
    points = [(0.1, 1e-6), (1e-3, 0.1), (0.01, 10.0)]
    heads = train_probe_heads(x, columns, start, [p[0] for p in points], [p[1] for p in points], epochs=3, seed=7)
    seen = paper_probe.scaled(torch.tensor(test))
    for number, point in enumerate(points):
        norm, head = torch_head(x, columns, start, *point, epochs=3)
        torch.testing.assert_close(heads.logits(seen)[:, number], head(norm(seen)), rtol=1e-3, atol=1e-4)


def test_the_whole_toolkits_grid_is_visited_but_for_what_cannot_converge(monkeypatch: pytest.MonkeyPatch) -> None:
    (train, labels, _, _), text = with_text(3, 8, 10)
    rounds = []

    def spy(*arguments, **options):
        rounds.append(list(zip(arguments[3], arguments[4], strict=True)))
        return train_probe_heads(*arguments, **options)

    monkeypatch.setattr(paper_probe, "train_probe_heads", spy)
    fit_paper_probe(train, labels, text)
    assert [len(points) for points in rounds[:1]] == [33]  # 6 x 7, without lr * decay >= 3.8
    assert set(rounds[0]) == {
        (rate, decay)
        for rate in paper_probe.LEARNING_RATES
        for decay in (paper_probe.weight_decay(index) for index in range(0, 97, 16))
        if rate * decay < 3.8
    }
    assert len(rounds) == 1 + 4 + 1  # the coarse grid, four finer rounds, the final fit
    assert all(len(points) <= 12 for points in rounds[1:5])
    assert len(rounds[5]) == 1


def test_the_choice_follows_the_held_out_shots_and_nothing_else() -> None:
    (train, labels, test, truth), text = with_text(6, 24, 20)
    first = fit_paper_probe(train, labels, text, seed=3)
    again = fit_paper_probe(train, labels, text, seed=3)
    assert torch.equal(first.heads.weight, again.heads.weight)
    results = [
        linear_probe_score(
            (train, labels), (test, answers), num_classes=6, seed=3, protocol="paper", text_features=text
        )
        for answers in (truth, (truth + 1) % 6)
    ]
    assert results[0].score > 0.5 > 0.3 > results[1].score
    assert (results[0].learning_rate, results[0].weight_decay) == (results[1].learning_rate, results[1].weight_decay)
    assert (first.learning_rate, first.weight_decay) == (results[0].learning_rate, results[0].weight_decay)
    assert results[0].c is None
    assert results[0].validation_score == first.validation_score


def test_training_beats_the_text_it_starts_from() -> None:
    (train, labels, test, truth), text = with_text(10, 32, 40)
    result = linear_probe_score((train, labels), (test, truth), num_classes=10, protocol="paper", text_features=text)
    assert result.score > zero_shot_score(test, truth, text)
    assert result.c is None
    assert result.learning_rate in paper_probe.LEARNING_RATES


def test_one_shot_a_class_starts_from_the_text_with_the_default_settings() -> None:
    (train, labels, test, truth), text = with_text(5, 16, 1)
    probe = fit_paper_probe(train, labels, text)
    assert (probe.learning_rate, probe.weight_decay, probe.validation_score) == (0.1, 1e-6, None)
    assert (probe.predict(test).numpy() == truth).mean() > 0.25


def test_what_is_missing_is_said() -> None:
    (train, labels, test, truth), text = with_text(5, 16, 3)
    with pytest.raises(ValueError, match="give text_features of 5 classes"):
        linear_probe_score((train, labels), (test, truth), num_classes=5, protocol="paper")
    with pytest.raises(ValueError, match="give text_features of 5 classes"):
        linear_probe_score((train, labels), (test, truth), num_classes=5, protocol="paper", text_features=text[:4])
    with pytest.raises(ValueError, match="did you mean paper"):
        linear_probe_score((train, labels), (test, truth), num_classes=5, protocol="papers")  # type: ignore[arg-type]
