"""The C API of libmoecheck.so, as harness/plugin/moecheck_c.h declares it."""
import ctypes as c
import json
import os
import pathlib

ABI = 1
SHRINK, CLAUSES, RELATIONS = 1, 2, 4


class MoecheckError(ValueError):
    """What was given is wrong: an unknown name, a refused case, a tensor of another shape. The text says what to do."""


class DLDevice(c.Structure):
    _fields_ = [("device_type", c.c_int32), ("device_id", c.c_int32)]


class DLDataType(c.Structure):
    _fields_ = [("code", c.c_uint8), ("bits", c.c_uint8), ("lanes", c.c_uint16)]


class DLTensor(c.Structure):
    _fields_ = [("data", c.c_void_p), ("device", DLDevice), ("ndim", c.c_int32), ("dtype", DLDataType),
                ("shape", c.POINTER(c.c_int64)), ("strides", c.POINTER(c.c_int64)), ("byte_offset", c.c_uint64)]


class Tensor(c.Structure):
    _fields_ = [("struct_size", c.c_uint32), ("in_place", c.c_uint32), ("name", c.c_char_p), ("dtype", c.c_char_p),
                ("tensor", DLTensor)]


class Case(c.Structure):
    _fields_ = [("struct_size", c.c_uint32), ("num_fields", c.c_uint32), ("op", c.c_char_p), ("line", c.c_char_p),
                ("fields", c.c_void_p)]


class Call(c.Structure):
    _fields_ = [("struct_size", c.c_uint32), ("num_inputs", c.c_uint32), ("num_outputs", c.c_uint32),
                ("threads", c.c_int32), ("case", c.POINTER(Case)), ("inputs", c.POINTER(c.POINTER(Tensor))),
                ("outputs", c.POINTER(c.POINTER(Tensor))), ("stream", c.c_void_p), ("error", c.c_void_p),
                ("error_size", c.c_size_t)]


Tensors = c.POINTER(c.POINTER(Tensor))
Function = c.CFUNCTYPE(c.c_int, c.c_void_p, c.POINTER(Call))

_FUNCTIONS = {
    "moecheck_c_abi": (c.c_int, []),
    "moecheck_library_version": (c.c_char_p, []),
    "moecheck_last_error": (c.c_char_p, []),
    "moecheck_free": (None, [c.c_void_p]),
    "moecheck_operators": (c.c_void_p, []),
    "moecheck_cases": (c.c_void_p, [c.c_char_p, c.c_char_p, c.c_char_p]),
    "moecheck_describe": (c.c_void_p, [c.c_char_p]),
    "moecheck_generate": (c.c_int, [c.c_char_p, c.c_size_t, Tensors]),
    "moecheck_reference": (c.c_int, [c.c_char_p, c.c_size_t, Tensors, c.c_size_t, Tensors]),
    "moecheck_judge": (c.c_void_p, [c.c_char_p, c.c_size_t, Tensors, c.c_size_t, Tensors, c.c_char_p]),
    "moecheck_check": (c.c_void_p, [c.c_char_p, c.c_char_p, Function, c.c_void_p, c.c_uint32]),
}
_loaded = None


def _find():
    given = os.environ.get("MOECHECK_LIBRARY")
    path = pathlib.Path(given) if given else pathlib.Path(__file__).with_name("libmoecheck.so")
    if not path.is_file():
        raise ImportError(f"{path}: there is no such file: set MOECHECK_LIBRARY to libmoecheck.so, or install the package "
                          "with `pip install ./python` in moecheck's checkout")
    return str(path)


def library():
    """The loaded library; loaded once."""
    global _loaded
    if _loaded is None:
        path = _find()
        lib = c.CDLL(path)
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(lib, name)
            function.restype, function.argtypes = result, arguments
        if lib.moecheck_c_abi() != ABI:
            raise ImportError(f"{path} has C ABI {lib.moecheck_c_abi()}, this package needs {ABI}: install both from one checkout")
        _loaded = lib
    return _loaded


def text(value):
    return None if value is None else str(value).encode()


def fail():
    raise MoecheckError(library().moecheck_last_error().decode(errors="replace"))


def taken(pointer):
    """The JSON that a function gave."""
    if not pointer:
        fail()
    try:
        return json.loads(c.string_at(pointer).decode())
    finally:
        library().moecheck_free(pointer)


def library_version():
    return library().moecheck_library_version().decode()


def operators():
    """The names of all operators."""
    return taken(library().moecheck_operators())


def cases(operator, suite="quick", policy=None):
    """The case lines of a suite (quick, models, adversarial, full), of one policy where it is given."""
    return taken(library().moecheck_cases(text(operator), text(suite), text(policy)))


def describe(case):
    """What a case line means: fields, inputs and outputs, or why it is refused."""
    return taken(library().moecheck_describe(text(case)))
