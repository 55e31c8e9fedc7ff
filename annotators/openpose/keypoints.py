"""POSE_KEYPOINT: the poses of a batch as plain JSON, in the layouts that nodes write and read.

A frame is {"people", "canvas_height", "canvas_width"}, one for each picture; a person has flat
lists of x, y, confidence (github.com/CMU-Perceptual-Computing-Lab/openpose, doc/02_output.md).
Packs differ in the rest: null or empty lists for what was not found, 68 or 70 face points, pixels
or fractions of the canvas.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

log = logging.getLogger(__name__)

JOINTS = (
    "nose",
    "neck",
    *("right_shoulder", "right_elbow", "right_wrist"),
    *("left_shoulder", "left_elbow", "left_wrist"),
    *("right_hip", "right_knee", "right_ankle"),
    *("left_hip", "left_knee", "left_ankle"),
    *("right_eye", "left_eye", "right_ear", "left_ear"),
)
HAND_POINTS = 21
FACE_POINTS = 70  # 68 landmarks and the pupils
FOOT_POINTS = 6
# Where the 18 joints are in CMU's later layout of 25, which has a mid hip and feet.
FROM_BODY_25 = (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18)
# No person is as small as this many pixels, and no fraction of the canvas as large.
LARGEST_FRACTION = 2.0
LONGEST_SIDE = 16384  # pixels, as of the host's widgets for sizes
FARTHEST = 32768.0  # pixels from the corner; what lies beyond is no point of a picture
MOST_PEOPLE = 1000  # of a frame: a thousand take half a second to read and to draw
MOST_IN_ALL = 10_000  # frames, and people in all of them: they take some seconds
MOST_TEXT = 64_000_000  # characters: so many people with hands and faces have about 40 million
MOST_NAMED = 3


class Keypoint(NamedTuple):
    """A point in pixels, x to the right and y down."""

    x: float
    y: float
    score: float = 1.0


Points = tuple[Keypoint | None, ...]  # None for what was not found


@dataclass(frozen=True)
class Person:
    """The points of one person; None for a hand or face that was not looked for or not found."""

    body: Points  # in the order of JOINTS
    left_hand: Points | None = None
    right_hand: Points | None = None
    face: Points | None = None
    feet: Points | None = None  # kept for the nodes that draw them


@dataclass(frozen=True)
class Pose:
    """All people of one picture of height x width pixels."""

    people: tuple[Person, ...]
    height: int
    width: int


_LISTS = {  # name in the file -> field, number of points to write
    "face_keypoints_2d": ("face", FACE_POINTS),
    "hand_left_keypoints_2d": ("left_hand", HAND_POINTS),
    "hand_right_keypoints_2d": ("right_hand", HAND_POINTS),
}
_BODY = "pose_keypoints_2d"
_FEET = "foot_keypoints_2d"
_KNOWN_LENGTHS = {
    _BODY: (18, 25),
    "face_keypoints_2d": (68, 70),
    "hand_left_keypoints_2d": (HAND_POINTS,),
    "hand_right_keypoints_2d": (HAND_POINTS,),
    _FEET: (FOOT_POINTS,),
}


def to_json(poses: Sequence[Pose]) -> list[dict[str, Any]]:
    """POSE_KEYPOINT of a batch: absolute pixels, zeros for what was not found, no nulls.

    Confidence is 1 for every point, because readers drop what is below 0.3 or even below 1.
    """
    return [
        {
            "people": [_person_to_json(person) for person in pose.people],
            "canvas_height": pose.height,
            "canvas_width": pose.width,
        }
        for pose in poses
    ]


def from_json(
    value: Any, min_confidence: float = 0.3, remarks: list[str] | None = None
) -> list[Pose]:
    """The poses in a POSE_KEYPOINT, whoever wrote it.

    value: a list of frames, one frame, or the JSON text of either.
    min_confidence: points below it count as not found; 0.3 is the default of ComfyUI's own drawing.
    remarks: gets sentences about what was left out while the rest was read: points that are no
    numbers of a picture, hands and faces with another number of points. They are also logged.
    Raises ValueError naming the frame and the field that does not fit, and for more than
    MOST_IN_ALL frames or people, MOST_PEOPLE of a frame, or MOST_TEXT characters.
    """
    if isinstance(value, str | bytes):
        value = _parsed(value)
    frames = [value] if isinstance(value, Mapping) else value
    if not isinstance(frames, Sequence) or not all(isinstance(f, Mapping) for f in frames):
        raise ValueError(
            f"POSE_KEYPOINT is {_brief(value)}; it needs a list with one frame "
            '{"people", "canvas_height", "canvas_width"} for each picture. Check the node that '
            "feeds the keypoints."
        )
    if not frames:
        raise ValueError("POSE_KEYPOINT is an empty list. Check the node that feeds the keypoints.")
    _require_few(len(frames), f"{len(frames):,} frames")
    left_out = _LeftOut()
    poses: list[Pose] = []
    people = 0
    for number, frame in enumerate(frames, 1):
        poses.append(_read_frame(frame, number, min_confidence, left_out))
        people += len(poses[-1].people)
        _require_few(people, f"{people:,} people in its first {number:,} frames")
    for sentence in left_out.sentences():
        log.warning("%s", sentence)
        if remarks is not None:
            remarks.append(sentence)
    return poses


def _require_few(count: int, found: str) -> None:
    if count > MOST_IN_ALL:
        raise ValueError(
            f"POSE_KEYPOINT has {found}; at most {MOST_IN_ALL:,} are read at a time. Give it in "
            "parts, each for a part of the video."
        )


def _parsed(text: str | bytes) -> Any:
    if len(text) > MOST_TEXT:
        raise ValueError(
            f"The pose text is {len(text):,} characters long; at most {MOST_TEXT:,} are read. "
            "Paste a POSE_KEYPOINT as a pose node saves it, of a part of the video."
        )
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"The pose text is no JSON (line {error.lineno}, column {error.colno}: {error.msg}). "
            "Paste a POSE_KEYPOINT as a pose node saves it."
        ) from error
    except (ValueError, RecursionError) as error:  # no UTF-8, endless numbers, endless brackets
        reason = "brackets inside brackets" if isinstance(error, RecursionError) else error
        raise ValueError(
            f"The pose text can't be read ({reason}). Paste a POSE_KEYPOINT as a pose node saves "
            "it."
        ) from error


@dataclass
class _LeftOut:
    """What can't be drawn and doesn't keep the rest from it."""

    points: int = 0
    first: str = ""
    lists: list[str] = field(default_factory=list)

    def point(self, where: str) -> None:
        self.points += 1
        self.first = self.first or where

    def sentences(self) -> list[str]:
        """At most one for the points and one for the lists."""
        found = []
        if self.points:
            found.append(
                f"{self.points} points were left out, the first in {self.first}: they are not "
                f"finite, or farther than {FARTHEST:.0f} pixels away."
            )
        if self.lists:
            more = len(self.lists) - MOST_NAMED
            rest = f" and {more} more" if more > 0 else ""
            found.append(f"{'; '.join(self.lists[:MOST_NAMED])}{rest}: left out.")
        return found


def _person_to_json(person: Person) -> dict[str, Any]:
    lists = {_BODY: _flat(person.body, len(JOINTS))}
    for name, (attribute, count) in _LISTS.items():
        lists[name] = _flat(getattr(person, attribute), count)
    if person.feet:
        lists[_FEET] = _flat(person.feet, FOOT_POINTS)
    return lists


def _flat(points: Points | None, count: int) -> list[float]:
    found = [*(points or ())] + [None] * (count - len(points or ()))
    return [
        float(number)
        for point in found
        for number in ((0, 0, 0) if point is None else (point.x, point.y, 1))
    ]


def _read_frame(
    frame: Mapping[str, Any], number: int, min_confidence: float, left_out: _LeftOut
) -> Pose:
    height, width = (_side(frame, number, f"canvas_{side}") for side in ("height", "width"))
    people = frame.get("people")
    if not isinstance(people, Sequence) or not all(isinstance(p, Mapping) for p in people):
        hint = "It holds animals, which are drawn differently. " if "animals" in frame else ""
        raise ValueError(
            f'Frame {number} of POSE_KEYPOINT has {_brief(people)} as "people"; it needs a list of '
            f"persons. {hint}Check the node that feeds the keypoints."
        )
    if len(people) > MOST_PEOPLE:
        raise ValueError(
            f"Frame {number} of POSE_KEYPOINT has {len(people):,} people; at most {MOST_PEOPLE:,} "
            "are drawn. Check the node that feeds the keypoints."
        )
    lists = [
        {name: _triples(person.get(name), name, number, left_out) for name in _KNOWN_LENGTHS}
        for person in people
    ]
    coordinates = [
        abs(value)
        for person in lists
        for triples in person.values()
        for x, y, confidence in triples
        if confidence > 0
        for value in (x, y)
    ]
    in_pixels = max(coordinates, default=0.0) > LARGEST_FRACTION
    scale = (1.0, 1.0) if in_pixels else (float(width), float(height))

    def points(person: dict[str, list[tuple[float, float, float]]], name: str) -> Points | None:
        found = tuple(
            Keypoint(x * scale[0], y * scale[1], c) if c > 0 and c >= min_confidence else None
            for x, y, c in person[name]
        )
        return found if any(found) else None

    def body(person: dict[str, list[tuple[float, float, float]]]) -> Points:
        found = points(person, _BODY) or (None,) * len(JOINTS)
        return tuple(found[i] for i in FROM_BODY_25) if len(found) == 25 else found

    return Pose(
        tuple(
            Person(
                body(person),
                feet=points(person, _FEET),
                **{attribute: points(person, name) for name, (attribute, _) in _LISTS.items()},
            )
            for person in lists
        ),
        height,
        width,
    )


def _side(frame: Mapping[str, Any], number: int, name: str) -> int:
    side = frame.get(name)
    is_number = isinstance(side, int | float) and not isinstance(side, bool)
    if side is None or not is_number or not 1 <= side <= LONGEST_SIDE:
        raise ValueError(
            f"Frame {number} of POSE_KEYPOINT has {_brief(side)} as {name}; it needs the size of "
            f"the picture in pixels, 1 to {LONGEST_SIDE}. CMU's own files lack it: add "
            "canvas_height and canvas_width."
        )
    return int(side)


def _triples(
    value: Any, name: str, number: int, left_out: _LeftOut
) -> list[tuple[float, float, float]]:
    """x, y, confidence; an empty list for null, for no points and for a missing field."""
    if value is None or (isinstance(value, Sequence) and not value):
        return []
    numbers = isinstance(value, Sequence) and all(
        isinstance(v, int | float) or v is None for v in value
    )
    counts = _KNOWN_LENGTHS[name]
    fits = numbers and len(value) in [3 * count for count in counts]
    if numbers and not fits and name != _BODY and len(value) % 3 == 0:
        usual = " or ".join(map(str, counts))
        left_out.lists.append(f"{name} of frame {number} has {len(value) // 3} points, not {usual}")
        return []
    if not fits:
        expected = " or ".join(str(3 * count) for count in counts)
        raise ValueError(
            f"Frame {number} of POSE_KEYPOINT has {_brief(value)} as {name}; it needs {expected} "
            "numbers (x, y, confidence for each point), or null."
        )
    values = [_number(v) for v in value]
    triples = list(zip(values[::3], values[1::3], values[2::3], strict=True))
    for i, (x, y, confidence) in enumerate(triples):
        # A point of confidence 0 was not found, whatever stands in its place.
        sound = abs(x) <= FARTHEST and abs(y) <= FARTHEST and math.isfinite(confidence)
        if not sound:
            if confidence != 0:
                left_out.point(f"{name} of frame {number}")
            triples[i] = (0.0, 0.0, 0.0)
    return triples


def _number(value: float | None) -> float:
    try:
        return float(value or 0)
    except OverflowError:  # an integer of more than 308 digits
        return math.inf


def _brief(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a dictionary of {len(value)}"
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return f"a list of {len(value)}"
    if isinstance(value, int) and abs(value) >= 10**37:
        return "a number of more than 37 digits"
    text = repr(value[:40] if isinstance(value, str | bytes) else value)
    return text if len(text) <= 40 else f"{text[:37]}..."
