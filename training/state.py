"""A nested state as JSON and tensors, and back: what checkpoints are made of, without pickle."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

_REFERENCES = frozenset({"__tensor__", "__array__", "__shard__", "__scalar__", "__number__"})
_NUMPY_KINDS = "biufcSUmM"  # numbers, text and times; objects would need pickle
_ESCAPE = "__dict__"  # wraps a user's dict that happens to look like one of our references

# What every supported safetensors release can name; any other dtype travels as bytes.
SAFETENSORS_NAMES = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Shard:
    """A leaf for large data that rarely changes, such as a full segment of a replay memory.

    `revision` must change when the data does: while it stays the same, at the same place in the
    state, later checkpoints of this process link the file instead of writing it again.
    """

    tensor: torch.Tensor
    revision: int


class Encoder:
    """Turns a state into JSON, and collects its tensors and shards."""

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self.shards: dict[str, tuple[str, Shard]] = {}
        self._views: dict[tuple[Any, ...], dict[str, Any]] = {}

    def encode(self, value: Any, path: tuple[str, ...]) -> Any:
        """JSON of `value`, found at `path` of the state."""
        if isinstance(value, dict):
            return self._encode_dict(value, path)
        if isinstance(value, list):
            return [self.encode(item, (*path, str(index))) for index, item in enumerate(value)]
        if isinstance(value, torch.Tensor):
            return self._encode_tensor(value, path)
        if isinstance(value, np.ndarray | np.generic):
            return self._encode_array(value, path)
        if isinstance(value, Shard):
            return self._encode_shard(value, path)
        return _encode_number(value, path)

    def encode_plain(self, identity: dict[str, Any]) -> Any:
        """Encode a dict of JSON values; tuples are taken as the lists JSON makes of them."""
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in identity.items()}
        encoder = Encoder()
        encoded = encoder.encode(plain, ("identity",))
        if encoder.tensors or encoder.shards:
            raise TypeError("an identity holds JSON values, not tensors")
        return encoded

    def _encode_dict(self, value: dict[Any, Any], path: tuple[str, ...]) -> Any:
        for key in value:
            if type(key) is not str:
                raise TypeError(f"{_dotted(path)}: key {key!r} is not a string")
        encoded = {key: self.encode(item, (*path, key)) for key, item in value.items()}
        return (
            {_ESCAPE: encoded} if not value.keys().isdisjoint({*_REFERENCES, _ESCAPE}) else encoded
        )

    def _encode_tensor(self, tensor: torch.Tensor, path: tuple[str, ...]) -> dict[str, Any]:
        _require_dense(tensor, path)
        # Tied weights are one tensor under two names: stored once and still tied when loaded.
        view: tuple[Any, ...] = (path,)
        if tensor.numel():
            view = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride())
            view += (tensor.dtype, tensor.is_conj(), tensor.is_neg())
        if view not in self._views:
            self._views[view] = {"__tensor__": self._add(tensor, path), **_kind(tensor)}
        return self._views[view]

    def _encode_array(
        self, array: np.ndarray[Any, Any] | np.generic, path: tuple[str, ...]
    ) -> dict[str, Any]:
        if array.dtype.kind not in _NUMPY_KINDS:
            raise TypeError(f"{_dotted(path)}: numpy dtype {array.dtype} is not supported")
        if isinstance(array, np.generic):
            return {"__scalar__": array.dtype.str, "bytes": array.tobytes().hex()}
        reference = {"dtype": array.dtype.str, "shape": list(array.shape)}
        flat = np.ascontiguousarray(array).reshape(-1)
        flat = flat.view(np.uint8) if flat.nbytes else np.zeros(0, np.uint8)
        if not flat.flags.writeable:  # torch warns of these, though nothing here writes
            flat = flat.copy()
        return {"__array__": self._add(torch.from_numpy(flat), path), **reference}

    def _encode_shard(self, shard: Shard, path: tuple[str, ...]) -> dict[str, Any]:
        _require_dense(shard.tensor, path)
        file = f"shard-{len(self.shards):05d}.safetensors"
        self.shards[file] = (json.dumps(path), shard)
        return {"__shard__": file, **_kind(shard.tensor)}

    def _add(self, tensor: torch.Tensor, path: tuple[str, ...]) -> str:
        """Name a tensor by its path; a key with a dot in it may need the name made unique."""
        name = _dotted(path).encode("utf-8", "replace").decode()
        while name in self.tensors or name == "__metadata__":
            name += "'"
        self.tensors[name] = tensor
        return name


def _dotted(path: tuple[str, ...]) -> str:
    return ".".join(path)


def _kind(tensor: torch.Tensor) -> dict[str, Any]:
    """Return what restores a tensor that is stored as bytes."""
    if tensor.dtype in SAFETENSORS_NAMES:
        return {}
    return {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}


def _require_dense(tensor: torch.Tensor, path: tuple[str, ...]) -> None:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise TypeError(f"{_dotted(path)}: only dense tensors with data can be saved")


def _encode_number(value: Any, path: tuple[str, ...]) -> Any:
    """Encode a JSON value; what JSON cannot hold exactly becomes a reference."""
    if value is None or type(value) in (bool, str):
        return value
    if type(value) is int:
        # Python refuses to print or parse very long decimals, and other readers round at 2**53.
        return value if value.bit_length() <= 1024 else {"__number__": hex(value)}
    if type(value) is float:
        return value if math.isfinite(value) else {"__number__": str(value)}
    raise TypeError(f"{_dotted(path)}: {type(value).__name__} cannot be saved in a checkpoint")


def decode(value: Any, tensors: dict[str, torch.Tensor], shards: dict[str, torch.Tensor]) -> Any:
    """Invert `Encoder.encode`."""
    if isinstance(value, list):
        return [decode(item, tensors, shards) for item in value]
    if not isinstance(value, dict):
        return value
    if _REFERENCES.isdisjoint(value):
        items = value.get(_ESCAPE, value)
        return {key: decode(item, tensors, shards) for key, item in items.items()}
    if "__tensor__" in value:
        name = value["__tensor__"]
        tensors[name] = _restore_tensor(tensors[name], value)  # kept, so that tied stay tied
        return tensors[name]
    if "__shard__" in value:
        return _restore_tensor(shards[value["__shard__"]], value)
    if "__array__" in value:
        data = tensors[value["__array__"]].numpy()
        return _restore_array(data, value["dtype"], value["shape"])
    if "__scalar__" in value:
        data = np.array(bytearray.fromhex(value["bytes"]), np.uint8)
        return _restore_array(data, value["__scalar__"], [])[()]
    text = value["__number__"]
    return float(text) if text in ("nan", "inf", "-inf") else int(text, 16)


def _restore_tensor(stored: torch.Tensor, reference: dict[str, Any]) -> torch.Tensor:
    if "dtype" not in reference:
        return stored
    dtype = getattr(torch, reference["dtype"])
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{reference['dtype']!r} is not a dtype")
    if stored.dtype == dtype:
        return stored
    # Bytes come without alignment, which a view as wider elements needs.
    return stored.clone().view(dtype).reshape(reference["shape"])


def _restore_array(data: np.ndarray[Any, Any], name: str, shape: list[int]) -> Any:
    """Build an array from its bytes; it owns its memory, so the file's map can go."""
    dtype = np.dtype(name)
    if dtype.kind not in _NUMPY_KINDS:
        raise ValueError(f"{name!r} is not a dtype of numbers or text")
    # In Python's integers, and before anything is allocated: a shape may claim any size.
    size = math.prod(shape) * np.empty((), dtype).itemsize  # empty text takes a letter's room
    if any(length < 0 for length in shape) or size != data.size:
        raise ValueError(f"{data.size} bytes are no {name} array of shape {shape}")
    array = np.empty(shape, dtype)
    if data.size:
        array.reshape(-1).view(np.uint8)[:] = data
    return array
