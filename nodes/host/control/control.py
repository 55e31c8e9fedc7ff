"""Our control object: any control of the host, shaped by block, time, row and place.

The control inside keeps the host's own ``get_control`` (window, hint, timestep, strength); packs
that copied it broke at its updates. This class holds what is said about it and owns the chain of
controls; during a sampling its `Run` decides what has to be computed, and shapes what comes back.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from comfy import controlnet as host
from comfy import hooks
from torch import Tensor

from ....cnpp_core.checkpoint.shapes import read_config
from ....cnpp_core.control.partial import count_blocks, is_controlnet
from ....cnpp_core.control.shape import ControlShape
from ....cnpp_core.network.config import NetworkConfig
from .call import MARK, Call, area_hooks
from .family import require_model
from .foreign import explained, require_fit
from .lists import LazyLists, Lists, merged
from .run import Run

# What other packs change on a control they hold, for tiles or frames; the inner one follows.
_SETTINGS = (
    "cond_hint_original",
    "strength",
    "timestep_percent_range",
    "vae",
    "extra_concat_orig",
)


class ControlNetPlusPlus(host.ControlBase):
    """A CONTROL_NET around a control of the host. With a neutral shape, its result bit for bit.

    inner: the control itself, ours from now on. shape: immutable, so copies share it.
    """

    def __init__(self, inner: host.ControlBase, shape: ControlShape | None = None) -> None:
        super().__init__()
        self.inner = inner
        self.shape = ControlShape() if shape is None else shape
        # Hints of a union network's conditions; None stands for the one from the Apply node.
        self.union_hints: tuple[Tensor | None, ...] = ()
        # Whether prompts with an area carry this control; None: nobody has looked.
        self.has_areas: bool | None = None
        # A union network all of whose conditions have weight 0.
        self.says_nothing = False
        self._run: Run | None = None
        self._follow_inner()

    @property
    def control_model(self) -> Any:
        """The network; None for a control that has none, or none before its run."""
        return getattr(self.inner, "control_model", None)

    @control_model.setter
    def control_model(self, network: Any) -> None:
        self.inner.control_model = network

    @property
    def config(self) -> NetworkConfig | None:
        """The network's layout; None for anything but a ControlNet with weights of its own."""
        network = self.control_model
        known = getattr(network, "config", None)
        if isinstance(known, NetworkConfig):
            return known
        if isinstance(self.inner, host.ControlLora) or not is_controlnet(network):
            return None
        return read_config(network.state_dict())

    @property
    def blocks(self) -> int | None:
        """How many residuals there are; None where only a run can tell."""
        network = self.control_model
        return count_blocks(network) if is_controlnet(network) else None

    def shaped(self, **changes: Any) -> ControlNetPlusPlus:
        """A copy whose shape differs in the named fields; ValueError if it can't fit."""
        twin = self.copy()
        twin.shape = replace(self.shape, **changes)
        if twin.blocks is not None:
            twin.shape.require_blocks(twin.blocks)
        twin._follow_inner()
        return twin

    def _follow_inner(self) -> None:
        """Show the inner control's settings to whoever looks at them on this one."""
        self.inner.previous_controlnet = None
        self.inner.copy_to(self)
        groups = [] if self.inner.extra_hooks is None else [self.inner.extra_hooks]
        by_place = self.shape.hint.by_area or bool(self.shape.masks.layers)
        if by_place and self.has_areas is not False:
            groups.append(area_hooks())
        self.extra_hooks = hooks.HookGroup.combine_all_hooks(groups) if groups else None

    def _lead_inner(self, inner: host.ControlBase) -> host.ControlBase:
        """Give the inner control what somebody may have set on this one."""
        for name in _SETTINGS:
            setattr(inner, name, getattr(self, name))
        return inner

    # What the host does with a control around a sampling.

    def copy(self) -> ControlNetPlusPlus:
        twin = ControlNetPlusPlus(self._lead_inner(self.inner.copy()), self.shape)
        twin.says_nothing = self.says_nothing
        twin.union_hints = self.union_hints
        twin.has_areas = self.has_areas
        twin._follow_inner()
        return twin

    def deepclone_multigpu(
        self, load_device: torch.device, autoregister: bool = False
    ) -> ControlNetPlusPlus:
        if isinstance(self.inner, host.ControlLora):
            raise ValueError(
                "A control-LoRA borrows the weights of the model on the first GPU, so it can't "
                "work on several. Load a whole ControlNet, or take the multi-GPU node out."
            )
        twin = self.copy()
        twin.inner = self._lead_inner(self.inner.deepclone_multigpu(load_device))
        twin._follow_inner()
        if autoregister:
            self.multigpu_clones[load_device] = twin
        return twin

    def set_cond_hint(self, cond_hint: Tensor, *args: Any, **kwargs: Any) -> ControlNetPlusPlus:
        """The hint (B, C, H, W), and what else the host's control takes; ValueError for NaN."""
        if not torch.isfinite(cond_hint).all():
            raise ValueError(
                "The control image contains NaN or infinite values; look at the node that made it."
            )
        self.inner.set_cond_hint(cond_hint, *args, **kwargs)
        self._follow_inner()
        return self

    def set_extra_arg(self, argument: str, value: Any = None) -> None:
        self.inner.set_extra_arg(argument, value)
        self._follow_inner()

    def get_models(self) -> list[Any]:
        self._run = None  # asked for before a run loads its models: what broke off makes room
        return [*super().get_models(), *self.inner.get_models()]

    def inference_memory_requirements(self, dtype: torch.dtype) -> int:
        ours = self.inner.inference_memory_requirements(dtype)
        return ours + super().inference_memory_requirements(dtype)

    def pre_run(self, model: Any, percent_to_timestep_function: Any) -> None:
        """Before the first step, several times per sampling: refuse what can't fit, start anew."""
        self._run = None
        config = self.config
        if config is not None:
            require_model(config, model)
        else:
            require_fit(self.inner, model)
        super().pre_run(model, percent_to_timestep_function)
        self._lead_inner(self.inner)
        with explained(self.inner, model):
            self.inner.pre_run(model, percent_to_timestep_function)
        # cleanup does not run after an interrupt, so what a run has gathered ends here.
        self._run = Run(self, model, percent_to_timestep_function)

    def cleanup(self) -> None:
        run, self._run = self._run, None
        self.inner.cleanup()
        super().cleanup()
        if run is not None:
            run.finish()

    # What the host asks at each step.

    def get_control(
        self, x_noisy: Tensor, t: Tensor, cond: dict, batched_number: int, transformer_options: dict
    ) -> Lists | None:
        """The residuals for this call in the host's lists, the controls before this one added."""
        if self._run is None:
            raise RuntimeError(
                "A control was asked for residuals before its sampling began. Some node copied it "
                "while a picture was being sampled; take out the one that changes controls there."
            )
        call = Call.read(x_noisy, t, cond, batched_number, transformer_options)
        previous = None
        if self.previous_controlnet is not None:
            previous = self.previous_controlnet.get_control(
                x_noisy, t, cond, batched_number, transformer_options
            )
        cond.pop(MARK, None)  # for controls only: the model knows nothing of it
        try:
            ours = self._run.control(call)
        except BaseException:
            self._run = None  # nothing of a broken run is kept, least of all on the device
            raise
        if ours is None or previous is None:
            return previous if ours is None else ours
        if isinstance(ours, LazyLists):
            inputs = list(previous["input"]) if ours.knows_inputs else None
            return LazyLists(lambda: merged(previous, ours), inputs)
        return merged(previous, ours)


def as_ours(control_net: host.ControlBase) -> ControlNetPlusPlus:
    """A copy of a control of any loader that can be shaped."""
    copy = control_net.copy()
    return copy if isinstance(copy, ControlNetPlusPlus) else ControlNetPlusPlus(copy)
