"""Menu group "consistency": of several pictures, those that follow the condition."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ...cnpp_core.consistency.search import grid, parse_presets, parse_strengths, ranking_text
from ...cnpp_core.control.scales import ScalePreset
from ..annotate.inputs import to_image
from ..host.select import picking
from ..host.select.search import Control, Sampling, samplers, search
from ..schema import BlockScalesType, percent_input, schema, show_text
from .inputs import GROUP, annotator_input, finder_for, finder_inputs, mask_input


class PickMostConsistent(io.ComfyNode):
    """Pick Most Consistent: the best rows of a batch, and of its latents where they are given."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_PickMostConsistent",
            "Pick Most Consistent",
            GROUP,
            "Finds the condition again in every picture of a batch and keeps the pictures that "
            "follow it best, the best first.",
            [
                io.Image.Input("images", tooltip="The finished pictures, a batch."),
                io.Image.Input(
                    "condition",
                    tooltip="The control image that went into Apply ControlNet++: one for all "
                    "pictures, or one for each.",
                ),
                *finder_inputs(),
                io.Int.Input(
                    "count",
                    default=1,
                    min=1,
                    max=4096,
                    tooltip="How many pictures to keep. Of fewer, all come out, in order.",
                ),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="The latents of the pictures, if you need those of the chosen ones.",
                ),
                mask_input("Compare only where this is white; all over if not connected."),
                annotator_input(),
            ],
            [
                io.Image.Output("picked", display_name="images", tooltip="The best, in order."),
                io.Latent.Output(
                    "picked_latent",
                    display_name="latent",
                    tooltip="Their latents, in the same order. Only if latent is connected.",
                ),
                io.Float.Output(
                    "score", tooltip="The score of the best picture, as Cycle-Consistency Check."
                ),
                io.Int.Output(
                    "index", tooltip="Where the best picture lies in the batch; the first is 0."
                ),
                io.String.Output(
                    "indices", tooltip="The same for all chosen ones, the best first: '3, 0'."
                ),
                io.String.Output("ranking", tooltip="All pictures with their scores, in order."),
            ],
            aliases=("best of n", "best of batch", "sort images", "rank", "filter"),
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        images,
        condition,
        kind: str,
        tolerance: int,
        count: int,
        latent=None,
        mask=None,
        annotator=None,
    ) -> io.NodeOutput:
        finder = finder_for("Pick Most Consistent", kind, tolerance, annotator)
        picking.require_one_each(latent, len(images))
        result = finder.check(images, condition, mask)
        best = result.ranking[:count]
        picked, text = images[best], ranking_text(result, count, finder.measure)
        return io.NodeOutput(
            picked,
            picking.no_latent() if latent is None else picking.rows_of(latent, best),
            result.per_image[best[0]],
            best[0],
            ", ".join(map(str, best)),
            text,
            ui=ui.PreviewImage(picked, cls=cls).as_dict() | show_text(cls, text),
        )


class ConsistencySearch(io.ComfyNode):
    """Consistency Search: samples inside the node, a trial for every seed, strength and preset."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        known = samplers()
        return schema(
            "CNPP_ConsistencySearch",
            "Consistency Search",
            GROUP,
            "Tries seeds, strengths and block scale presets in one run and keeps the picture that "
            "follows its condition best. It takes the place of Apply ControlNet++, KSampler and "
            "VAE Decode; a table and a sheet show all that was tried.",
            [
                io.Model.Input("model", tooltip="The model, as for KSampler."),
                io.Conditioning.Input(
                    "positive", tooltip="Prompt that says what you want, without this control."
                ),
                io.Conditioning.Input("negative", tooltip="Prompt that says what you don't want."),
                io.ControlNet.Input(
                    "control_net", tooltip="The ControlNet, as for Apply ControlNet++."
                ),
                io.Image.Input(
                    "condition",
                    tooltip="One control image (edges, depth, pose ...): it controls every trial, "
                    "and every picture is compared with it.",
                ),
                io.Latent.Input(
                    "latent_image",
                    tooltip="One latent, not a batch: empty for a new picture, or a picture to "
                    "change with denoise below 1.",
                ),
                io.Vae.Input("vae", tooltip="The model's VAE, which decodes every picture."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="The first seed; the others follow it.",
                ),
                io.Int.Input(
                    "seeds",
                    default=4,
                    min=1,
                    max=256,
                    tooltip="How many seeds to try. Trials are seeds x strengths x presets, and "
                    "each takes as long as a KSampler run.",
                ),
                io.Int.Input("steps", default=20, min=1, max=10000, tooltip="Steps of each trial."),
                io.Float.Input(
                    "cfg",
                    default=8.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="How closely the prompt is followed, as in KSampler.",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=known["sampler_name"],
                    tooltip="The sampler, as in KSampler.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=known["scheduler"],
                    tooltip="The noise levels of the steps, as in KSampler.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How much of latent_image is replaced, as in KSampler.",
                ),
                io.String.Input(
                    "strengths",
                    default="0.8, 1.0",
                    tooltip="Strengths of the control to try, with commas between.",
                ),
                io.String.Input(
                    "presets",
                    default="",
                    tooltip="Block scale presets to try, with commas between: uniform, guess mode, "
                    "mid only, structure, detail. Empty: leave the blocks alone.",
                ),
                percent_input(
                    "start_percent",
                    0.0,
                    "Part of the sampling after which the control begins (0 = at once).",
                ),
                percent_input(
                    "end_percent",
                    1.0,
                    "Part of the sampling after which the control ends (1 = never).",
                ),
                *finder_inputs(),
                io.Int.Input(
                    "max_trials",
                    default=24,
                    min=1,
                    max=256,
                    tooltip="More trials than this are refused, so that no slip of the pen keeps "
                    "the machine busy for hours.",
                ),
                BlockScalesType.Input(
                    "scales",
                    optional=True,
                    tooltip="Block scales or a schedule for all trials, as for Apply ControlNet++; "
                    "presets multiply them.",
                ),
                mask_input("Compare only where this is white; control acts everywhere."),
                annotator_input(),
            ],
            [
                io.Image.Output("image", tooltip="The best picture."),
                io.Latent.Output("latent", tooltip="Its latent, for a second pass."),
                io.Float.Output("score", tooltip="Its score, as Cycle-Consistency Check gives it."),
                io.Int.Output(
                    "best_seed",
                    display_name="seed",
                    tooltip="Its seed: KSampler makes the same picture with it.",
                ),
                io.Float.Output(
                    "strength",
                    tooltip="Its strength: Apply ControlNet++ makes the same picture with it.",
                ),
                io.String.Output("table", tooltip="All trials with their scores, the best first."),
                io.Image.Output("sheet", tooltip="All pictures, small, in the order of the table."),
                BlockScalesType.Output(
                    "best_scales",
                    display_name="scales",
                    tooltip="Its block scales, for Apply ControlNet++.",
                ),
            ],
            aliases=("best of n", "seed search", "xy plot", "grid search", "strength sweep"),
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model,
        positive,
        negative,
        control_net,
        condition,
        latent_image,
        vae,
        seed: int,
        seeds: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        denoise: float,
        strengths: str,
        presets: str,
        start_percent: float,
        end_percent: float,
        kind: str,
        tolerance: int,
        max_trials: int,
        scales=None,
        mask=None,
        annotator=None,
    ) -> io.NodeOutput:
        finder = finder_for("Consistency Search", kind, tolerance, annotator)
        trials = grid(seed, seeds, parse_strengths(strengths), parse_presets(presets), max_trials)
        window = (start_percent, end_percent)
        found = search(
            model,
            Control(positive, negative, control_net, condition, window, scales),
            latent_image,
            vae,
            trials,
            Sampling(steps, cfg, sampler_name, scheduler, denoise),
            finder,
            mask,
            tell=lambda text: show_text(cls, text),
        )
        sheet = to_image(found.sheet)
        shown = [ui.PreviewImage(picture, cls=cls).as_dict() for picture in (found.image, sheet)]
        return io.NodeOutput(
            found.image,
            found.latent,
            found.score,
            found.trial.seed,
            found.trial.strength,
            found.table,
            sheet,
            found.scales or ScalePreset("uniform"),
            ui=shown[0]
            | {"images": [*shown[0]["images"], *shown[1]["images"]]}
            | show_text(cls, found.table),
        )


NODES = [PickMostConsistent, ConsistencySearch]
