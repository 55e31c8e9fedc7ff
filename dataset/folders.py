"""A folder of pictures with captions beside them, and perhaps one of conditions."""

from __future__ import annotations

from pathlib import Path

from ..cnpp_core.training.data.records import Problems, Record
from ..pictures.files import by_name
from .record import caption_in, record_of, stamp_of


def read_folders(pictures: Path, conditions: Path | None, problems: Problems) -> list[Record]:
    """Records of `NAME.png` (or .jpg ...), its caption `NAME.txt` and its condition of that name.

    Without a folder of conditions they are to be found in the pictures when they are drawn. Raises
    ValueError for a folder that is missing or has a name twice, and where no record can be used.
    """
    found = by_name(pictures, "pictures")
    wanted = None if conditions is None else by_name(conditions, "conditions")
    records = []
    for name, picture in found.items():
        try:
            condition = None
            if wanted is not None and (condition := wanted.get(name)) is None:
                raise ValueError(f"there is no condition {name} in {conditions}.")
            caption = picture.with_suffix(".txt")
            if not caption.is_file():
                raise ValueError(f"its caption {caption} is missing.")
            text = caption_in(caption)
            if not text:
                raise ValueError(f"its caption {caption} is empty.")
            stamp = stamp_of(picture)
            records.append(record_of(str(picture), picture, condition, text, stamp))
        except (ValueError, OSError) as error:
            problems.add(str(picture), error)
    for name in sorted(set(wanted or ()) - set(found)):
        problems.add(f"{conditions}", f"there is no picture for the condition {name}.")
    problems.count(len(records), pictures)
    return records
