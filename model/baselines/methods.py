"""All methods by name that need no given model: what each reads, how it predicts, which tasks it is for."""

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import partial

from bjepa.model.baselines.bnt import BNT
from bjepa.model.baselines.braingnn import BRAINGNN
from bjepa.model.baselines.brainlm import brainlm
from bjepa.model.baselines.brainmass import BRAINMASS
from bjepa.model.baselines.brainnetcnn import BRAINNETCNN
from bjepa.model.baselines.connectivity import participant_edges
from bjepa.model.baselines.coskewness import COSKEW_LOGISTIC, COSKEW_RIDGE
from bjepa.model.baselines.jepa_scratch import scratch
from bjepa.model.baselines.kernels import FC_KRR, FC_SVM
from bjepa.model.baselines.linear import fit_linear, fit_ridge
from bjepa.model.baselines.random_encoder import random_encoder
from bjepa.model.baselines.static_mean import static_means
from bjepa.model.baselines.tangent import TANGENT_LOGISTIC, TANGENT_RIDGE
from bjepa.model.evaluation.cohort import Task
from bjepa.model.evaluation.fold import Method
from bjepa.model.evaluation.scan_data import ScanData, participant_features
from bjepa.model.jepa import JEPA
from bjepa.model.readouts.pooling import Pooling
from bjepa.preproc.errors import InputError

# beside the mean: a model is compared with a random encoder that is read out in the same way
OTHER_POOLINGS: tuple[Pooling, ...] = ("network", "region", "region_pairs", "network_pairs", "network_log")

METHODS: dict[str, Method] = {
    "static-mean": Method(
        summary="control: each region's mean over time, unscaled; ridge or logistic regression",
        inputs=participant_features(static_means),
        fit_predict=fit_linear,
        needs_series=True,
        default=True,
    ),
    "fc-ridge": Method(
        summary="functional connectivity (Fisher z, upper triangle), ridge regression",
        inputs=participant_edges,
        fit_predict=fit_ridge,
        default=True,
    ),
    "fc-logistic": Method(
        summary="functional connectivity (Fisher z, upper triangle), logistic regression",
        inputs=participant_edges,
        fit_predict=fit_linear,
        tasks=("classification",),
        default=True,
    ),
    "fc-svm": FC_SVM,
    "fc-krr": FC_KRR,
    "tangent-ridge": TANGENT_RIDGE,
    "tangent-logistic": TANGENT_LOGISTIC,
    "coskew-ridge": COSKEW_RIDGE,
    "coskew-logistic": COSKEW_LOGISTIC,
    "brainnetcnn": BRAINNETCNN,
    "bnt": BNT,
    "braingnn": BRAINGNN,
    "brainlm": brainlm(),
    "brainlm-network_pairs": brainlm("network_pairs"),
    "brainmass": BRAINMASS,
    "scratch": scratch(),
    "random-encoder": random_encoder(),
    **{f"random-encoder-{pooling}": random_encoder(pooling=pooling) for pooling in OTHER_POOLINGS},
}

# the same with the architecture and the gradients of a given model
LIKE_A_MODEL: dict[str, Callable[[JEPA], Method]] = {
    "scratch": scratch,
    "random-encoder": random_encoder,
    **{f"random-encoder-{pooling}": partial(random_encoder, pooling=pooling) for pooling in OTHER_POOLINGS},
}


def default_methods(task: Task, data: ScanData) -> list[str]:
    """Names of the methods that are taken when none are named."""
    return [
        name
        for name, method in METHODS.items()
        if method.default and task in method.tasks and not (method.needs_series and data.reader is None)
    ]


def check_methods(names: Sequence[str], task: Task) -> None:
    """Refuse an unknown method, one given twice, or one that is for the other task (InputError)."""
    for name in names:
        if name not in METHODS:
            near = get_close_matches(name, METHODS, n=1, cutoff=0.4)
            raise InputError(
                f"--methods: {name!r} is no method; there are {', '.join(METHODS)}.",
                hint=f"Did you mean {near[0]!r}?" if near else "",
            )
        if task not in METHODS[name].tasks:
            family = name.split("-")[0]
            instead = [n for n, m in METHODS.items() if task in m.tasks and n.split("-")[0] == family]
            raise InputError(
                f"--methods: {name!r} is for {METHODS[name].tasks[0]}, the task is {task}.",
                hint=f"Use {', '.join(instead)}, or --task {METHODS[name].tasks[0]}.",
            )
    if len(set(names)) < len(names):
        raise InputError(f"--methods names a method twice: {', '.join(names)}.", hint="Name each once.")
