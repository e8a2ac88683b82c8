"""imagefoundry: makes labelled images, one row per image, with the recipe, the embeddings and the cost of each.

The names below are imported when they are first used, so `import engine` is instant and loads neither torch nor Ray.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_MODULES = {
    # recipes, data and tables
    "Recipe": "engine.recipe",
    "Dataset": "engine.catalog",
    "load_dataset": "engine.catalog",
    "dataset_names": "engine.catalog",
    "Workspace": "engine.store",
    # models
    "GeneratorSpec": "engine.models",
    "DiffusionGenerator": "engine.models",
    "ImageEncoder": "engine.models",
    "generator_names": "engine.models",
    "generator_spec": "engine.models",
    "load_generator": "engine.models",
    "encoder_names": "engine.models",
    "load_encoder": "engine.models",
    # plans and makers
    "Plan": "engine.sources",
    "GenerativePlan": "engine.sources",
    "RetrievalPlan": "engine.sources",
    "OriginalPlan": "engine.sources",
    "ConcatenatedPlan": "engine.sources",
    "Maker": "engine.sources",
    "Made": "engine.sources",
    "GeneratorMaker": "engine.sources",
    "CorpusMaker": "engine.sources",
    "MakerBySource": "engine.sources",
    "load_pool": "engine.sources",
    "plan_ids": "engine.sources",
    # runs and their price
    "ImageFormat": "engine.images",
    "Run": "engine.dataflow.run",
    "Stage": "engine.dataflow.stages",
    "Embed": "engine.dataflow.stages",
    "RunFailed": "engine.failures",
    "PriceBook": "engine.costs",
    # retrieval
    "Head": "engine.retriever.head",
    "load_kept_head": "engine.retriever.heads",
    "Retriever": "engine.retriever.retriever",
    # scores
    "zero_shot_score": "engine.evaluation",
    "cler_score": "engine.evaluation",
    "linear_probe_score": "engine.evaluation",
    "fid_score": "engine.evaluation",
    # studies: a configuration and a function each
    "GenBenchConfig": "engine.studies.genbench.tradeoff",
    "run_genbench": "engine.studies.genbench.tradeoff",
    "PromptsConfig": "engine.studies.genbench.prompts",
    "run_prompts": "engine.studies.genbench.prompts",
    "MetricsConfig": "engine.studies.genbench.metrics",
    "run_metrics": "engine.studies.genbench.metrics",
    "BudgetConfig": "engine.studies.genbench.budget",
    "run_budget": "engine.studies.genbench.budget",
    "InjectionConfig": "engine.studies.genbench.injection",
    "InjectionSettings": "engine.studies.injection",
    "run_injection": "engine.studies.genbench.injection",
    "RealRagConfig": "engine.studies.realrag.study",
    "run_realrag": "engine.studies.realrag.study",
    "TrainRetrieverConfig": "engine.studies.realrag.retrievers",
    "train_retriever": "engine.studies.realrag.retrievers",
    "RatingConfig": "engine.studies.rating",
    "run_rating": "engine.studies.rating",
    "CheckConfig": "engine.studies.check_data",
    "check_data": "engine.studies.check_data",
    "DatabaseConfig": "engine.studies.realrag.negatives",
    "build_database": "engine.studies.realrag.negatives",
    "MineConfig": "engine.studies.realrag.negatives",
    "mine_negatives": "engine.studies.realrag.negatives",
    "Report": "engine.reports",
    "ContactSheet": "engine.reports",
    # taking images away
    "ExportConfig": "engine.export.config",
    "export_images": "engine.export.export",
    "AuditConfig": "engine.export.audit",
    "audit": "engine.export.audit",
    # looking at a workspace
    "StatusConfig": "engine.cli.status",
    "status": "engine.cli.status",
    "WorkspaceReportConfig": "engine.cli.report",
    "workspace_report": "engine.cli.report",
    "ShowConfig": "engine.cli.show",
    "show": "engine.cli.show",
    "VerifyConfig": "engine.cli.verify",
    "verify": "engine.cli.verify",
}
"""Public name → module that defines or re-exports it; `__init__.pyi` repeats them for editors and type checkers."""

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> Any:
    """Imports a public name at its first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
