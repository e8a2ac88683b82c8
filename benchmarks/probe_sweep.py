#!/usr/bin/env python3
"""Seconds of the linear probe's whole sweep at all shots: peers ÷ ours, pair by pair, and the accuracies reached.

python -m benchmarks.probe_sweep                       # logistic regression: scikit-learn ÷ ours (goal >= 20), torch ÷ ours
python -m benchmarks.probe_sweep --protocol paper      # the paper's SGD grid: torch, one head after another ÷ ours

The peers do what ours does: every C of the grid on four fifths of the shots, the best by the held-out fifth, a fit on all shots with it.
scikit-learn: LogisticRegression (L-BFGS, at most 1000 steps as in CLIP's own probe, else its defaults). torch: torch.optim.LBFGS with a
strong Wolfe line search, one C after another. The paper's grid is the 33 points that its search begins with; torch trains
BatchNorm1d and Linear with SGD, a point after another. All on one thread, seconds of the process. Features are made up: classes with noise, and dimensions of
different scale as an encoder's have.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.common import machine, show
from engine.evaluation import paper_probe
from engine.evaluation.linear_probe import C_GRID, fit_linear_probe, hold_out

Fit = Callable[[torch.Tensor, torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]


def features(num_classes: int, dimension: int, shots: int, seed: int) -> tuple[torch.Tensor, ...]:
    """Training and test features and labels."""
    g = np.random.default_rng(seed)
    centers = g.normal(size=(num_classes, dimension))
    scales = np.exp(-3 * np.arange(dimension) / dimension)

    def draw(each: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = np.repeat(np.arange(num_classes), each)
        rows = (centers[labels] + 2.5 * g.normal(size=(len(labels), dimension))) * scales + 0.3
        return torch.tensor(rows, dtype=torch.float32), torch.tensor(labels)

    return (*draw(shots), *draw(100))


def ours(x: torch.Tensor, labels: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """The engine's probe."""
    return fit_linear_probe(x, labels, num_classes=int(labels.max()) + 1).predict


def _swept(fit_one: Callable[[torch.Tensor, torch.Tensor, float], Callable[[torch.Tensor], torch.Tensor]]) -> Fit:
    """A peer's sweep: each C fitted alone, the best on the held-out shots fitted again on all."""

    def fit(rows: torch.Tensor, labels: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        unit = torch.nn.functional.normalize(rows)
        mean, scale = unit.mean(0), (unit - unit.mean(0)).square().mean().sqrt()
        x = (unit - mean) / scale
        held_out = hold_out(labels, 0)
        best = 1e-2
        if held_out.any():
            found = {c: fit_one(x[~held_out], labels[~held_out], c) for c in C_GRID}
            right = {c: float((found[c](x[held_out]) == labels[held_out]).float().mean()) for c in C_GRID}
            best = max(C_GRID, key=lambda c: right[c])
        final = fit_one(x, labels, best)
        return lambda test: final((torch.nn.functional.normalize(test) - mean) / scale)

    return fit


def _sklearn(x: torch.Tensor, labels: torch.Tensor, c: float) -> Callable[[torch.Tensor], torch.Tensor]:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=c, max_iter=1000).fit(x.numpy(), labels.numpy())
    return lambda test: torch.tensor(model.predict(test.numpy()))


def _torch(x: torch.Tensor, labels: torch.Tensor, c: float) -> Callable[[torch.Tensor], torch.Tensor]:
    num_classes = int(labels.max()) + 1
    weight = torch.zeros(x.shape[1], num_classes, requires_grad=True)
    bias = torch.zeros(num_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=1000, line_search_fn="strong_wolfe", tolerance_change=1e-6)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(x @ weight + bias, labels) + weight.square().sum() / 2 / c / len(x)
        value.backward()
        return value

    optimizer.step(loss)
    return lambda test: (test @ weight + bias).argmax(1).detach()


def _grid() -> list[tuple[float, float]]:
    decays = [
        paper_probe.weight_decay(index) for index in range(0, paper_probe.NUM_WEIGHT_DECAYS, paper_probe.COARSE_STEP)
    ]
    return [(lr, decay) for lr in paper_probe.LEARNING_RATES for decay in decays if paper_probe.is_stable(lr, decay)]


def _text(x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    means = torch.stack([x[labels == label].mean(0) for label in range(int(labels.max()) + 1)])
    return torch.nn.functional.normalize(means - means.mean(0))


def paper_ours(x: torch.Tensor, labels: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """The paper's coarse grid as one batch; predictions of its last and strongest learning rate, least decayed."""
    rows = paper_probe.scaled(x)
    rates, decays = zip(*_grid(), strict=True)
    heads = paper_probe.train_probe_heads(
        rows, labels, _text(x, labels), list(rates), list(decays), epochs=paper_probe.SEARCH_EPOCHS, seed=0
    )
    chosen = _grid().index((0.1, 1e-6))
    return lambda test: heads.logits(paper_probe.scaled(test))[:, chosen].argmax(1)


def paper_torch(x: torch.Tensor, labels: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """The same points with torch's modules, one after another."""
    rows, start = paper_probe.scaled(x), _text(x, labels)
    trained = {}
    for lr, decay in _grid():
        model = torch.nn.Sequential(
            torch.nn.BatchNorm1d(x.shape[1], affine=False), torch.nn.Linear(x.shape[1], len(start))
        )
        with torch.no_grad():
            model[1].weight.copy_(start)
            model[1].bias.zero_()
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=decay)
        generator = torch.Generator().manual_seed(0)
        for _ in range(paper_probe.SEARCH_EPOCHS):
            for batch in torch.randperm(len(rows), generator=generator).split(paper_probe.BATCH_SIZE):
                if len(batch) > 1:
                    optimizer.zero_grad()
                    torch.nn.functional.cross_entropy(model(rows[batch]), labels[batch]).backward()
                    optimizer.step()
        trained[lr, decay] = model.eval()
    return lambda test: trained[0.1, 1e-6](paper_probe.scaled(test)).argmax(1).detach()


def main() -> None:
    """Prints seconds and accuracies shot by shot, then the ratios of the whole sweep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--protocol", choices=("validation", "paper"), default="validation")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 5, 20, 100, 500])
    parser.add_argument("--classes", type=int, default=48)
    parser.add_argument("--dimension", type=int, default=96)
    parser.add_argument("--pairs", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="sklearn")
    peers: dict[str, Fit] = (
        {"scikit-learn": _swept(_sklearn), "torch, one by one": _swept(_torch)}
        if options.protocol == "validation"
        else {"torch, one by one": paper_torch}
    )
    own = ours if options.protocol == "validation" else paper_ours
    print(f"{machine()}; {options.classes} classes, {options.dimension} dimensions, shots {options.shots}")
    for fit in (own, *peers.values()):
        fit(*features(4, 8, 4, 0)[:2])  # a warm-up: imports at first use do not count
    ratios: dict[str, list[float]] = {name: [] for name in peers}
    worst: dict[str, list[float]] = {name: [] for name in peers}
    for pair in range(options.pairs):
        total = dict.fromkeys(["ours", *peers], 0.0)
        for shots in options.shots:
            train, labels, test, truth = features(options.classes, options.dimension, shots, pair)
            reached = {}
            for name, fit in {"ours": own, **peers}.items():
                started = time.process_time()
                predict = fit(train, labels)
                total[name] += time.process_time() - started
                reached[name] = 100 * float((predict(test) == truth).float().mean())
            for name in peers:
                worst[name].append(reached["ours"] - reached[name])
            print(
                f"pair {pair}, {shots:3} shots: "
                + ", ".join(f"{name} {total[name]:.2f} s so far, {reached[name]:.2f} %" for name in total),
                flush=True,
            )
        for name in peers:
            ratios[name].append(total[name] / total["ours"])
    for name in peers:
        show(f"seconds of {name} ÷ ours", ratios[name])
        print(
            f"  accuracy, ours less {name}: mean {statistics.fmean(worst[name]):+.2f}, from {min(worst[name]):+.2f} to {max(worst[name]):+.2f} points"
        )


if __name__ == "__main__":
    main()
