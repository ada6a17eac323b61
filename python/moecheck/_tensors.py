"""Tensors of torch or NumPy as the library's, and back."""
import ctypes as c
import importlib

from ._library import DLDataType, DLTensor, MoecheckError, Tensor, describe, fail, library, text

# moecheck's name: DLPack's code, bits, torch's name, NumPy's name (ml_dtypes' where NumPy has none)
DTYPES = {
    "f64": (2, 64, "float64", "float64"),
    "f32": (2, 32, "float32", "float32"),
    "bf16": (4, 16, "bfloat16", "bfloat16"),
    "f16": (2, 16, "float16", "float16"),
    "e4m3fn": (10, 8, "float8_e4m3fn", "float8_e4m3fn"),
    "e4m3fnuz": (11, 8, "float8_e4m3fnuz", "float8_e4m3fnuz"),
    "e5m2": (12, 8, "float8_e5m2", "float8_e5m2"),
    "e8m0": (14, 8, "float8_e8m0fnu", "float8_e8m0fnu"),
    "i64": (0, 64, "int64", "int64"),
    "i32": (0, 32, "int32", "int32"),
    "u8": (1, 8, "uint8", "uint8"),
}


def _module(name):
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


class Torch:
    name = "torch"

    def __init__(self):
        self.module = importlib.import_module("torch")

    def dtype(self, name):
        # A torch without this fp8 type passes its bytes.
        return getattr(self.module, DTYPES[name][2], self.module.uint8)

    def empty(self, shape, dtype):
        return self.module.empty(shape, dtype=self.dtype(dtype))

    def copy_of(self, address, shape, dtype, size):
        raw = self.module.frombuffer((c.c_uint8 * size).from_address(address), dtype=self.module.uint8).clone()
        return raw.view(self.dtype(dtype)).reshape(shape)

    def taken(self, value):
        """A tensor of ours on the host; anything with __dlpack__ is one."""
        torch = self.module
        if not isinstance(value, torch.Tensor):
            if not hasattr(value, "__dlpack__"):
                raise TypeError(f"a {type(value).__name__} is no tensor: return torch tensors, NumPy arrays or what has __dlpack__")
            value = torch.from_dlpack(value)
        return value.detach().cpu().contiguous()

    def address(self, tensor):
        return tensor.data_ptr()

    def dtype_name(self, tensor):
        for name, row in DTYPES.items():
            if getattr(self.module, row[2], None) == tensor.dtype:
                return name
        return str(tensor.dtype)

    def same_bytes(self, a, b):
        view = lambda t: t.reshape(-1).view(self.module.uint8)
        return a.numel() == 0 or self.module.equal(view(a), view(b))

    def moved(self, tensor, device):
        return tensor if device in (None, "cpu") else tensor.to(device)


class Numpy:
    name = "numpy"

    def __init__(self):
        self.module = importlib.import_module("numpy")

    def dtype(self, name):
        wanted = DTYPES[name][3]
        if hasattr(self.module, wanted):
            return self.module.dtype(wanted)
        extra = _module("ml_dtypes")
        if hasattr(extra, wanted):
            return self.module.dtype(getattr(extra, wanted))
        if DTYPES[name][1] == 8:
            return self.module.dtype("uint8")
        raise MoecheckError(f"NumPy has no {wanted}: install torch or ml_dtypes, or check cases without {name}")

    def empty(self, shape, dtype):
        return self.module.empty(shape, dtype=self.dtype(dtype))

    def copy_of(self, address, shape, dtype, size):
        raw = self.module.frombuffer((c.c_uint8 * size).from_address(address), dtype="uint8").copy()
        return raw.view(self.dtype(dtype)).reshape(shape)

    def taken(self, value):
        np = self.module
        if not isinstance(value, np.ndarray):
            if not hasattr(value, "__dlpack__"):
                raise TypeError(f"a {type(value).__name__} is no array: return NumPy arrays or what has __dlpack__")
            value = np.from_dlpack(value)
        return np.ascontiguousarray(value)

    def address(self, tensor):
        return tensor.ctypes.data

    def dtype_name(self, tensor):
        for name, row in DTYPES.items():
            if tensor.dtype.name == row[3]:
                return name
        return str(tensor.dtype)

    def same_bytes(self, a, b):
        return a.tobytes() == b.tobytes()

    def moved(self, tensor, device):
        if device not in (None, "cpu"):
            raise MoecheckError(f"device={device!r} needs torch")
        return tensor


def framework(name=None, like=()):
    """By name, or of these tensors, or torch where it is installed, else NumPy."""
    if name is None and any(type(value).__module__.partition(".")[0] == "torch" for value in like):
        name = "torch"
    if name is None:
        name = "torch" if _module("torch") and not any(type(v).__module__.partition(".")[0] == "numpy" for v in like) else "numpy"
    if name not in ("torch", "numpy"):
        raise MoecheckError(f"framework {name!r} is not known: it is 'torch' or 'numpy'")
    return Torch() if name == "torch" else Numpy()


def checked(fw, spec, value, what):
    """`value` as a tensor of the spec's dtype and shape."""
    tensor = fw.taken(value)
    given, wanted = fw.dtype_name(tensor), spec["dtype"]
    if given != wanted and not (given == "u8" and DTYPES[wanted][1] == 8):
        raise MoecheckError(f"{what} {spec['name']} is {given}, and must be {wanted} ({fw.name} {DTYPES[wanted][2]})")
    if list(tensor.shape) != spec["shape"]:
        raise MoecheckError(f"{what} {spec['name']} has shape {list(tensor.shape)}, and must have {spec['shape']}")
    return tensor


def named(fw, specs, values, what):
    """The dict `values` as tensors in the specs' order; nothing missing, nothing more."""
    if not isinstance(values, dict):
        raise MoecheckError(f"the {what}s must be a dict of {', '.join(s['name'] for s in specs)}, not a {type(values).__name__}")
    names = [s["name"] for s in specs]
    for name in names:
        if values.get(name) is None:
            raise MoecheckError(f"{what} {name} is missing: there must be {', '.join(names)}")
    for name in values:
        if name not in names and values[name] is not None:
            raise MoecheckError(f"there is no {what} {name!r} in this case: there are {', '.join(names)}")
    return [checked(fw, s, values[s["name"]], what) for s in specs]


def structs(fw, specs, tensors):
    """(how many, pointers) for the C API; the result keeps what it points at alive."""
    keep, pointers = [], (c.POINTER(Tensor) * max(1, len(specs)))()
    for i, (spec, tensor) in enumerate(zip(specs, tensors)):
        code, bits, _, _ = DTYPES[spec["dtype"]]
        shape = (c.c_int64 * max(1, len(spec["shape"])))(*spec["shape"])
        dl = DLTensor(data=fw.address(tensor) or None, ndim=len(spec["shape"]), dtype=DLDataType(code, bits, 1), shape=shape)
        dl.device.device_type = 1
        one = Tensor(c.sizeof(Tensor), 0, text(spec["name"]), text(spec["dtype"]), dl)
        keep += [shape, one, tensor]
        pointers[i] = c.pointer(one)
    pointers._keep = keep
    return len(specs), pointers


def generate(case, framework_name=None):
    """The inputs that moecheck makes for a case line: a dict of tensors."""
    fw = framework(framework_name)
    specs = accepted(case)["inputs"]
    tensors = [fw.empty(s["shape"], s["dtype"]) for s in specs]
    if library().moecheck_generate(text(case), *structs(fw, specs, tensors)):
        fail()
    return {s["name"]: t for s, t in zip(specs, tensors)}


def accepted(case):
    """describe(case), or an error where the case is refused."""
    d = describe(case)
    if d["refused"] is not None:
        raise MoecheckError(f"case '{d['case']}' is refused: {d['refused']}")
    return d
