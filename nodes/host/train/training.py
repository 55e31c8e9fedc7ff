"""One training inside the host: clones, memory, checkpoints, and what the node gives out.

A node runs in inference mode, and its models are the host's: nothing here writes on them.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from comfy import model_management
from torch import Tensor

from ....cnpp_core.checkpoint.trained import VERSION, Training
from ....cnpp_core.condition import Condition
from ....cnpp_core.training.batch import Draw, TrainingBatch
from ....cnpp_core.training.checkpoints import Checkpoints
from ....cnpp_core.training.data.cache import fingerprint
from ....cnpp_core.training.denoiser import Denoiser
from ....cnpp_core.training.processes import OneProcess
from ....cnpp_core.training.session import Session, Trained
from ....cnpp_core.training.trainer import Objective
from ....cnpp_core.training.validation import Validation, check_by
from ....pictures.training_plot import plot
from ..control.family import describe
from ..load.loading import build_control
from ..memory import is_out_of_memory, out_of_memory
from ..steering.x0 import X0Decoder
from .data import TrainingData
from .goals import Goal
from .networks import base_name, denoiser_of, pooled_with_sizes, require_float32
from .options import START_OVER, WHATEVER, Options, remove
from .showing import Showing, Tell

log = logging.getLogger(__name__)

DECODER = "diffusion_model."


@dataclass(frozen=True, eq=False)
class Result:
    """What a training node gives out; pictures are IMAGE (1, H, W, 3). score: NaN if none."""

    control: Any
    model: Any
    sheet: Tensor
    plot: Tensor
    losses: list[float]
    score: float
    plan: str
    report: str


@dataclass(eq=False)
class NodeTraining:
    """One run of a training node: `run` is called once."""

    node: str
    model: Any
    control: Any
    data: TrainingData
    options: Options
    goal: Goal
    tell: Tell
    device: torch.device = field(default_factory=model_management.get_torch_device)

    def run(self) -> Result:
        """Train; whatever can't be trained is refused before the first step.

        Raises ValueError, RuntimeError if the training goes wrong, OSError if a checkpoint can't be
        written, and the host's interrupt, after which the next run goes on.
        """
        require_float32(self.control)
        checkpoints = self.options.checkpoints()
        try:
            with torch.inference_mode(False), self.goal.frozen(), self._memory():
                return self._trained(checkpoints)
        finally:
            gc.collect()  # networks and what trains them hold each other
            model_management.soft_empty_cache()

    def _trained(self, checkpoints: Checkpoints) -> Result:
        options, device = self.options, self.device
        model_management.unload_all_models()
        dtype = options.unet_dtype(device)
        denoiser = denoiser_of(self.model, self.control, device, dtype)
        sizes = pooled_with_sizes(self.model)
        draw = self._draw(sizes)
        self._require_fit(denoiser, draw(torch.Generator().manual_seed(options.seed)))
        session = Session(
            denoiser,
            options.settings(device),
            modes=options.modes,
            recompute=options.gradient_checkpointing,
            processes=OneProcess(device),
            checkpoints=checkpoints,
            about=self._about(denoiser),
        )
        batches = self.data.rows.held_out(sizes, device) if self.data.vae is not None else []
        finder = self.data.finder
        showing = Showing(
            self.node,
            session,
            options.steps,
            self.tell,
            batches,
            finder.measure if finder else None,
        )
        self._load()
        with _interruptible(denoiser, showing):
            objective, for_plan = self.goal.make(denoiser, draw, lambda: session.averaged)
            plan = self._plan(session, for_plan)
            self._begin(session, checkpoints)
            self._run(session, objective, self._validation(denoiser, batches, showing), showing)
        if not options.keep_checkpoints:
            remove(checkpoints)
        return self._result(session, showing, plan)

    def _draw(self, sizes: bool) -> Draw:
        draw = self.data.rows.draw(self.options.batch_size, sizes, self.device)
        into = self.model.model.process_latent_in

        def drawn(generator: torch.Generator) -> TrainingBatch:
            batch = draw(generator)
            return replace(batch, x0=into(batch.x0))

        return drawn

    def _require_fit(self, denoiser: Denoiser, batch: TrainingBatch) -> None:
        """ValueError where data, model and ControlNet are not made for each other."""
        assert denoiser.controlnet is not None
        config = denoiser.controlnet.config
        hint, context, y = batch.hint, batch.context, batch.y
        if hint is not None and hint.shape[1] != config.hint_channels:
            raise ValueError(
                f"{self.node}: the conditions have {hint.shape[1]} channels, control_net reads "
                f"{config.hint_channels}. Set hint_channels of Initialise ControlNet to "
                f"{hint.shape[1]}, or give other conditions."
            )
        told = "Connect the CLIP of the model to ControlNet Training Data."
        if context.shape[-1] != config.context_dim:
            raise ValueError(
                f"{self.node}: the prompts of the data are {context.shape[-1]} wide, control_net "
                f"is {describe(config)}. {told}"
            )
        adm = config.adm_in_channels
        if adm is not None and (y is None or y.shape[-1] != adm):
            found = "none" if y is None else f"{y.shape[-1]} wide"
            raise ValueError(
                f"{self.node}: the model reads pooled prompts and sizes, {adm} wide, those of the "
                f"data are {found}. {told}"
            )

    def _about(self, denoiser: Denoiser) -> dict[str, Any]:
        assert denoiser.controlnet is not None
        return {
            **self.options.as_json(),
            **self.goal.about,
            "data": self.data.stamp,
            "model": fingerprint(denoiser.unet),
            "control_net": fingerprint(denoiser.controlnet),
        }

    def _load(self) -> None:
        """Bring to the device what is used beside the networks that train."""
        vae = [self.data.vae.patcher] if self.data.vae is not None else []
        used = list(dict.fromkeys([*self.goal.patchers, *vae]))
        if used:
            model_management.load_models_gpu(used)

    def _plan(self, session: Session, objective: Objective) -> str:
        others = [patcher.model for patcher in self.goal.patchers]
        plan = session.plan(
            objective, self.options.batch_size, pictures=len(self.data.rows), others=others
        )
        copy = sum(p.nbytes for p in session.denoiser.unet.parameters())
        lines = [
            plan.text(),
            f"the model's UNet is a copy for the training, {copy / 1e6:,.0f} MB of that; the MODEL "
            "stays as it is",
        ]
        if plan.folder is not None and plan.disk > plan.free_disk:
            raise OSError(
                f"{self.node}: checkpoints in {plan.folder} take up to {plan.disk / 1e6:,.0f} MB, "
                f"and {plan.free_disk / 1e6:,.0f} MB are free. Make room before you train."
            )
        text = "\n".join(lines)
        self.tell(f"{self.node}: the plan\n{text}")
        return text

    def _begin(self, session: Session, checkpoints: Checkpoints) -> None:
        """Go on from the last checkpoint, or begin, as the widget says."""
        if self.options.unfinished == START_OVER:
            remove(checkpoints)
        try:
            session.resume(accept_changes=self.options.unfinished == WHATEVER)
        except ValueError as error:
            raise ValueError(
                f"{self.node}: {error} Here that is: set unfinished to '{WHATEVER}' or to "
                f"'{START_OVER}', or choose another name."
            ) from error

    def _validation(
        self, denoiser: Denoiser, batches: list[TrainingBatch], showing: Showing
    ) -> Validation | None:
        if not batches:
            return None
        decoder, base = X0Decoder(self.data.vae, self.node), self.model.model
        decoder.require_latents_of(self.model)
        finder = self.data.finder
        return Validation(
            denoiser,
            batches,
            decode=lambda x0: decoder.pictures(x0, base).to(x0.device) * 2 - 1,
            check=check_by(finder.annotator, finder.measure) if finder else None,
            steps=self.options.sampling_steps,
            cfg=self.options.cfg,
            seed=self.options.seed,
            latent_scale=1.0,  # the decoder knows the model's
            on_pictures=showing.on_pictures,
        )

    def _run(
        self,
        session: Session,
        objective: Objective,
        validate: Validation | None,
        showing: Showing,
    ) -> None:
        try:
            session.run(objective, showing.on_step, validate, self.options.validate_every)
        except model_management.InterruptProcessingException:
            trainer = session.trainer
            place = trainer.checkpoints
            assert place is not None
            words = [f"{self.node} stopped at step {trainer.step:,} of {self.options.steps:,}"]
            if place.steps():
                words.append(f"kept in {place.path(place.steps()[-1])}")
                words.append("queue it again as it is to go on from there")
            self.tell("\n".join([*words, *showing.score_lines()]))
            log.info(". ".join(words))
            raise

    def _result(self, session: Session, showing: Showing, plan: str) -> Result:
        trained = session.trained()
        config = trained.controlnet.config
        training = self._training(trained)
        known = [kind for kind in Condition if kind.key == self.data.condition]
        control = build_control(
            config,
            trained.controlnet.state_dict(),
            dtype=torch.float32,
            kinds=known,
            trained=training,
        )
        losses = [loss for _, loss in sorted(trained.losses.items())]
        scores = trained.scores
        last = f", loss {losses[-1]:.4g}" if losses else ""  # there are none of a lost CSV file
        report = [f"{self.node}: {trained.steps:,} steps{last}"]
        report += [*showing.score_lines(), *training.text().splitlines()]
        if self.options.keep_checkpoints:
            report.append(f"checkpoints stay in {self.options.checkpoints().folder}")
        drawn = plot(trained.losses, scores, self.options.steps, showing.measure)
        return Result(
            control=control,
            model=self._model_with(trained),
            sheet=showing.sheet(),
            plot=drawn.movedim(1, -1),
            losses=losses,
            score=scores[max(scores)] if scores else float("nan"),
            plan=plan,
            report="\n".join(report),
        )

    def _training(self, trained: Trained) -> Training:
        settings = {k: v for k, v in trained.settings.items() if k not in ("about", "processes")}
        about = trained.settings["about"]
        hidden = ("data", "model", "control_net")  # digits that say nothing to people
        settings |= {name: value for name, value in about.items() if name not in hidden}
        return Training(
            base_name(self.model), self.data.condition, trained.steps, VERSION, settings
        )

    def _model_with(self, trained: Trained) -> Any:
        """The MODEL, with the decoder that was trained along where one was."""
        if trained.unet is None:
            return self.model
        own = {
            DECODER + name: ("set", (weight.detach().cpu(),))
            for name, weight in trained.unet.state_dict().items()
            if name.startswith(("output_blocks.", "out."))
        }
        changed = self.model.clone()
        changed.add_patches(own)
        return changed

    @contextmanager
    def _memory(self) -> Iterator[None]:
        """Words for running out of memory."""
        try:
            yield
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise out_of_memory(
                f"{self.node}: out of memory with batches of {self.options.batch_size}. What "
                "helps, in this order: gradient_checkpointing, a smaller batch_size with more "
                "accumulate, optimizer adamw8bit, a smaller resolution of the data. Checkpoints "
                f"that were written stay. ({error})"
            ) from error


@contextmanager
def _interruptible(denoiser: Denoiser, showing: Showing) -> Iterator[None]:
    """Inside, Cancel is heard in the middle of a step, too: at every look of the UNet."""
    handle = denoiser.unet.middle_block.register_forward_pre_hook(
        lambda *_: showing.stop_if_interrupted()
    )
    try:
        yield
    finally:
        handle.remove()
