"""A CUDA device that is not there: tensors that say they are on it, kept on the CPU, and a host that must not ask.

What a real device would refuse is refused: an operation on tensors of two devices. What makes the host wait is counted,
and refused where it is forbidden. Kernels run in Triton's interpreter; graphs are replayed by launching again.
"""

import contextlib

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from triton.runtime import interpreter

from barrow.ops import triton
from barrow.ops.triton import clouds
from barrow.ops.triton import sinkhorn as loop

FAR = torch.device("meta")  # which torch knows in every build
# Operations whose result the host must know before it goes on.
WAITS = {"_local_scalar_dense", "nonzero", "equal", "masked_select", "_linalg_eigh", "_unique2"}


class Far(Tensor):
    """A tensor on the device; ``near`` is where it really is."""

    @staticmethod
    def __new__(cls, near, requires_grad=False):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            near.shape,
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            device=FAR,
            requires_grad=requires_grad,
        )

    def __init__(self, near, requires_grad=False):
        self.near = near

    @property
    def is_cuda(self):
        return True

    def tolist(self):
        return self.near.tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} outside of the simulation")


def near(t):
    """Whatever it is, on the CPU."""
    return tree_map(lambda one: one.near if isinstance(one, Far) else one, t)


def far(t):
    """A copy on the device."""
    return Far(t.detach().clone(), t.requires_grad)


class Simulation(TorchDispatchMode):
    """While it lasts, there is a device."""

    def __init__(self):
        super().__init__()
        self.waits = []
        self.forbidden = False
        self.launches = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = func.overloadpacket.__name__
        tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
        there = [isinstance(t, Far) for t in tensors]
        # Copies lead from one to the other, and a device takes indices from the host.
        copies = name in ("_to_copy", "copy_") or (name in ("index", "index_put_") and there[0])
        alone = [t for t, is_far in zip(tensors, there, strict=True) if not is_far and t.dim() > 0]
        assert copies or not (any(there) and alone), f"{name} on two devices"
        asked = kwargs.get("device")
        if asked is not None:
            kwargs["device"] = torch.device("cpu")
        goes_far = torch.device(asked).type == FAR.type if asked is not None else any(there)
        if name == "copy_":
            goes_far = there[0]
        picks = name in ("index", "index_put_") and any(
            isinstance(t, Tensor) and t.dtype == torch.bool for t in args[1] if t is not None
        )
        leaves = any(there) and not goes_far and not (name == "copy_" and args[2:] == (True,))
        if any(there) and (name in WAITS or picks or leaves):
            assert not self.forbidden, f"{name} makes the host wait"
            self.waits.append(name)
        if (name.endswith("_") and not name.endswith("__")) or "out" in kwargs:
            func(*near(args), **near(kwargs))
            return kwargs.get("out", args[0])
        found = func(*near(args), **near(kwargs))
        return tree_map(lambda t: Far(t) if isinstance(t, Tensor) and goes_far else t, found)


def _made(make):
    """What makes tensors of numbers: it does not ask a simulation."""

    def made(data, *args, device=None, **options):
        goes_far = isinstance(data, Far) if device is None else torch.device(device).type == FAR.type
        found = make(near(data), *args, **options)
        return Far(found) if goes_far else found

    return made


class Moment:
    """A point in the queue of the device, which is always reached."""

    def record(self):
        pass

    def synchronize(self):
        pass


class Recording:
    """Launches that are replayed by launching again."""

    def __init__(self, state):
        self.state = state
        self.replays = 0

    def replay(self):
        self.replays += 1
        self.state.advance(self.state.chunk)


@contextlib.contextmanager
def device():
    """A device, for as long as this lasts. In the loops of the search the host must not wait for it."""
    simulation = Simulation()
    launch, drive = interpreter.GridExecutor.__call__, loop.Sweeps._drive_ahead

    def launched(self, *args, **options):
        tensors = [t for t in (*args, *options.values()) if isinstance(t, Tensor)]
        simulation.launches += 1
        assert all(isinstance(t, Far) for t in tensors) or not any(isinstance(t, Far) for t in tensors)
        with torch._C._DisableTorchDispatch():
            return launch(self, *near(args), **near(options))

    def watched(self, over):
        simulation.forbidden = True
        try:
            drive(self, over)
        finally:
            simulation.forbidden = False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "Event", Moment)
        patch.setattr(torch.cuda, "current_stream", Moment)
        patch.setattr(torch.cuda, "get_device_capability", lambda where: (9, 0))
        patch.setattr(clouds, "guard", lambda t: contextlib.nullcontext())
        patch.setattr(loop, "guard", lambda t: contextlib.nullcontext())
        patch.setattr(loop, "_flag", lambda: torch.ones((), dtype=torch.bool))
        patch.setattr(loop.Sweeps, "_record", lambda state: Recording(state))
        patch.setattr(loop.Sweeps, "_drive_ahead", watched)
        patch.setattr(triton, "plain", lambda *tensors: True)
        patch.setattr(interpreter.GridExecutor, "__call__", launched)
        patch.setattr(torch, "tensor", _made(torch.tensor))
        patch.setattr(torch, "as_tensor", _made(torch.as_tensor))
        with simulation:
            yield simulation
