"""What a reader needs to judge the phantoms' numbers: data, scale, commit, time."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from mammo_jax import config as base
from mammo_jax.common import run_directory as workdirs
from mammo_jax.weights.pretrained import file_digest
from paper import phantoms, presets, tables
from paper.plan import PlannedRun, Setting

TIME_FILE = "time.json"
# Keys of that file, besides the seconds; its times are in ISO 8601 and UTC.
FIRST_START, LAST_END = "first_start", "last_end"


def read_seconds(folder: Path) -> float:
    """The time that all calls took together; 0 where there was none."""
    path = folder / TIME_FILE
    return float(workdirs.read_json(path)["seconds"]) if path.exists() else 0.0


def read_span(folder: Path) -> tuple[datetime, datetime] | None:
    """When the first call began and the last that had work to do ended.

    None where no call has, or where calls were made whose times were not kept.
    """
    path = folder / TIME_FILE
    there = workdirs.read_json(path) if path.exists() else {}
    if not (FIRST_START in there and LAST_END in there):
        return None
    start, end = (datetime.fromisoformat(there[k]) for k in (FIRST_START, LAST_END))
    return start, end


def conditions(found: Mapping[str, Sequence[PlannedRun]], setting: Setting) -> str:
    """The conditions as a list in Markdown.

    Args:
      found: the finished runs, by row.
      setting: of a preset that has a scale.
    """
    if not found:
        return "Not run."
    scale = setting.scale
    assert scale is not None
    lines = [
        *_provenance(found, setting),
        *_scale(scale),
        *_training(scale),
        *_pretrained(setting.folder, scale),
    ]
    return "\n".join(f"- {line}" for line in lines)


def _provenance(
    found: Mapping[str, Sequence[PlannedRun]], setting: Setting
) -> list[str]:
    measured = [tables.measure(row) for row in found.values()]
    seconds = sum(m.seconds * m.effect.seeds for m in measured)
    whole = read_seconds(setting.folder)
    commits = dict.fromkeys(commit for m in measured for commit in m.commits)
    return [
        f"{sum(map(len, found.values()))} runs of {len(found)} rows: "
        f"{seconds / 60:.0f} minutes; with drawing, packaging, pretraining, flips and "
        f"gradients all calls together took {whole / 60:.0f} minutes: those of "
        "processes that ran at the same time are added up, and so are waiting for each "
        f"other and pauses{_by_the_clock(setting.folder)}.",
        f"Program: commit {', '.join(commits)} (+: with uncommitted changes). The "
        f"phantoms were drawn at commit {', '.join(phantoms.commits(setting.folder))}; "
        "before that, what draws them (`mammo_jax/phantom`) last changed in commit "
        f"{', '.join(phantoms.generator_commits(setting.folder))}.",
    ]


def _by_the_clock(folder: Path) -> str:
    span = read_span(folder)
    if span is None:
        return ""
    minutes = (span[1] - span[0]).total_seconds() / 60
    return f"; from first start to last end {minutes:.0f} minutes by the clock"


def _scale(scale: presets.Scale) -> list[str]:
    drawn = scale.phantoms
    return [
        f"Phantoms: {drawn.cases} patients in CBIS-DDSM's layout (seed {drawn.seed}), "
        f"{drawn.inbreast_cases} examinations in INbreast's (seed {drawn.seed + 1}), "
        f"lesion contrast {drawn.contrast:g}, as in `make demo`.",
        f"Images {scale.height}x{scale.height * 896 // 1152}, trunks and tops "
        f"{scale.width:g} as wide as the paper's, torchvision's wiring, residual units "
        "that start as identities, the trunk's batch statistics frozen in the "
        "whole-image stage, no turns, shears or zooms, no early stopping; the stages "
        "are the paper's with fewer epochs and higher rates "
        "(`paper/presets.py`).",
    ]


def _training(scale: presets.Scale) -> list[str]:
    fields = scale.fields
    epochs, rate = scale.stages["patch_random"]["stage1"]
    patch_batch = fields["patch"].get("batch_size", base.patch_config().batch_size)
    penalties = " and ".join(
        f"{stage['l2']:g}" for stage in base.STAGES["whole"].values()
    )
    decay = scale.decay.get("patch_random", "constant")
    paper_rate = max(base.STAGES["patch_random"]["stage1"]["rates"].values())
    return [
        f"Batches of {patch_batch} patches or "
        f"{fields['whole']['batch_size']} whole images; an epoch has "
        f"{fields['patch']['steps_per_epoch']} steps with patches, "
        f"{fields['whole']['steps_per_epoch']} with whole images, "
        f"{fields['transfer']['steps_per_epoch']} in a transfer. The L2 penalty is at "
        f"most {presets.LARGEST_L2:g} (the paper: {penalties}).",
        f"Patch classifiers of random values train all layers for {epochs} epochs, at "
        f"a highest rate of {rate:g} with {decay} decay (the paper: {paper_rate:g}, "
        "constant). A tree of the forest splits "
        f"{fields['forest']['forest.min_samples_split']} images or more (the paper: "
        f"{base.FOREST['min_samples_split']}).",
        "The preset's steps and rates were settled on earlier runs of these rows on "
        "phantoms of the same generator, which was not changed for them.",
    ]


def _pretrained(folder: Path, scale: presets.Scale) -> list[str]:
    drawn = scale.phantoms
    steps = phantoms.pretraining_steps(folder, ["resnet50"], scale)
    epochs = sum(epochs for epochs, _ in scale.stages["patch"].values())
    steps_then = epochs * scale.fields["patch"]["steps_per_epoch"]
    lines = [
        '"Pretrained" means: the trunk learned the patch classes on '
        f"{drawn.pretraining_cases} other phantom patients (seed {drawn.seed + 2}) in "
        f"{steps} steps; a patch classifier then has {steps_then}. It is no ImageNet.",
        "All seeds share one pretrained trunk of each kind, the phantoms, their split, "
        "and the patients of each small transfer. What these would vary by is in no "
        "interval over seeds.",
    ]
    for trunk in ("resnet50", "vgg16", "vgg19"):
        file = presets.weights_file(folder, trunk)
        if file.exists():
            lines.append(f"{file.name}: SHA-256 {file_digest(file, 'sha256')}")
    return lines
