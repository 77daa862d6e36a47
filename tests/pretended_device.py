"""A device that this machine need not have: tensors say that they are there, and are refused what it would refuse.

The tensors are ordinary ones of the CPU that carry the name of another device. What asks for their device is told that
name; an operation on tensors of several devices raises as it would there, and so does float64 on Apple's GPU.
"""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CPU = torch.device("cpu")
WITHOUT_FLOAT64 = ("mps",)
_UNDECIDED = "undecided"

aten = torch.ops.aten
_MAY_CROSS = {aten.copy_.default, aten._to_copy.default}
_INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}


class PretendedDevice:
    """The device inside the block.

    Args:
        kind: "cuda", or "mps", which has no float64.
    """

    def __init__(self, kind):
        self.device = _named(kind)
        self._modes = _Operations(), _Calls()

    def __enter__(self):
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error):
        for mode in reversed(self._modes):
            mode.__exit__(*error)

    def put(self, x):
        """Say that a tensor, or the tensors of a module, are there."""
        if isinstance(x, torch.nn.Module):
            for tensor in (*x.parameters(), *x.buffers()):
                _place(tensor, self.device)
            return x
        return _place(x.clone(), self.device)


def device_of(x):
    """Return where a tensor says that it is."""
    found = vars(x).get("_pretended", CPU)
    return CPU if found is _UNDECIDED else found


def _place(x, device):
    if device.type in WITHOUT_FLOAT64 and x.dtype in (torch.float64, torch.complex128):
        raise TypeError(f"Cannot convert a {device.type.upper()} Tensor to {x.dtype}: the device has none")
    x._pretended = device
    return x


def _named(device):
    device = torch.device(device)
    return device if device.type == "cpu" else torch.device(device.type, device.index or 0)


def _tensors(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


class _Operations(TorchDispatchMode):
    """Sees what runs in the end: refuses to mix devices, and passes on where results are."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = _tensors((args, kwargs))
        # What torch makes inside an operation, it makes on the operation's device.
        decided = [x for x in given if vars(x).get("_pretended") is not _UNDECIDED]
        # A number of the CPU goes with everything.
        devices = {device_of(x) for x in decided if x.ndim or device_of(x) != CPU}
        if func in _INDEXING:
            indices = _tensors(args[1])
            ours = {device_of(args[0]), *(device_of(x) for x in _tensors(args[2:]) if x.ndim)}
            devices = ours | {device_of(x) for x in indices} - {CPU}
        if len(devices) > 1 and func not in _MAY_CROSS:
            named = ", ".join(sorted(map(str, devices)))
            raise RuntimeError(f"Expected all tensors to be on the same device, but {func} found {named}")
        result = func(*args, **kwargs)
        there = device_of(args[0]) if func in _MAY_CROSS else next(iter(devices), CPU if decided else _UNDECIDED)
        for x in _tensors(result):
            if any(x is one for one in given):
                continue
            if there is _UNDECIDED:
                x._pretended = _UNDECIDED
            else:
                _place(x, there)
        return result


class _Calls(TorchFunctionMode):
    """Sees what is called: answers where a tensor is, moves tensors, and makes new ones where it is asked to."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        of = getattr(getattr(func, "__self__", None), "__name__", "")  # of the getters of properties
        if name == "__get__" and of in ("device", "is_cuda", "is_mps", "is_cpu"):
            device = device_of(args[0])
            return device if of == "device" else device.type == of[3:]
        if name == "__get__" and of == "data":
            return _place(func(*args), device_of(args[0]))
        if name == "__set__" and of == "data":
            func(*args)
            _place(args[0], device_of(args[1]))
            return None
        if name in ("numpy", "__array__") and device_of(args[0]) != CPU:
            raise TypeError(f"can't convert {device_of(args[0])} device type tensor to numpy")
        if func in (torch.Tensor.cpu, torch.Tensor.cuda, torch.Tensor.to):
            return _moved(func, *args, **kwargs)
        wanted = kwargs.get("device", device_of(args[0]) if name == "new_tensor" else None)
        if wanted is not None:
            wanted = _named(wanted)
            kwargs["device"] = CPU
        result = func(*args, **kwargs)
        given = _tensors((args, kwargs))
        for x in _tensors(result):
            if wanted is not None:
                _place(x, wanted)
            elif vars(x).get("_pretended") is _UNDECIDED:
                _place(x, next((device_of(one) for one in given if device_of(one) != CPU), CPU))
        return result


def _moved(func, x, *args, **kwargs):
    """Do as Tensor.to, cpu and cuda."""
    if func is not torch.Tensor.to:
        target, dtype = CPU if func is torch.Tensor.cpu else _named("cuda"), None
    else:
        given = [*args, kwargs.get("device"), kwargs.get("dtype"), kwargs.get("other")]
        devices = [_named(one) for one in given if isinstance(one, (str, torch.device))]
        dtypes = [one for one in given if isinstance(one, torch.dtype)]
        for other in _tensors(given):
            devices.append(device_of(other))
            dtypes.append(other.dtype)
        target, dtype = (devices or [device_of(x)])[0], (dtypes or [None])[0]
    here = device_of(x)
    if CPU != here != target and here.type in WITHOUT_FLOAT64 and dtype == torch.float64:
        raise TypeError(f"Cannot convert a {here.type.upper()} Tensor to float64 before it has left the device")
    if target == here and not kwargs.get("copy") and dtype in (None, x.dtype):
        return x
    copy = torch.empty_like(x, dtype=dtype or x.dtype)
    copy._pretended = target
    _place(copy, target)
    return copy.copy_(x)
