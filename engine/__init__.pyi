"""imagefoundry: makes labelled images, one row per image, with the recipe, the embeddings and the cost of each.

The names of `import engine`, for editors and type checkers; each is documented where it is defined.
"""

# recipes, data and tables
from engine.catalog import Dataset as Dataset
from engine.catalog import dataset_names as dataset_names
from engine.catalog import load_dataset as load_dataset
from engine.cli.report import WorkspaceReportConfig as WorkspaceReportConfig
from engine.cli.report import workspace_report as workspace_report
from engine.cli.show import ShowConfig as ShowConfig
from engine.cli.show import show as show

# looking at a workspace
from engine.cli.status import StatusConfig as StatusConfig
from engine.cli.status import status as status
from engine.cli.verify import VerifyConfig as VerifyConfig
from engine.cli.verify import verify as verify
from engine.costs import PriceBook as PriceBook

# runs and their price
from engine.dataflow.run import Run as Run
from engine.dataflow.stages import Embed as Embed
from engine.dataflow.stages import Stage as Stage
from engine.evaluation import cler_score as cler_score
from engine.evaluation import fid_score as fid_score
from engine.evaluation import linear_probe_score as linear_probe_score

# scores
from engine.evaluation import zero_shot_score as zero_shot_score

# taking images away
from engine.export.audit import AuditConfig as AuditConfig
from engine.export.audit import audit as audit
from engine.export.config import ExportConfig as ExportConfig
from engine.export.export import export_images as export_images
from engine.failures import RunFailed as RunFailed
from engine.images import ImageFormat as ImageFormat
from engine.models import DiffusionGenerator as DiffusionGenerator

# models
from engine.models import GeneratorSpec as GeneratorSpec
from engine.models import ImageEncoder as ImageEncoder
from engine.models import encoder_names as encoder_names
from engine.models import generator_names as generator_names
from engine.models import generator_spec as generator_spec
from engine.models import load_encoder as load_encoder
from engine.models import load_generator as load_generator
from engine.recipe import Recipe as Recipe
from engine.reports import ContactSheet as ContactSheet
from engine.reports import Report as Report

# retrieval
from engine.retriever.head import Head as Head
from engine.retriever.heads import load_kept_head as load_kept_head
from engine.retriever.retriever import Retriever as Retriever
from engine.sources import ConcatenatedPlan as ConcatenatedPlan
from engine.sources import CorpusMaker as CorpusMaker
from engine.sources import GenerativePlan as GenerativePlan
from engine.sources import GeneratorMaker as GeneratorMaker
from engine.sources import Made as Made
from engine.sources import Maker as Maker
from engine.sources import MakerBySource as MakerBySource
from engine.sources import OriginalPlan as OriginalPlan

# plans and makers
from engine.sources import Plan as Plan
from engine.sources import RetrievalPlan as RetrievalPlan
from engine.sources import load_pool as load_pool
from engine.sources import plan_ids as plan_ids
from engine.store import Workspace as Workspace
from engine.studies.check_data import CheckConfig as CheckConfig
from engine.studies.check_data import check_data as check_data
from engine.studies.genbench.budget import BudgetConfig as BudgetConfig
from engine.studies.genbench.budget import run_budget as run_budget
from engine.studies.genbench.injection import InjectionConfig as InjectionConfig
from engine.studies.genbench.injection import run_injection as run_injection
from engine.studies.genbench.metrics import MetricsConfig as MetricsConfig
from engine.studies.genbench.metrics import run_metrics as run_metrics
from engine.studies.genbench.prompts import PromptsConfig as PromptsConfig
from engine.studies.genbench.prompts import run_prompts as run_prompts

# studies: a configuration and a function each
from engine.studies.genbench.tradeoff import GenBenchConfig as GenBenchConfig
from engine.studies.genbench.tradeoff import run_genbench as run_genbench
from engine.studies.injection import InjectionSettings as InjectionSettings
from engine.studies.rating import RatingConfig as RatingConfig
from engine.studies.rating import run_rating as run_rating
from engine.studies.realrag.negatives import DatabaseConfig as DatabaseConfig
from engine.studies.realrag.negatives import MineConfig as MineConfig
from engine.studies.realrag.negatives import build_database as build_database
from engine.studies.realrag.negatives import mine_negatives as mine_negatives
from engine.studies.realrag.retrievers import TrainRetrieverConfig as TrainRetrieverConfig
from engine.studies.realrag.retrievers import train_retriever as train_retriever
from engine.studies.realrag.study import RealRagConfig as RealRagConfig
from engine.studies.realrag.study import run_realrag as run_realrag

__version__: str

__all__ = [
    "AuditConfig",
    "BudgetConfig",
    "CheckConfig",
    "ConcatenatedPlan",
    "ContactSheet",
    "CorpusMaker",
    "DatabaseConfig",
    "Dataset",
    "DiffusionGenerator",
    "Embed",
    "ExportConfig",
    "GenBenchConfig",
    "GenerativePlan",
    "GeneratorMaker",
    "GeneratorSpec",
    "Head",
    "ImageEncoder",
    "ImageFormat",
    "InjectionConfig",
    "InjectionSettings",
    "Made",
    "Maker",
    "MakerBySource",
    "MetricsConfig",
    "MineConfig",
    "OriginalPlan",
    "Plan",
    "PriceBook",
    "PromptsConfig",
    "RatingConfig",
    "RealRagConfig",
    "Recipe",
    "Report",
    "RetrievalPlan",
    "Retriever",
    "Run",
    "RunFailed",
    "ShowConfig",
    "Stage",
    "StatusConfig",
    "TrainRetrieverConfig",
    "VerifyConfig",
    "Workspace",
    "WorkspaceReportConfig",
    "__version__",
    "audit",
    "build_database",
    "check_data",
    "cler_score",
    "dataset_names",
    "encoder_names",
    "export_images",
    "fid_score",
    "generator_names",
    "generator_spec",
    "linear_probe_score",
    "load_dataset",
    "load_encoder",
    "load_generator",
    "load_kept_head",
    "load_pool",
    "mine_negatives",
    "plan_ids",
    "run_budget",
    "run_genbench",
    "run_injection",
    "run_metrics",
    "run_prompts",
    "run_rating",
    "run_realrag",
    "show",
    "status",
    "train_retriever",
    "verify",
    "workspace_report",
    "zero_shot_score",
]
