"""Networks fine-tuned for an explanation, one a split, by the training loop of `bjepa-evaluate finetune`."""

import copy
import logging
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from bjepa.model.evaluation.cohort import Cohort
from bjepa.model.evaluation.recordings import recordings_of
from bjepa.model.evaluation.scan_data import ScanData
from bjepa.model.evaluation.splits import Splits
from bjepa.model.explain.heads import Heads, combination, scored
from bjepa.model.explain.output_network import OutputNetwork, TunedOutput
from bjepa.model.jepa import JEPA
from bjepa.model.readouts.finetuning import FINETUNE, EncoderWithHead
from bjepa.model.readouts.fit_network import fit_network, predict_network
from bjepa.model.readouts.layer_decay import layer_groups
from bjepa.model.readouts.model_scaling import ReadSeries
from bjepa.model.readouts.pooling import Pooling
from bjepa.model.readouts.windows import window_samples

LAYER_DECAY = 0.75
log = logging.getLogger(__name__)


def tuned_heads(
    model: JEPA,
    data: ScanData,
    read: ReadSeries,
    cohort: Cohort,
    splits: Splits,
    *,
    class_number: int,
    pooling: Pooling = "mean",
    network_R: NDArray[np.int64] | None = None,
    max_epochs: int | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> Heads:
    """Fine-tune a copy of the target encoder for each split; `model` stays as it is.

    Series are read as everywhere in an explanation: scaled as the model's training data were.
    """
    recordings = recordings_of(data, cohort.participant_id)
    n_outputs = len(cohort.classes) or 1
    outputs: list[OutputNetwork] = []
    predictions, epochs = [], []
    for split in splits:
        fitted_on, stopped_by, tested = (
            window_samples(recordings[rows], read, n_frames=model.config.n_frames, target=cohort.target[rows])
            for rows in (split.train, split.val, split.test)
        )
        of_split = int(np.random.SeedSequence([seed, split.number]).generate_state(1)[0])
        encoder = copy.deepcopy(model.target_encoder).cpu()
        learns = dict(model.context_encoder.named_parameters())
        for name, parameter in encoder.named_parameters():
            parameter.requires_grad_(learns[name].requires_grad)
        network = EncoderWithHead(
            encoder,
            pooling=pooling,
            n_outputs=n_outputs,
            network_R=network_R,
            generator=torch.Generator().manual_seed(of_split),
        )
        fitted = fit_network(
            network,
            fitted_on,
            stopped_by,
            task=cohort.task,
            settings=FINETUNE,
            seed=of_split,
            device=device,
            max_epochs=max_epochs,
            parameter_groups=partial(layer_groups, depth=model.config.depth, decay=LAYER_DECAY),
        )
        predictions.append(predict_network(fitted, tested, task=cohort.task, device=device))
        epochs.append(fitted.best_epoch)
        log.info(
            "fine-tuned for split %d of %d, best epoch %d", split.number + 1, splits.n_splits, epochs[-1]
        )
        network.requires_grad_(False)
        outputs.append(
            TunedOutput(
                network,
                combination(n_outputs, class_number),
                scale=fitted.target_std,
                shift=fitted.target_mean,
            )
            .to(device)
            .eval()
        )
    return scored(outputs, predictions, cohort, splits, {"head": "finetune", "best_epoch": epochs})
