"""A second torch device in pure Python, for machines without an accelerator.

Torch lets Python stand in for a C++ backend (the dispatch key PrivateUse1). The device
"second" keeps each tensor's numbers in an inner CPU tensor and is as strict as CUDA: it
refuses operations on tensors of two devices (scalars and indices from the host excepted),
refuses generators of another device, has no `.numpy()`, and has a random state of its own.
Autograd, `nn.Module.to`, optimizers, autocast, pickling and deep copies work.

Whatever would make the host wait for a GPU is counted by source line in :data:`WAITS`:
`.item()`, shapes that depend on values, copies to the host, and copies from memory that is
not pinned. With ``REFUSED_DTYPES`` it has no float64, as mps.

Import this before sklearn_hscl, in a process of its own, as a process has one such backend.
Not simulated: streams, what asks for ``device.type == "cuda"``, numeric differences,
`torch.inference_mode` (taken for `no_grad`) and `torch.compile`.
"""

import collections
import contextlib
import sys

import torch
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "second"
VERIFIED = ("2.13.0",)  # versions of torch on whose internals this relies
WAITS = collections.Counter()  # (operation, source line) -> times the host had to wait
REFUSED_DTYPES = set()
_rng = torch.Generator().manual_seed(0)  # the device's own random state
_Generator = torch.Generator
aten = torch.ops.aten


class _Backend:
    """What torch.second offers, as torch.cuda does."""

    device = contextlib.nullcontext

    def is_initialized(self):
        return True

    is_available = is_initialized

    def current_device(self):
        return 0

    def device_count(self):
        return 1

    def _is_in_bad_fork(self):
        return False

    def manual_seed(self, seed):
        _rng.manual_seed(seed)

    manual_seed_all = manual_seed

    def get_rng_state(self, device=0):
        return _rng.get_state()

    def set_rng_state(self, state, device=0):
        _rng.set_state(state)

    def get_amp_supported_dtype(self):
        return [torch.bfloat16, torch.float16]


_setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
DEVICE = torch.device(NAME, 0)


class SecondTensor(torch.Tensor):
    """Says that it lies on the device; computes on the host."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )

    def __init__(self, inner):
        self.inner = inner

    def __repr__(self, *, tensor_contents=None):
        return f"SecondTensor({self.inner!r})"

    def __tensor_flatten__(self):
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(parts, meta, size, stride):
        return SecondTensor(parts["inner"])

    def __reduce_ex__(self, protocol):
        # The inner tensor has no graph; a parameter says itself that it is one.
        return to_second, (self.inner.detach(), self.requires_grad, self._is_parameter)

    @property
    def _is_parameter(self):
        return isinstance(self, torch.nn.Parameter)

    def __deepcopy__(self, memo):
        made = self.detach().clone()
        if isinstance(self, torch.nn.Parameter):
            made = torch.nn.Parameter(made, self.requires_grad)
        made.requires_grad_(self.requires_grad)
        return memo.setdefault(id(self), made)

    def untyped_storage(self):
        return self.inner.untyped_storage()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def to_second(inner, requires_grad, is_parameter):
    """Return a stored tensor to the device."""
    made = SecondTensor(inner)
    if is_parameter:
        return torch.nn.Parameter(made, requires_grad)
    return made.requires_grad_(requires_grad)


# Numbers are stored as those of the host, and map_location has no storage to move.
torch.serialization.add_safe_globals([to_second])
torch.serialization.register_package(
    0, lambda storage: None, lambda storage, place: storage if NAME in place else None
)


# Generators -----------------------------------------------------------------------------


_homes = {}  # torch wraps C++ generators anew at every call: by address


class SecondGenerator(_Generator):
    """A generator that knows the device for which it was made."""

    def __new__(cls, device="cpu"):
        return super().__new__(cls, "cpu")

    def __init__(self, device="cpu"):
        self.home = _homes[self._cdata] = torch.device(device).type

    @property
    def device(self):
        return DEVICE if self.home == NAME else torch.device("cpu")

    def manual_seed(self, seed):
        super().manual_seed(seed)
        return self


def _check_generator(func, generator, on_device):
    if generator is not None and (_homes.get(generator._cdata) == NAME) != on_device:
        raise RuntimeError(f"{func}: generator of another device, at {source_line()}")


# Waits ----------------------------------------------------------------------------------


COPIES = {aten._to_copy.default, aten.copy_.default}
INDEXED = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default}
INDEXED.add(aten._index_put_impl_.default)
# What the host must know before it can go on, such as the size of a result.
ASKS = {
    aten._local_scalar_dense.default,
    aten.is_nonzero.default,
    aten.equal.default,
    aten.nonzero.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.masked_select.default,
    aten.bincount.default,
    aten.repeat_interleave.Tensor,
    aten._linalg_svd.default,
    aten._linalg_eigh.default,
}


def source_line():
    """Return the line of the package that is running, or "?"."""
    frame = sys._getframe()
    while frame is not None:
        file = frame.f_code.co_filename
        if "/sklearn_hscl/" in file:
            return f"{file.split('/sklearn_hscl/')[1]}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


def _waits(func, tensors, on_device, kwargs):
    here = [isinstance(t, SecondTensor) for t in tensors]
    if func in COPIES:
        if any(here) and not (all(here) and on_device):  # between host and device
            to_host = here[0] if func is aten.copy_.default else not on_device
            source = tensors[-1] if func is aten.copy_.default else tensors[0]
            if func is aten.copy_.default:
                to_host = not here[0]
            return to_host or not _is_pinned(source)
        return on_device and not any(here) and not _is_pinned(tensors[0])
    if func in INDEXED and any(here):
        indices = [t for t in tensors[1:] if t.dtype in (torch.bool, torch.int64)]
        # Masks are searched on the device; indices of the host are copied there.
        return any(
            t.dtype == torch.bool or not isinstance(t, SecondTensor) for t in indices
        )
    return func in ASKS and any(here)


_pinned = set()  # addresses of what is pinned; the memory is kept for good


def pin_memory(self, device=None):
    """Return a copy that counts as pinned."""
    copy = self.clone()
    _pinned.add(copy.untyped_storage()._cdata)
    copy.keeps_storage_alive = copy.untyped_storage()
    _kept.append(copy)
    return copy


_kept = collections.deque(maxlen=10_000)


def _is_pinned(tensor):
    return tensor.untyped_storage()._cdata in _pinned


def is_pinned(self, device=None):
    """Return whether the memory came from :func:`pin_memory`."""
    return not isinstance(self, SecondTensor) and _is_pinned(self)


# Operations -----------------------------------------------------------------------------


def leaves(x):
    """Yield what is in arguments; torch's own functions take most of a fit's time."""
    if isinstance(x, dict):
        x = tuple(x.values())
    if type(x) not in (list, tuple):
        yield x
        return
    for part in x:
        yield from leaves(part)


def mapped(function, x):
    """Return arguments or results with each leaf replaced."""
    if isinstance(x, dict):
        return {key: mapped(function, part) for key, part in x.items()}
    if type(x) not in (list, tuple):
        return function(x)
    return type(x)([mapped(function, part) for part in x])


def run(func, args, kwargs):
    """Check devices, compute on the host, wrap what belongs to the device."""
    flat = [*leaves((args, kwargs))]
    tensors = [x for x in flat if isinstance(x, torch.Tensor)]
    here = [isinstance(t, SecondTensor) for t in tensors]
    wanted = kwargs.get("device")
    if wanted is not None and (torch.device(wanted).index or 0) > 0:
        raise RuntimeError(f"invalid device ordinal: {wanted}")
    on_device = any(here) if wanted is None else torch.device(wanted).type == NAME
    if any(here) and func not in COPIES:
        _refuse_mixtures(func, tensors)
    generator = next((x for x in flat if isinstance(x, _Generator)), None)
    _check_generator(func, generator, on_device)
    if _waits(func, tensors, on_device, kwargs):
        WAITS[func.name(), source_line()] += 1
    result = _on_host(func, args, kwargs, on_device, generator)
    name = func._schema.name.split("::")[1]
    if not func._schema.returns:
        return None
    if name.endswith("_") and not name.endswith("__"):
        return args[0]
    if isinstance(kwargs.get("out"), torch.Tensor):
        return kwargs["out"]
    known = {id(_inner(t)): t for t in tensors}

    def wrapped(x):
        if not isinstance(x, torch.Tensor) or not on_device:
            return x
        if x.dtype in REFUSED_DTYPES:
            raise TypeError(f"{x.dtype} is not on this device, at {source_line()}")
        return known.get(id(x)) if id(x) in known else SecondTensor(x)

    return mapped(wrapped, result)


def _inner(x):
    return x.inner if isinstance(x, SecondTensor) else x


def _on_host(func, args, kwargs, on_device, generator):
    args, kwargs = mapped(_inner, args), mapped(_inner, kwargs)
    if kwargs.get("device") is not None and on_device:
        kwargs["device"] = torch.device("cpu")
    seeded = torch.Tag.nondeterministic_seeded in func.tags
    if not (on_device and seeded and generator is None):
        return func(*args, **kwargs)
    before = torch.get_rng_state()
    torch.set_rng_state(_rng.get_state())
    result = func(*args, **kwargs)
    _rng.set_state(torch.get_rng_state())
    torch.set_rng_state(before)
    return result


def _refuse_mixtures(func, tensors):
    strangers = [t for t in tensors if not isinstance(t, SecondTensor)]
    if func in INDEXED:  # CUDA, too, takes indices from the host
        strangers = [t for t in strangers if t.dtype not in (torch.int64, torch.bool)]
    else:
        strangers = [t for t in strangers if t.ndim]
    if strangers:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but {func} got "
            f"{[str(t.device) for t in tensors]} at {source_line()}"
        )


_all_ops = torch.library.Library("_", "IMPL")
_all_ops.fallback(lambda op, *args, **kwargs: run(op, args, kwargs), "PrivateUse1")
_all_ops.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
_autocast = torch.library.Library("aten", "IMPL", "AutocastPrivateUse1")
_factories = torch.library.Library("aten", "IMPL")  # whose C++ kernels would go first


def _lowered(op):
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def lower(x):
        is_float = isinstance(x, torch.Tensor) and x.dtype == torch.float32
        return x.to(torch.bfloat16) if is_float else x

    def call(*args, **kwargs):
        with torch._C._ExcludeDispatchKeyGuard(keys):
            return op(*mapped(lower, args), **mapped(lower, kwargs))

    return call


for _name in ("linear", "matmul", "mm", "addmm", "bmm", "conv2d", "baddbmm"):
    _autocast.impl(_name, _lowered(getattr(aten, _name).default))
_FACTORIES = """
    arange arange.start arange.start_step randperm randperm.generator linspace eye eye.m
    full rand rand.generator randn randn.generator randint randint.low randint.generator
    randint.low_generator empty.memory_format empty_strided zeros ones scalar_tensor
    tril_indices triu_indices
"""
for _name in _FACTORIES.split():
    _packet, _, _overload = _name.partition(".")
    _op = getattr(getattr(aten, _packet), _overload or "default")

    def _factory(*args, _op=_op, **kwargs):
        return run(_op, args, kwargs | {"device": kwargs.get("device") or DEVICE})

    _factories.impl(_name, _factory, "PrivateUse1")

# Python numbers become tensors in C++ without Python's dispatch: go by way of the host.
_tensor, _as_tensor, _new_tensor = torch.tensor, torch.as_tensor, torch.Tensor.new_tensor


def _is_for_us(data, device):
    told = device is not None and torch.device(device).type == NAME
    return told and not isinstance(data, torch.Tensor)


def tensor(data, *, device=None, requires_grad=False, **rest):
    """Replace torch.tensor."""
    if _is_for_us(data, device):
        return _tensor(data, **rest).to(device).requires_grad_(requires_grad)
    return _tensor(data, device=device, requires_grad=requires_grad, **rest)


def as_tensor(data, dtype=None, device=None):
    """Replace torch.as_tensor."""
    if _is_for_us(data, device):
        return _as_tensor(data, dtype=dtype).to(device)
    return _as_tensor(data, dtype=dtype, device=device)


def new_tensor(self, data, *, dtype=None, **rest):
    """Replace Tensor.new_tensor."""
    if isinstance(self, SecondTensor):
        return _tensor(data, dtype=dtype or self.dtype).to(DEVICE)
    return _new_tensor(self, data, dtype=dtype, **rest)


class _NoGrad(torch.no_grad):  # wrappers cannot be inference tensors
    def __new__(cls, mode=True):
        return cls()(mode) if callable(mode) else object.__new__(cls)

    def __init__(self, mode=True):
        super().__init__()
        self.mode = mode

    def __enter__(self):
        if self.mode:
            super().__enter__()

    def __exit__(self, *error):
        if self.mode:
            super().__exit__(*error)

    def clone(self):
        return _NoGrad(self.mode)


torch.tensor, torch.as_tensor, torch.Generator = tensor, as_tensor, SecondGenerator
torch.Tensor.new_tensor, torch.inference_mode = new_tensor, _NoGrad
torch.Tensor.pin_memory, torch.Tensor.is_pinned = pin_memory, is_pinned
