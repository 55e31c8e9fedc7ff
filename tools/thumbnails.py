"""The pictures beside the demo's templates, drawn from a run of each on a ComfyUI that is up.

`python tools/thumbnails.py http://127.0.0.1:8188` writes workflows/*_demo.jpg. Those of the other
templates are drawings, which no run changes.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from PIL import Image, ImageDraw, ImageFont

FOLDER = Path(__file__).resolve().parent.parent / "workflows"
SIDE = 640
MARGIN = 36
GROUND, FRAME = "#1b1b20", "#5b6070"
WHITE, GREY, BLUE, GREEN = "#f4f4f6", "#b4b4bc", "#8fc0f0", "#7cc47f"
QUALITY = 90

Pictures = dict[str, list[Image.Image]]  # by the name of a node's class; `example` and `edges` too


class Card:
    """One thumbnail: a title, and pictures with captions."""

    def __init__(self, title: str):
        self.image = Image.new("RGB", (SIDE, SIDE), GROUND)
        self.draw = ImageDraw.Draw(self.image)
        self.text((MARGIN, 30), title, 40, WHITE)
        self.text((MARGIN, 88), "demo model, nothing to download", 22, BLUE)

    def text(self, at: tuple[float, float], text: str, size: int = 18, colour: str = GREY) -> None:
        self.draw.text(at, text, colour, font=ImageFont.load_default(size))

    def picture(
        self,
        picture: Image.Image,
        at: tuple[int, int],
        width: int,
        caption: str = "",
        frame: str = FRAME,
    ) -> None:
        """`picture` with its upper left corner `at`, as high as its shape asks for."""
        height = round(width * picture.height / picture.width)
        (x, y), right, bottom = at, at[0] + width, at[1] + height
        self.image.paste(picture.resize((width, height), Image.Resampling.LANCZOS), at)
        self.draw.rectangle((x - 2, y - 2, right + 1, bottom + 1), outline=frame, width=2)
        self.text((x, bottom + 6), caption)

    def grid(self, pictures: Sequence[Image.Image], at: tuple[int, int], width: int) -> None:
        """Four pictures, two in a row."""
        for number, picture in enumerate(pictures):
            row, column = divmod(number, 2)
            corner = at[0] + column * (width + 10), at[1] + row * (width + 10)
            self.picture(picture, corner, width)

    def arrow(self, x: int, y: int, length: int = 44) -> None:
        """To the right, from (x, y)."""
        end = x + length
        self.draw.line((x, y, end, y), GREY, 3)
        self.draw.polygon([(end + 4, y), (end - 8, y - 7), (end - 8, y + 7)], GREY)


def quickstart(found: Pictures, text: str) -> Card:
    """Picture, its edges, and four pictures that follow them."""
    card = Card("Quick start")
    card.picture(found["example"][0], (MARGIN, 150), 170, "example")
    card.picture(found["edges"][0], (MARGIN, 370), 170, "its edges")
    card.arrow(226, 455)
    card.text((292, 180), "yellow star on a blue ground", 20, "#f0e060")
    card.grid(found["SaveImage"], (292, 220), 150)
    card.text((292, 546), "four pictures of one run")
    return card


def schedule_and_masks(found: Pictures, text: str) -> Card:
    """Edges and mask, four pictures, and what the control added."""
    card = Card("Control by place and time")
    card.picture(found["edges"][0], (MARGIN, 140), 124, "edges")
    card.picture(found["MaskPreview"][0], (MARGIN, 298), 124, "mask: left half")
    card.arrow(178, 280)
    card.grid(found["SaveImage"], (244, 140), 138)
    card.text((244, 430), "the heart stays, the square is free")
    (plot,) = found["CNPP_ResidualEnergyPlot"]
    card.picture(plot, (MARGIN, 465), 460)
    card.text((508, 480), "what the\ncontrol adds\nto each block,\nstep by step", 17)
    return card


def search(found: Pictures, text: str) -> Card:
    """Edges, the best picture with its score, and the sheet of all."""
    card = Card("The best of twelve")
    card.picture(found["edges"][0], (MARGIN, 150), 130, "edges")
    card.arrow(184, 215)
    card.picture(found["SaveImage"][0], (246, 132), 160, frame=GREEN)
    best, _, settings = text.splitlines()[0].partition(" with ")
    card.text((428, 140), "best", 20, BLUE)
    card.text((428, 166), best.split(": ")[1], 38, GREEN)
    card.text((428, 222), settings.split(" (")[0].replace(", ", "\n"), 18)
    card.picture(found["PreviewImage"][-1], (150, 308), 330)
    return card


def steering(found: Pictures, text: str) -> Card:
    """Edges, the best picture and its edges, and scores and factors over the steps."""
    card = Card("Steered while it is made")
    scores = [float(score) for score in re.findall(r"picture \d+: F1 ([\d.]+)%", text)]
    best = scores.index(max(scores))
    card.picture(found["edges"][0], (MARGIN, 140), 130, "edges")
    card.arrow(184, 205)
    card.picture(found["SaveImage"][best], (250, 140), 130, "best of four", GREEN)
    card.arrow(398, 205)
    check = found["CNPP_CycleConsistencyCheck"][best]
    edges = check.crop((0, 0, check.width, check.width))  # its legend is too small to read here
    card.picture(edges, (464, 140), 130, "kept: white")
    (plot,) = found["CNPP_ConsistencyFeedbackPlot"]
    card.picture(plot, (110, 312), 420)
    return card


def training(found: Pictures, text: str) -> Card:
    """Conditions that were held out, what is drawn from them before and after, and the course."""
    return _learns("A new condition is learnt", found["CNPP_TrainControlNet"], text)


def reward(found: Pictures, text: str) -> Card:
    """The same of a ControlNet that a reward makes a ControlNet++."""
    return _learns("From ControlNet to ++", found["CNPP_RewardFineTune"], text)


def _learns(title: str, shown: list[Image.Image], text: str) -> Card:
    """sheet and plot as the node shows them; text: what it says at the end."""
    card = Card(title)
    sheet, plot = shown
    card.picture(sheet, (MARGIN, 132), round(450 * sheet.width / sheet.height))
    now, before = re.findall(r"score ([\d.]+%), ([\d.]+%) before", text)[0]
    left = MARGIN + round(450 * sheet.width / sheet.height) + 24
    card.text((left, 150), "score", 20, BLUE)
    card.text((left, 178), before, 30, GREY)
    card.text((left, 222), now, 38, GREEN)
    card.picture(plot, (left, 300), SIDE - MARGIN - left)
    return card


CARDS: dict[str, Callable[[Pictures, str], Card]] = {
    "quickstart_demo": quickstart,
    "schedule_and_masks_demo": schedule_and_masks,
    "consistency_search_demo": search,
    "consistency_steering_demo": steering,
    "train_controlnet_demo": training,
    "reward_fine_tune_demo": reward,
}


def run(address: str, name: str) -> tuple[Pictures, str]:
    """The pictures of a template's run, and the text of the node with the longest one."""
    graph = json.loads((FOLDER / "api" / f"{name}.json").read_text(encoding="utf-8"))
    kinds = {key: node["class_type"] for key, node in graph.items()}
    named = {kind: key for key, kind in kinds.items()}
    finder = named.get("CNPP_Canny") or named["CNPP_Annotate"]
    links = {"example": [named["CNPP_DemoModel"], 4], "edges": [finder, 0]}
    for shown, link in links.items():
        # ComfyUI runs one of two equal nodes, so a preview that is there already is taken.
        there = (key for key, node in graph.items() if node["inputs"].get("images") == link)
        key = next(there, shown)
        graph[key] = {"class_type": "PreviewImage", "inputs": {"images": link}}
        kinds[key] = shown
    if "MaskComposite" in named:
        mask = {"mask": [named["MaskComposite"], 0]}
        graph["mask"] = {"class_type": "MaskPreview", "inputs": mask}
        kinds["mask"] = "MaskPreview"
    ask(
        address, "/free", {"free_memory": True}
    )  # what comes from the cache has no pictures to tell
    time.sleep(2)  # until its worker has done so
    prompt = json.loads(ask(address, "/prompt", {"prompt": graph}))["prompt_id"]
    while not (history := json.loads(ask(address, f"/history/{prompt}"))):
        time.sleep(0.5)
    done = history[prompt]
    if done["status"]["status_str"] != "success":
        raise RuntimeError(f"{name} failed: {done['status']['messages'][-1]}")
    found: Pictures = {}
    for key, output in done["outputs"].items():
        for image in output.get("images", []):
            data = ask(address, f"/view?{urlencode(image)}")
            found.setdefault(kinds[key], []).append(Image.open(BytesIO(data)).convert("RGB"))
    texts = [output["text"][0] for output in done["outputs"].values() if "text" in output]
    return found, max(texts, key=len)


def ask(address: str, path: str, body: Any = None) -> bytes:
    """What the server answers to GET, or to POST with a body."""
    data = None if body is None else json.dumps(body).encode()
    request = Request(address + path, data, {"Content-Type": "application/json"})
    with urlopen(request, timeout=60) as reply:
        return reply.read()


def main(address: str) -> None:
    """Run every template and write its picture."""
    for name, card in CARDS.items():
        card(*run(address, name)).image.save(FOLDER / f"{name}.jpg", quality=QUALITY)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python {sys.argv[0]} ADDRESS, such as http://127.0.0.1:8188")
    main(sys.argv[1].rstrip("/"))
