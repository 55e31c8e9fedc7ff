"""Read a pickle without running anything: plain data and the places of tensors come out.

Python's own unpickler calls what a file names, and even a list of harmless names is no protection
from a file of 400 bytes whose tuples share one another 40 deep: hashing one takes years. This
machine knows the opcodes, calls nothing, takes only short plain keys, and stops at a stated number
of opcodes, so that time and memory are bounded by the length of the text.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

MOST_OPCODES = 400_000  # of torch.save, some 40 for each tensor: 10,000 tensors
MOST_DIMENSIONS = 8


class Unpicklable(Exception):  # noqa: N818 - always caught by the reader of the file
    """Says what the pickle is, with `name` for the code that it wants to run."""

    def __init__(self, what: str, name: str = "") -> None:
        super().__init__(what)
        self.name = name


@dataclass(frozen=True)
class Storage:
    """Where numbers lie: the record `key` of the file, of `numel` elements."""

    key: str
    dtype: torch.dtype
    numel: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that has not been read yet."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class Name:
    """A global that the pickle names: never looked up, only compared."""

    path: str


@dataclass(frozen=True)
class Made:
    """What the pickle would have made by calling a name: no weight."""

    by: str


def unpickle(stream: io.BytesIO, storages: dict[str, Storage] | None = None) -> Any:
    """The next pickle in the stream, which then stands behind it; its storages by their keys.

    Dictionaries, lists, tuples, numbers and texts come out as such, tensors as StoredTensor, what
    other harmless names would have made as Made. Raises Unpicklable for everything else.
    """
    machine = _Machine({} if storages is None else storages)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count > MOST_OPCODES:
                raise Unpicklable(f"has a pickle of more than {MOST_OPCODES:,} opcodes")
            machine.do(opcode.name, argument)
        return machine.stack[-1]
    # genops raises ValueError, what is not as the opcode needs it one of the others
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise Unpicklable("is damaged or cut off in its pickle") from error


class _Machine:
    def __init__(self, storages: dict[str, Storage]) -> None:
        self.storages = storages
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def do(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self.memo[argument])
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name in _TUPLES:
            self._collect(_TUPLES[name])
        elif name == "TUPLE":
            stack.append(tuple(self._marked()))
        elif name in ("LIST", "FROZENSET"):
            stack.append(self._marked())
        elif name == "APPEND":
            value = stack.pop()
            list.append(stack[-1], value)
        elif name in ("APPENDS", "ADDITEMS"):
            values = self._marked()
            list.extend(stack[-1], values)
        elif name == "DICT":
            values = self._marked()
            stack.append({})
            self._set(values)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            self._set([key, value])
        elif name == "SETITEMS":
            self._set(self._marked())
        elif name == "GLOBAL":
            stack.append(_name(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(_name(module, attribute))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, function = stack.pop(), stack.pop()
            stack.append(_call(function, arguments))
        elif name == "BINPERSID":
            storage = _storage(stack.pop())
            stack.append(self.storages.setdefault(storage.key, storage))
        elif name == "BUILD":
            stack.pop()  # attributes: nothing here has any
        elif name == "POP":
            stack.pop()
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise Unpicklable(f"has a pickle with the opcode {name}")

    def _marked(self) -> list[Any]:
        start = self.marks.pop()
        found = self.stack[start:]
        del self.stack[start:]
        return found

    def _collect(self, count: int) -> None:
        self.marks.append(len(self.stack) - count)
        self.stack.append(tuple(self._marked()))

    def _set(self, values: list[Any]) -> None:
        target = self.stack[-1]
        for key, value in zip(values[::2], values[1::2], strict=True):
            # Hashing foreign tuples, or many numbers with one hash, may take for ever.
            if not isinstance(key, str) and not (type(key) is int and 0 <= key < 2**31):
                raise Unpicklable("has a dictionary whose keys are no names")
            dict.__setitem__(target, key, value)


_NUMBERS = ("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "BINFLOAT", "FLOAT")
_TEXTS = ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE", "STRING", "BINSTRING")
_BYTES = ("SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8")
_VALUES = frozenset((*_NUMBERS, *_TEXTS, *_BYTES))
_CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_DICT": dict,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "UntypedStorage": torch.uint8,
    # Of quantised tensors, which are refused by name.
    "QInt8Storage": torch.int8,
    "QUInt8Storage": torch.uint8,
    "QInt32Storage": torch.int32,
}
_DICTIONARIES = ("collections.OrderedDict",)
_TENSORS = (
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
)
_PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
_TYPED = "torch._tensor._rebuild_from_type_v2"
_PLAIN_TYPES = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")
SPECIAL = {  # tensors whose numbers do not lie in the file as they are
    "torch._utils._rebuild_sparse_tensor": "sparse",
    "torch._utils._rebuild_nested_tensor": "nested",
    "torch._utils._rebuild_qtensor": "quantised",
    "torch._utils._rebuild_meta_tensor_no_storage": "without numbers (on the meta device)",
    "torch._utils._rebuild_wrapper_subclass": "of a class of its own",
    "torch._utils._rebuild_device_tensor_from_numpy": "of a device unknown here",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": "of a device unknown here",
    _TYPED: "of a class of its own",
    _TENSORS[1]: "conjugated or negated",
}
_HARMLESS = frozenset(  # what training code leaves in a file; nothing of it is a weight
    (
        "_codecs.encode",
        "builtins.bytearray",
        "builtins.complex",
        "builtins.set",
        "collections.Counter",
        "collections.defaultdict",
        "builtins.dict",
        "builtins.list",
        "builtins.int",
        "torch.Size",
        "torch.device",
        "torch.serialization._get_layout",
        "torch.per_tensor_affine",
        "torch.per_channel_affine",
    )
)


def _name(module: Any, attribute: Any) -> Name:
    path = f"{module}.{attribute}".replace("__builtin__.", "builtins.")
    parent, _, last = path.rpartition(".")
    known = (
        path in _HARMLESS
        or path in SPECIAL
        or path in (*_DICTIONARIES, *_TENSORS, *_PARAMETERS, *_PLAIN_TYPES)
        or (parent in ("torch", "torch.cuda", "torch.storage") and last in _STORAGES)
        or (parent == "torch" and isinstance(getattr(torch, last, None), torch.dtype))
    )
    if not known:
        raise Unpicklable("is a pickle that would run code when loaded", path)
    return Name(path)


def _call(function: Name, arguments: Any) -> Any:
    """What the call would have made; the calls that torch.save writes and no other."""
    path = function.path
    if path in _DICTIONARIES and not arguments:
        return {}
    if path == _TYPED and arguments[1].path in _PLAIN_TYPES and arguments[0].path in _TENSORS:
        return _call(arguments[0], arguments[2])
    if path in _PARAMETERS and isinstance(arguments[0], StoredTensor | Made):
        return arguments[0]
    if path in _TENSORS:
        return _tensor(path, *arguments)
    return Made(path)


def _tensor(
    path: str, storage: Storage, offset: int, size: Any, stride: Any, *rest: Any
) -> StoredTensor | Made:
    third = path == _TENSORS[2]
    dtype = getattr(torch, rest[2].path.rpartition(".")[2]) if third else storage.dtype
    if any(rest[3 if third else 2 :]):  # conjugated or negated
        return Made(path)
    size, stride = tuple(size[: MOST_DIMENSIONS + 1]), tuple(stride[: MOST_DIMENSIONS + 1])
    if not all(map(_is_count, (offset, *size, *stride))) or len(size) != len(stride):
        raise TypeError(path)
    if not isinstance(dtype, torch.dtype) or len(size) > MOST_DIMENSIONS:
        raise TypeError(path)
    # A storage without type counts bytes, and so does numel then.
    numel = storage.numel * storage.dtype.itemsize // dtype.itemsize
    elements, last = 1, offset
    for extent, step in zip(size, stride, strict=True):
        elements, last = elements * extent, last + max(extent - 1, 0) * step
    if elements and (last >= numel or elements > numel):
        raise TypeError(path)
    return StoredTensor(storage, dtype, offset, size, stride)


def _storage(identity: Any) -> Storage:
    kind, storage_type, key, _device, numel = identity[:5]
    view = identity[5] if len(identity) > 5 else None  # written by torch 0.3 only
    _, _, last = storage_type.path.rpartition(".")
    if kind != "storage" or view is not None or not isinstance(key, str) or not _is_count(numel):
        raise TypeError(kind)
    return Storage(key, _STORAGES[last], numel)


def _is_count(number: Any) -> bool:
    return type(number) is int and 0 <= number < 2**48
