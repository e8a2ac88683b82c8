#!/usr/bin/env python3
"""Seconds that CLER takes ÷ seconds that the linear probe takes on the same features, pair by pair (GenBench Figure 5; goal <= 1/50).

python -m benchmarks.metric_time

Both are given the same training and test features (embedding the images costs both the same and is not counted) and return a
score; the probe's time is that of its sweep, its fit and its prediction. Features are made up, as in `probe_sweep`. One
thread, seconds of the process.
"""

import argparse
import time

import torch

from benchmarks.common import machine, show
from benchmarks.probe_sweep import features
from engine.evaluation import cler_score, linear_probe_score
from engine.evaluation.linear_probe import PROTOCOLS


def main() -> None:
    """Prints the seconds and the ratio for each number of shots and each protocol of the probe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shots", type=int, nargs="+", default=[5, 20, 100, 500])
    parser.add_argument("--classes", type=int, default=48)
    parser.add_argument("--dimension", type=int, default=96)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{machine()}; {options.classes} classes, {options.dimension} dimensions")
    for shots in options.shots:
        ratios: dict[str, list[float]] = {protocol: [] for protocol in PROTOCOLS}
        seconds: list[float] = []
        for pair in range(options.pairs + 1):
            train, labels, test, truth = features(options.classes, options.dimension, shots, pair)
            text = torch.stack([train[labels == label].mean(0) for label in range(options.classes)]).unsqueeze(1)
            started = time.process_time()
            cler_score(train, labels, test, truth, num_classes=options.classes)
            cler = time.process_time() - started
            for protocol in PROTOCOLS:
                started = time.process_time()
                linear_probe_score(
                    (train, labels),
                    (test, truth),
                    num_classes=options.classes,
                    protocol=protocol,  # type: ignore[arg-type]
                    text_features=text,
                )
                if pair:  # the first pair is a warm-up
                    ratios[protocol].append((time.process_time() - started) / cler)
            if pair:
                seconds.append(cler)
        show(f"{shots} shots: CLER", seconds, "s")
        for protocol in PROTOCOLS:
            show(f"{shots} shots: probe ({protocol}) ÷ CLER", ratios[protocol])


if __name__ == "__main__":
    main()
