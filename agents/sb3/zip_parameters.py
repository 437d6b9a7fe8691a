"""Parameters out of a zip that stable-baselines3 saved, without unpickling it."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from semigradient.errors import UserError, require

_ZIP_LIMIT = 1 << 30  # bytes of parameters that an imported zip may hold


def read_zip(path: Path) -> dict[str, Tensor]:
    """Parameters of the policy in a zip that SB3 saved.

    Only `policy.pth` is read, by torch's loader for plain tensors. The hyperparameters beside
    it are pickled objects, which execute code when they are opened, and stay closed.

    Raises:
        UserError: no such file, no SB3 zip, too large, or anything but named tensors in it.
    """
    where = f"import_zip={str(path)!r}"
    try:
        with zipfile.ZipFile(path) as archive, archive.open("policy.pth") as member:
            content = io.BytesIO(member.read(_ZIP_LIMIT + 1))
        # torch's format is a zip again, whose size decompressed must be known beforehand.
        with zipfile.ZipFile(content) as inner:
            size = sum(entry.file_size for entry in inner.infolist())
        require(size <= _ZIP_LIMIT, f"{where}: more than {_ZIP_LIMIT >> 20} MiB of parameters")
        content.seek(0)
        parameters = torch.load(content, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{where}: no such file") from None
    except KeyError:
        raise UserError(f"{where}: holds no policy.pth; accepted is a zip that SB3 saved") from None
    except pickle.UnpicklingError:
        raise UserError(f"{where}: policy.pth holds more than tensors and is not opened") from None
    except (OSError, zipfile.BadZipFile, RuntimeError, EOFError, NotImplementedError) as problem:
        reason = " ".join(str(problem).split())
        raise UserError(f"{where}: not a zip that SB3 saved: {reason}") from None
    named = isinstance(parameters, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in parameters.items()
    )
    require(named, f"{where}: policy.pth must hold named tensors only")
    odd = [name for name, value in parameters.items() if not _is_plain(value)]
    require(not odd, f"{where}: parameters are no dense real numbers: {', '.join(odd)}")
    bad = [name for name, value in parameters.items() if not torch.isfinite(value).all()]
    require(not bad, f"{where}: parameters are not finite: {', '.join(bad)}")
    return dict(parameters)


def _is_plain(value: Tensor) -> bool:
    return value.layout is torch.strided and not value.is_complex()
