"""Every subcommand of `imagefoundry`, by name. Adding one is one row here, plus a two-line script in `jobs/` if clusters run it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine.cli import say


@dataclass(frozen=True)
class Command:
    """One subcommand. Its module is imported only when the command runs, so that `imagefoundry --help` is instant."""

    summary: str
    """One sentence for `imagefoundry --help`, and the first line of the command's own help."""
    module: str
    """Module that defines `config` and `action`."""
    config: str
    """Dataclass (or union of dataclasses) that the flags are made from."""
    action: str
    """Function of one `config`."""
    say: Callable[[Any, Any], int | None] = say.nothing
    """Prints the outcome, given the configuration and what the action returned; may return an exit code."""
    script: str = ""
    """Name of its script in `jobs/`, without `.py`; empty if it has none."""
    example: str = ""
    """Arguments of an example, which the command's help ends with. A test parses it, and runs it where that is quick."""


COMMANDS = {
    "genbench": Command(
        "GenBench up to 500 shots: make generative, retrieval and original images, score and price them (GenBench Fig. 3).",
        "engine.studies.genbench.tradeoff",
        "GenBenchConfig",
        "run_genbench",
        say.report,
        "genbench_500shot",
        example="--datasets mini-novel --shots 1 5 --workspace workspace/first --report report-first",
    ),
    "prompts": Command(
        "GenBench Table 2: CLER of every prompt strategy at 20 shots, and the best strategy and source for each class.",
        "engine.studies.genbench.prompts",
        "PromptsConfig",
        "run_prompts",
        say.report,
        "compare_prompts",
        example="--datasets mini-fine --shots 20 --workspace workspace/prompts --report report-prompts",
    ),
    "metrics": Command(
        "GenBench Figures 4, 5, 6, 9, 10 and section 12.2: how well each metric predicts the accuracy of a linear probe.",
        "engine.studies.genbench.metrics",
        "MetricsConfig",
        "run_metrics",
        say.report,
        "metric_study",
        example="--datasets mini-common mini-rare --workspace workspace/metrics --report report-metrics",
    ),
    "inject": Command(
        "GenBench section 4: learn a token per class from reference images, generate with it, compare (Table 3, Fig. 7, 8, 11, 12).",
        "engine.studies.genbench.injection",
        "InjectionConfig",
        "run_injection",
        say.report,
        "inject_knowledge",
        example="--datasets mini-novel --references original --shots 5 --workspace workspace/inject --report report-inject",
    ),
    "budget": Command(
        "Spend a budget: choose a source and a number of shots per class from a pilot, buy the images, compare with each single source.",
        "engine.studies.genbench.budget",
        "BudgetConfig",
        "run_budget",
        say.report,
        "plan_budget",
        example="--datasets mini-rare --budget-usd 6 --workspace workspace/budget --report report-budget",
    ),
    "realrag": Command(
        "RealRAG: build the database, mine reflective negatives, train the retrievers, generate with their references, judge the images.",
        "engine.studies.realrag.study",
        "RealRagConfig",
        "run_realrag",
        say.report,
        "realrag_ablation",
        example="--test-images 50 --workspace workspace/realrag --report report-realrag",
    ),
    "premise": Command(
        "RealRAG's premise put to the test: every kind of negative, in a world whose siblings generator and CLIP confuse.",
        "engine.studies.premise.study",
        "PremiseConfig",
        "run_premise",
        say.report,
        "premise_study",
        example="--workspace workspace/premise --report report-premise",
    ),
    "composition": Command(
        "Composition: every class in contexts such as `at night`, with and without references, judged for object and for context.",
        "engine.studies.composition.study",
        "CompositionConfig",
        "run_composition",
        say.report,
        "composition_study",
        example="--workspace workspace/composition --report report-composition",
    ),
    "build-database": Command(
        "RealRAG's database: add the training images of data sets to the workspace, embedded and indexed; run it again to add more.",
        "engine.studies.realrag.negatives",
        "DatabaseConfig",
        "build_database",
        say.database,
        "build_database",
        example="--datasets mini-rare mini-novel --workspace workspace/retriever",
    ),
    "build-corpus": Command(
        "A corpus of web captions from parquet tables (LAION and its like), to retrieve pictures from; run it again to go on or to add files.",
        "engine.studies.corpus",
        "CorpusConfig",
        "build_corpus",
        say.corpus,
        "build_corpus",
        example="path/to/tables --corpus laion --encoder ViT-B-32/openai --workspace workspace/corpus",
    ),
    "fetch": Command(
        "Retrieve and fetch the pictures of a corpus that are nearest to the classes of data sets, politely (GenBench section 2.2).",
        "engine.studies.fetch",
        "FetchConfig",
        "fetch_pictures",
        say.fetched,
        "fetch_pictures",
        example="--corpus laion --datasets cars --shots 20 --encoder ViT-B-32/openai --workspace workspace/corpus --contact you@example.org",
    ),
    "mine-negatives": Command(
        "Reflective negatives: generate an image for each training prompt and find the nearest database images (RealRAG Eq. 3-4).",
        "engine.studies.realrag.negatives",
        "MineConfig",
        "mine_negatives",
        say.negatives,
        "mine_negatives",
        example="--datasets mini-rare --generator mini --workspace workspace/retriever",
    ),
    "train-retriever": Command(
        "Train retrievers on the mistakes of a generator: build the database, mine negatives, train heads, evaluate retrieval.",
        "engine.studies.realrag.retrievers",
        "TrainRetrieverConfig",
        "train_retriever",
        say.report,
        "train_retriever",
        example="--datasets mini-rare mini-novel --generator mini --workspace workspace/retriever --report report-retriever",
    ),
    "embed": Command(
        "Embed the images of a workspace by one more encoder; images that have its embedding are left as they are.",
        "engine.studies.embed",
        "EmbedConfig",
        "embed_images",
        say.embedded,
        "embed_images",
        example="workspace/first --encoder ViT-B-32/openai",
    ),
    "check-safety": Command(
        "Score the images of a workspace by a safety checker; images that have its score are left as they are.",
        "engine.studies.safety",
        "SafetyConfig",
        "check_safety",
        say.safety,
        "check_safety",
        example="workspace/first --checker Falconsai/nsfw_image_detection --flag nsfw",
    ),
    "rate": Command(
        "RealRAG's human study: write blinded rating sheets of a workspace's images; with --analyse, read the answers.",
        "engine.studies.rating",
        "RatingConfig",
        "run_rating",
        say.rating,
        "rate_images",
        example='--workspace workspace/realrag --methods "none=strategy = \'simple_template\'" "realrag=@realrag-ids.txt" --raters ann bob',
    ),
    "check": Command(
        "Check a data set or a pool before it is used: layout, splits, classes, files that are left out, duplicates.",
        "engine.studies.check_data",
        "CheckConfig",
        "check_data",
        say.checked,
        "check_data",
        example="path/to/photos",
    ),
    "serve": Command(
        "Serve retrieval-augmented generation: an OpenAI-compatible API and pages, on this machine until Ctrl-C.",
        "engine.serving.start",
        "ServeConfig",
        "run_server",
        say.exit_code,
        example="--workspace workspace/realrag --generators mini --port 8000",
    ),
    "doctor": Command(
        "Look whether this machine is ready for a run: device, weights, workspace, disk, Ray, prices; say what to do.",
        "engine.cli.doctor",
        "DoctorConfig",
        "doctor",
        say.diagnosis,
        example="--workspace workspace/first --generator mini --images 1000 --no-ray",
    ),
    "estimate": Command(
        "Hours, dollars and gigabytes of a job before it starts, from what a pilot in a workspace took.",
        "engine.cli.estimate",
        "EstimateConfig",
        "estimate",
        say.estimate,
        example="workspace/pilot --images 1000000 --nodes 4",
    ),
    "status": Command(
        "Summarise a workspace: images, errors by reason, runs with their dollars, sizes of the tables.",
        "engine.cli.status",
        "StatusConfig",
        "status",
        say.status,
        example="workspace/first",
    ),
    "report": Command(
        "One page of a workspace: results of its studies, images by class and source, ratings, heads, runs, dollars, errors.",
        "engine.cli.report",
        "WorkspaceReportConfig",
        "workspace_report",
        say.report,
        example="--workspace workspace/first --report report-everything",
    ),
    "show": Command(
        "Show images of a workspace: write them to a folder with a contact sheet, print their recipes and costs.",
        "engine.cli.show",
        "ShowConfig",
        "show",
        say.shown,
        example="workspace/first --sample 4 --output show",
    ),
    "regenerate": Command(
        "Make images of a workspace again from their recipes, and compare them with the stored ones bit for bit.",
        "engine.cli.regenerate",
        "RegenerateConfig",
        "regenerate",
        say.regenerated,
        example="workspace/first --sample 2 --where \"source = 'generative'\"",
    ),
    "keys": Command(
        "API keys of a server: add one with a rate and a budget, list them with the dollars spent, revoke one.",
        "engine.cli.keys",
        "KeysConfig",
        "keys",
        say.exit_code,
        example="add --workspace workspace/serve --name ada --rate-per-minute 30 --budget-usd 5",
    ),
    "verify": Command(
        "Read a whole workspace and list what is damaged; with --repair, remove it, so that the next run makes it again.",
        "engine.cli.verify",
        "VerifyConfig",
        "verify",
        say.damage,
        "verify_workspace",
        example="workspace/first",
    ),
    "export": Command(
        "Export images of a workspace as Hugging Face parquet, webdataset shards or image folders, with marks and a data card.",
        "engine.export.export",
        "ExportConfig",
        "export_images",
        say.exported,
        "export_images",
        example="--workspace workspace/first --format parquet --output export/first --where \"source = 'generative'\"",
    ),
    "audit": Command(
        "Audit the images of a workspace: leakage of test images, duplicates, balance, diversity, errors, dollars, human ratings.",
        "engine.export.audit",
        "AuditConfig",
        "audit",
        say.audited,
        example="workspace/first --images 200",
    ),
    "models": Command(
        "List the generators: pipeline class, reference modes, licence, memory, default settings.",
        "engine.cli.models",
        "ModelsConfig",
        "models",
        say.table,
    ),
    "convert-glide": Command(
        "Convert OpenAI's two GLIDE checkpoints to a folder of safetensors that --generator.source takes.",
        "engine.cli.models",
        "ConvertGlideConfig",
        "convert_glide",
        say.folder,
        example="base.pt upsample.pt path/to/glide",
    ),
    "world": Command(
        "Render the miniature world: four labelled data sets and a captioned web pool, as webdataset folders.",
        "engine.world.__main__",
        "Command",
        "run",
        say.world,
        example="world --datasets mini-novel --shots 1 --test-images 1",
    ),
    "train-miniature": Command(
        "Train and measure the miniature world's models: clip, judge, generator, reference, evaluate.",
        "engine.miniature.commands",
        "Command",
        "run",
        say.exit_code,
        "train_miniature",
        example="clip --output my-clip --train.steps 800",
    ),
}
