"""The running ComfyUI with our pack in its registry, and tiny random models that it can sample.

ComfyUI can be imported only after the fixture `comfy_root`, hence the imports inside functions.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import uuid
from collections.abc import Callable, Hashable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

# Layouts in the host's own words, small enough for a CPU.
TINY = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 64,
    "channel_mult": [1, 2],
    "num_res_blocks": [1, 1],
    "transformer_depth": [1, 1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1],
    "context_dim": 64,
    "num_head_channels": -1,
    "num_heads": 8,
    "adm_in_channels": None,
    "num_classes": None,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "use_temporal_attention": False,
    "use_temporal_resblock": False,
    "use_checkpoint": False,
    "legacy": False,
}
# SDXL's topology: three levels, no attention in the first, two depths, linear projections, y.
TINY_XL = TINY | {
    "channel_mult": [1, 2, 4],
    "num_res_blocks": [2, 2, 2],
    "transformer_depth": [0, 0, 1, 1, 2, 2],
    "transformer_depth_middle": 2,
    "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2],
    "use_linear_in_transformer": True,
    "num_head_channels": 64,
    "num_heads": -1,
    "num_classes": "sequential",
    "adm_in_channels": 64 + 6 * 256,  # pooled text of width 64, and six sizes
}
# All four levels of SD1.5 at a fifth of its width.
TINY_SD15 = TINY | {
    "channel_mult": [1, 2, 4, 4],
    "num_res_blocks": [2, 2, 2, 2],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
}


class Host:
    """One ComfyUI in this process. `folder` holds its models, pictures and outputs."""

    def __init__(self, root: Path, pack: Path, folder: Path) -> None:
        import folder_paths

        import nodes  # the host's own

        self.root, self.folder = root, folder
        for kind in ("input", "output", "temp"):
            (folder / kind).mkdir()
            getattr(folder_paths, f"set_{kind}_directory")(str(folder / kind))
        self.controlnets = folder / "controlnet"
        self.controlnets.mkdir()
        folder_paths.add_model_folder_path("controlnet", str(self.controlnets))
        _teach_tiny_layouts()
        assert asyncio.run(nodes.load_custom_node(str(pack))), "ComfyUI did not load the pack"
        union = root / "comfy_extras" / "nodes_controlnet.py"
        asyncio.run(nodes.load_custom_node(str(union), module_parent="comfy_extras"))
        self.registry = nodes.NODE_CLASS_MAPPINGS
        self._package = self.registry["CNPP_Apply"].__module__.rpartition(".nodes")[0]
        self._executor = None
        self._made: dict[Hashable, Any] = {}

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What `make` gave when this key was first asked for."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def forget(self) -> None:
        """Let go of everything made, while the host can still clean up after it."""
        self._made.clear()
        self._executor = None

    def pack(self, module: str) -> ModuleType:
        """A module of the pack as the host imported it (not the tests' alias of it)."""
        return importlib.import_module(f"{self._package}.{module}")

    def call(self, node: str, **inputs: Any) -> tuple:
        """What a node of the registry returns for these inputs."""
        cls = self.registry[node]
        with torch.inference_mode():
            if hasattr(cls, "define_schema"):
                return cls.execute(**inputs).result
            return getattr(cls(), cls.FUNCTION)(**inputs)

    def annotator(self, condition: str, find: Any, patchers: tuple = (), **ways: Any) -> Any:
        """An ANNOTATOR that finds the condition with a function of the test's."""
        node_annotator = self.pack("nodes.host.annotate.annotator").NodeAnnotator
        found = self.pack("annotators.kinds").Ways(find, **ways)
        return node_annotator(condition, found, patchers)

    def sample(
        self,
        model: Any,
        positive: list,
        negative: list,
        *,
        latent: Tensor | None = None,
        seed: int = 7,
        steps: int = 3,
        cfg: float = 3.0,
        sampler: str = "euler",
        scheduler: str = "normal",
    ) -> Tensor:
        """The latent that KSampler gives; a batch of one 16x16 by default."""
        latent = torch.zeros(1, 4, 16, 16) if latent is None else latent
        (out,) = self.call(
            "KSampler",
            model=model,
            seed=seed,
            steps=steps,
            cfg=cfg,
            sampler_name=sampler,
            scheduler=scheduler,
            positive=positive,
            negative=negative,
            latent_image={"samples": latent},
            denoise=1.0,
        )
        return out["samples"]

    def run(self, prompt: dict[str, dict], keep_cache: bool = False) -> dict[str, dict]:
        """Validate and execute an API-format graph; the `ui` outputs by node id.

        keep_cache: as in a queue, nodes whose inputs are those of the last run don't run again.
        """
        import execution
        from server import PromptServer

        if self._executor is None:
            server = PromptServer(asyncio.new_event_loop())
            server.send_sync = lambda *_, **__: None
            known = inspect.signature(execution.PromptExecutor).parameters
            cache = (
                {"cache_args": {"lru": 0, "ram": 0.0, "ram_inactive": 0.0}}
                if "cache_args" in known
                else {"cache_size": 0}
            )
            self._executor = execution.PromptExecutor(server, **cache)
        if not keep_cache:
            self._executor.reset()
        name = str(uuid.uuid4())
        valid, error, outputs, node_errors = asyncio.run(
            execution.validate_prompt(name, prompt, None)
        )
        if not valid:
            raise RuntimeError(f"{error} {node_errors}")
        self._executor.execute(prompt, name, extra_data={}, execute_outputs=outputs)
        messages = dict(self._executor.status_messages)
        if not self._executor.success:
            raise RuntimeError(messages.get("execution_error", messages))
        return self._executor.history_result["outputs"]

    def model(self, layout: dict[str, Any]) -> Any:
        """A MODEL with random weights in this layout, always the same one."""
        return self.once(("model", json.dumps(layout)), lambda: self._random_model(layout))

    def _random_model(self, layout: dict[str, Any]) -> Any:
        from comfy import model_base, model_management, model_patcher, supported_models

        family = supported_models.SDXL if layout["adm_in_channels"] else supported_models.SD15
        config = type("Random", (family,), {"unet_extra_config": {}})(layout)
        config.set_inference_dtype(torch.float32, None)
        kind = model_base.SDXL if layout["adm_in_channels"] else model_base.BaseModel
        base = kind(config, model_type=model_base.ModelType.EPS, device="cpu")
        randomise(base.diffusion_model, seed=0)
        return model_patcher.ModelPatcher(
            base,
            load_device=model_management.get_torch_device(),
            offload_device=model_management.unet_offload_device(),
        )

    def network(self, layout: dict[str, Any], seed: int = 1, **options: Any) -> Any:
        """The host's own ControlNet module with random weights, zero convolutions included."""
        import comfy.cldm.cldm
        import comfy.ops

        layout = {key: value for key, value in layout.items() if key != "out_channels"}
        layout["transformer_depth"] = list(layout["transformer_depth"])
        network = comfy.cldm.cldm.ControlNet(
            **layout,
            hint_channels=3,
            dtype=torch.float32,
            operations=comfy.ops.disable_weight_init,
            **options,
        )
        return randomise(network, seed)

    def pair(self, layout: dict[str, Any], seed: int = 1) -> tuple[Any, Any]:
        """The same random weights as our loader and as the host's own loader read them."""
        levels = "".join(map(str, layout["channel_mult"]))
        path = self.file(
            layout, f"tiny_{levels}_{layout['adm_in_channels']}_{seed}.safetensors", seed
        )

        def load() -> tuple[Any, Any]:
            ours, _ = self.call("CNPP_LoadControlNet", control_net_name=path.name, dtype="auto")
            (theirs,) = self.call("ControlNetLoader", control_net_name=path.name)
            return ours, theirs

        return self.once(path, load)

    def file(self, layout: dict[str, Any], name: str, seed: int = 1, prefix: str = "") -> Path:
        """A ControlNet file with random weights in the original layout."""
        path = self.controlnets / name
        if not path.exists():
            weights = self.network(layout, seed).state_dict()
            save_file({prefix + key: value for key, value in weights.items()}, path)
        return path


def _teach_tiny_layouts() -> None:
    """Let the host's own loaders take TINY for an SD1.5 (8 heads) and TINY_XL for an SDXL."""
    from comfy import supported_models

    for family, layout in ((supported_models.SD15, TINY), (supported_models.SDXL, TINY_XL)):
        shape = {key: layout[key] for key in ("context_dim", "model_channels", "adm_in_channels")}
        supported_models.models.append(type("Tiny", (family,), {"unet_config": shape}))


def randomise(module: torch.nn.Module, seed: int) -> Any:
    """Fill every parameter from a seed: sound in size, and none zero, so that none is idle."""
    generator = torch.Generator().manual_seed(seed)
    pool = torch.randn(1 << 20, generator=generator)
    with torch.no_grad():
        for index, (name, parameter) in enumerate(module.named_parameters()):
            count = parameter.numel()
            rolled = pool.roll(7919 * index)
            values = rolled.repeat(-(-count // len(rolled)))[:count].view(parameter.shape)
            if parameter.ndim > 1:
                values = values / parameter[0].numel() ** 0.5
            elif name.endswith("weight"):
                values = 1 + 0.1 * values
            else:
                values = 0.1 * values
            parameter.copy_(values)
    return module.eval().requires_grad_(False)


def prompt(layout: dict[str, Any], seed: int, tokens: int = 8) -> list:
    """CONDITIONING of random numbers for a layout."""
    generator = torch.Generator().manual_seed(seed)
    context = torch.randn(1, tokens, layout["context_dim"], generator=generator)
    options = {}
    if layout["adm_in_channels"]:
        pooled = layout["adm_in_channels"] - 6 * 256
        options["pooled_output"] = torch.randn(1, pooled, generator=generator)
    return [[context, options]]


def picture(seed: int = 3, batch: int = 1, height: int = 128, width: int = 128) -> Tensor:
    """IMAGE of random numbers."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, height, width, 3, generator=generator)


def apply(host: Host, control: Any, layout: dict[str, Any] = TINY, **changes: Any) -> tuple:
    """(positive, negative) with a control of any loader, through Apply ControlNet++."""
    node = changes.pop("node", "CNPP_Apply")
    inputs = {
        "positive": prompt(layout, 1),
        "negative": prompt(layout, 2),
        "control_net": control,
        "image": picture(),
        "strength": 0.8,
        "start_percent": 0.0,
        "end_percent": 1.0,
    }
    return host.call(node, **inputs | changes)
