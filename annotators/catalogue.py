"""The weight files of the learned annotators: names, addresses, checksums, licences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .hub import HUB


@dataclass(frozen=True)
class WeightFile:
    """One file to download, or one folder in transformers' format with the `files` in it."""

    name: str
    url: str
    size: int | None  # bytes; None where only `about` is known
    sha256: str  # the leading hex digits that are known
    licence: str
    commercial: bool
    also: tuple[str, ...] = ()  # patterns of folders where other packs keep it
    about: int = 0  # bytes, approximately
    files: tuple[WeightFile, ...] = ()

    @property
    def size_text(self) -> str:
        """The size for people: "29.4 MB", "about 493 MB"."""
        if self.size is None:
            return f"about {self.about / 1e6:.0f} MB"
        return f"{self.size / 1e6:.1f} MB"

    @property
    def licence_text(self) -> str:
        """The licence for people, with what it forbids."""
        return self.licence if self.commercial else f"{self.licence}: NO COMMERCIAL USE"


def _annotator(
    name: str,
    webui_folder: str,
    sha256: str,
    size: int | None,
    licence: str = "Apache-2.0",
    *,
    commercial: bool = True,
    about: int = 0,
) -> WeightFile:
    """A file of lllyasviel/Annotators, which nearly every pack has a copy of."""
    repository = "lllyasviel/Annotators"
    also = (
        repository,  # below a folder `ckpts`
        f"ckpts/{repository}",
        f"comfyui_controlnet_aux/ckpts/{repository}",  # below custom_nodes
        f"custom_nodes/comfyui_controlnet_aux/ckpts/{repository}",
        f"models--{repository.replace('/', '--')}/snapshots/*",  # below the Hugging Face cache
        webui_folder,  # below sd-webui-controlnet/annotator/downloads or ControlNetPreprocessor
        f"extensions/sd-webui-controlnet/annotator/downloads/{webui_folder}",
        f"models/ControlNetPreprocessor/{webui_folder}",
    )
    url = f"{HUB}/{repository}/resolve/main/{name}"
    return WeightFile(name, url, size, sha256, licence, commercial, also, about)


def _transformers(
    repository: str, licence: str, files: Mapping[str, tuple[int, str]]
) -> WeightFile:
    """A folder with the named files (size, sha256) of a model repository."""
    name = repository.rpartition("/")[2]
    url = f"{HUB}/{repository}"
    return WeightFile(
        name,
        url,
        sum(size for size, _ in files.values()),
        "",
        licence,
        True,
        also=(
            f"{repository.partition('/')[0]}",
            f"models--{repository.replace('/', '--')}/snapshots/*",
        ),
        files=tuple(
            WeightFile(file, f"{url}/resolve/main/{file}", size, sha256, licence, True)
            for file, (size, sha256) in files.items()
        ),
    )


_CMU = "CMU OpenPose licence"

WEIGHTS: Mapping[str, WeightFile] = {
    "hed": _annotator(
        "ControlNetHED.pth",
        "hed",
        "5ca93762ffd68a29fee1af9d495bf6aab80ae86f08905fb35472a083a4c7a8fa",
        29_444_406,
    ),
    "lineart": _annotator(
        "sk_model.pth",
        "lineart",
        "c686ced2a666b4850b4bb6ccf0748031c3eda9f822de73a34b8979970d90f0c6",
        17_173_511,
        "MIT",
    ),
    "lineart_coarse": _annotator(
        "sk_model2.pth",
        "lineart",
        "30a534781061f34e83bb9406b4335da4ff2616c95d22a585c1245aa8363e74e0",
        17_173_511,
        "MIT",
    ),
    "mlsd": _annotator(
        "mlsd_large_512_fp32.pth",
        "mlsd",
        "5696f168eb2c30d4374bbfd45436f7415bb4d88da29bea97eea0101520fba082",
        6_341_481,
    ),
    "openpose_body": _annotator(
        "body_pose_model.pth",
        "openpose",
        "25a948c16078b0f08e236bda51a385d855ef4c153598947c28c0d47ed94bb746",
        209_267_595,
        _CMU,
        commercial=False,
    ),
    "openpose_hand": _annotator(
        "hand_pose_model.pth",
        "openpose",
        "b76b00d1750901abd07b9f9d8c98cc3385b8fe834a26d4b4f0aad439e75fc600",
        147_341_049,
        _CMU,
        commercial=False,
    ),
    "dpt_hybrid": _annotator(
        "dpt_hybrid-midas-501f0c75.pt",
        "midas",
        "501f0c75b3bca7daec6b3682c5054c09b366765aef6fa3a09d03a5cb4b230853",
        None,
        "MIT",
        about=493_000_000,
    ),
    "oneformer_ade20k": _transformers(
        "shi-labs/oneformer_ade20k_swin_tiny",
        "MIT",
        {
            "config.json": (
                84_284,
                "091cbc7c980128ae63b2a15d882923f326f85926ef163adad00c24bd90228896",
            ),
            "preprocessor_config.json": (
                8_709,
                "2c3c403d8414263e732996bb2ffeab80dd5ced0068ab11bfe5adf476ef75823c",
            ),
            "pytorch_model.bin": (
                203_389_501,
                "909b07dbf4129c2bbb8df4498e35dcd46f305e3ec45329d3ff6d4f0360de27f3",
            ),
            "merges.txt": (
                524_619,
                "9fd691f7c8039210e0fced15865466c65820d09b63988b0174bfe25de299051a",
            ),
            "vocab.json": (
                1_059_962,
                "e089ad92ba36837a0d31433e555c8f45fe601ab5c221d4f607ded32d9f7a4349",
            ),
            "tokenizer_config.json": (
                807,
                "64dd88e64d791e3be4d38be62d7e77e0a24df9e79205ac740af505aa2e94c367",
            ),
            "special_tokens_map.json": (
                472,
                "c4864a9376a8401918425bed71fc14fc0e81f9b59ec45c1cf96cccb2df508eac",
            ),
        },
    ),
}
