"""Sources of labelled images: each is a plan of recipes, and a maker that turns recipes into pixels."""

from engine.sources.generative import GenerativePlan
from engine.sources.make import (
    CorpusMaker,
    Generates,
    GeneratorMaker,
    Made,
    Maker,
    MakerBySource,
    Stored,
    encode_generated,
)
from engine.sources.original import OriginalPlan
from engine.sources.plan import ConcatenatedPlan, Plan, ShotIds, plan_ids, shot_ids
from engine.sources.retrieval import RetrievalPlan, load_pool

__all__ = [
    "ConcatenatedPlan",
    "CorpusMaker",
    "Generates",
    "GenerativePlan",
    "GeneratorMaker",
    "Made",
    "Maker",
    "MakerBySource",
    "OriginalPlan",
    "Plan",
    "RetrievalPlan",
    "ShotIds",
    "Stored",
    "encode_generated",
    "load_pool",
    "plan_ids",
    "shot_ids",
]
