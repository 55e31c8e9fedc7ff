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

from ....cnpp_core.control.partial import count_blocks, is_controlnet
from ....cnpp_core.control.shape import ControlShape
from ....cnpp_core.network.config import NetworkConfig
from .call import MARK, Call, area_hooks
from .family import config_of, require_model
from .features import fit_to_features
from .finite import NAN_HINT
from .foreign import explained, require_fit
from .hints import given_hint, side_by_side
from .lists import LazyLists, Lists, merged
from .run import Run, Setup
from .windows import frames_of


class ControlNetPlusPlus(host.ControlBase):
    """A CONTROL_NET around a control of the host. With a neutral shape, its result bit for bit.

    The settings of a control are those of ``inner``: whoever reads, sets or deletes one here does
    it there, so there is nothing to keep alike. The chain and the clones are this control's own.
    Asked for its class, it answers with that of ``inner``, so that packs which sort controls by
    class treat it as what it is.

    inner: the control itself, ours from now on. shape: immutable, so copies share it. union_hints:
    of a union network's conditions, None for the one that Apply ControlNet++ gets. has_areas:
    whether prompts with an area carry this control; None if nobody has looked. whole: the hint as
    it was applied; another one in its place is that of a part.
    """

    # Frames of the window at hand, set by AnimateDiff-Evolved, which looks whether there is such
    # an attribute before it samples in windows.
    sub_idxs: list[int] | None

    def __init__(
        self,
        inner: host.ControlBase,
        shape: ControlShape | None = None,
        union_hints: tuple[Tensor | None, ...] = (),
        has_areas: bool | None = None,
        whole: Tensor | None = None,
    ) -> None:
        # Not through the host's constructor: the settings that it makes are the inner control's.
        self.__dict__.update(
            inner=inner,
            _settings=frozenset(vars(inner)),
            shape=ControlShape() if shape is None else shape,
            union_hints=union_hints,
            has_areas=has_areas,
            whole=whole,
            sub_idxs=None,
            previous_controlnet=None,
            multigpu_clones={},
            _area_hooks=None,
            _run=None,
        )
        inner.previous_controlnet = None
        by_place = self.shape.hint.by_area or bool(self.shape.masks.layers)
        if by_place and has_areas is not False:
            self._area_hooks = area_hooks()

    # What others read and set.

    @property
    def __class__(self) -> type:  # type: ignore[override]
        return type(self.inner)

    def __getattr__(self, name: str) -> Any:
        if name == "inner" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if self._is_setting(name):
            setattr(self.inner, name, value)
        else:
            object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        if self._is_setting(name):
            delattr(self.inner, name)
        else:
            object.__delattr__(self, name)

    def _is_setting(self, name: str) -> bool:
        # One that has been deleted stays the inner control's.
        return name not in vars(self) and (name in self._settings or name in vars(self.inner))

    @property
    def control_model(self) -> Any:
        """The network; None for a control that has none, or none before its run."""
        return getattr(self.inner, "control_model", None)

    @control_model.setter
    def control_model(self, network: Any) -> None:
        self.inner.control_model = network  # type: ignore[attr-defined]

    @property
    def extra_hooks(self) -> hooks.HookGroup | None:  # type: ignore[override]
        """The inner control's hooks, and those that tell areas where the shape asks for them."""
        return hooks.HookGroup.combine_all_hooks([self.inner.extra_hooks, self._area_hooks])

    @property
    def config(self) -> NetworkConfig | None:
        """The network's layout; None for anything but a ControlNet with weights of its own."""
        return config_of(self.inner)

    @property
    def blocks(self) -> int | None:
        """How many residuals there are; None where only a run can tell."""
        network = self.control_model
        return count_blocks(network) if is_controlnet(network) else None

    # Changed copies.

    def copy(self) -> ControlNetPlusPlus:
        return self._around(self.inner.copy())

    def shaped(self, **changes: Any) -> ControlNetPlusPlus:
        """A copy whose shape differs in the named fields; ValueError if it can't fit."""
        twin = self._around(self.inner.copy(), shape=replace(self.shape, **changes))
        if twin.blocks is not None:
            twin.shape.require_blocks(twin.blocks)
        return twin

    def with_union_hints(self, hints: tuple[Tensor | None, ...]) -> ControlNetPlusPlus:
        """A copy whose union network reads these hints (B, C, H, W), one per condition."""
        return self._around(self.inner.copy(), union_hints=hints)

    def for_prompts(self, *, with_areas: bool) -> ControlNetPlusPlus:
        """A copy for prompts of which some have an area, or none has."""
        return self._around(self.inner.copy(), has_areas=with_areas)

    def deepclone_multigpu(
        self, load_device: torch.device, autoregister: bool = False
    ) -> ControlNetPlusPlus:
        if isinstance(self.inner, host.ControlLora):
            raise ValueError(
                "A control-LoRA borrows the weights of the model on the first GPU, so it can't "
                "work on several. Load a whole ControlNet, or take the multi-GPU node out."
            )
        twin = self._around(self.inner.deepclone_multigpu(load_device))
        if autoregister:
            self.multigpu_clones[load_device] = twin
        return twin

    @property
    def _hints_apart(self) -> tuple[Tensor | None, ...]:
        """The union hints, where they are of unequal size and so don't lie in one tensor."""
        given = [hint for hint in (*self.union_hints, self.whole) if hint is not None]
        return self.union_hints if len({hint.shape[-2:] for hint in given}) > 1 else ()

    def _around(self, inner: host.ControlBase, **changes: Any) -> ControlNetPlusPlus:
        kept = ("shape", "union_hints", "has_areas", "whole")
        said = {name: getattr(self, name) for name in kept}
        return ControlNetPlusPlus(inner, **said | changes)

    # What the host does with a control around a sampling.

    def set_cond_hint(self, cond_hint: Tensor, *args: Any, **kwargs: Any) -> ControlNetPlusPlus:
        """The hint (B, C, H, W), and what else the host's control takes; ValueError for NaN."""
        if not torch.isfinite(cond_hint).all():
            raise ValueError(NAN_HINT)
        own = [cond_hint if hint is None else hint for hint in self.union_hints]
        if len({hint.shape[-2:] for hint in own}) == 1:
            # In one tensor, so that whoever cuts the hint cuts those of all conditions alike.
            cond_hint = side_by_side(own)
        self.inner.set_cond_hint(cond_hint, *args, **kwargs)
        self.whole = self.inner.cond_hint_original
        return self

    def set_extra_arg(self, argument: str, value: Any = None) -> None:
        self.inner.set_extra_arg(argument, value)

    def disarm(self) -> None:
        """Called by Apply Advanced ControlNet on controls that take its masks and key frames."""
        raise ValueError(
            "Apply Advanced ControlNet can't act on a control that nodes of ControlNet++ have "
            "shaped. Use Apply ControlNet++ for it, or bypass the nodes that shape it: from Load "
            "ControlNet++ alone comes a control that takes Advanced-ControlNet's settings."
        )

    def get_models(self) -> list[Any]:
        if self._run is not None:  # asked for before a run loads its models: one broke off
            self._run.forget()
            self._run = None
        return [*super().get_models(), *self.inner.get_models()]

    def inference_memory_requirements(self, dtype: torch.dtype) -> int:
        ours = self.inner.inference_memory_requirements(dtype)
        return ours + super().inference_memory_requirements(dtype)

    def pre_run(self, model: Any, percent_to_timestep_function: Any) -> None:
        """Before the first step, several times per sampling: refuse what can't fit, start anew."""
        self._run = self.sub_idxs = None
        config = self.config
        if config is not None:
            require_model(config, model)
        else:
            require_fit(self.inner, model)
        super().pre_run(model, percent_to_timestep_function)
        with explained(self.inner, model):
            self.inner.pre_run(model, percent_to_timestep_function)
        # cleanup does not run after an interrupt, so what a run has gathered ends here.
        setup = Setup(self.inner, self.shape, self._hints_apart, self.whole)
        self._run = Run(setup, model, percent_to_timestep_function)

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
        call = Call.read(
            x_noisy,
            t,
            cond,
            batched_number,
            transformer_options,
            frames_of(transformer_options, self),
            given_hint(self.inner, x_noisy),
        )
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
        if ours is not None and self._run.can_see_features(transformer_options):
            fit_to_features(transformer_options)
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
