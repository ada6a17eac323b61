/* moecheck plug-ins: your kernel as a shared object that `moecheck check OPERATOR --impl ./libmine.so` runs and judges.
 *
 * Include this file alone (C99 or C++, no other file of moecheck is needed), define one function and build a shared object:
 *
 *   const moecheck_plugin* moecheck_plugin_v1(void);
 *
 * A walk through it: harness/plugin/README.md. Examples: examples/plugin/.
 *
 * What moecheck promises
 *  - The library is loaded, asked and run in child processes only. A crash, abort(), exit() or a run past --timeout costs the
 *    case it happened in, which becomes CRASH or TIMEOUT; the rest of the suite goes on in a new process. The library may
 *    therefore be loaded many times; no state survives from one process to another.
 *  - In one process there is one thread that calls, and one call at a time. `run` is only called for cases that `supports`
 *    accepted in the same process.
 *  - Tensors are dense and row-major, strides is NULL and byte_offset is 0. A tensor's first byte is aligned to 256 bytes, or,
 *    where the contract's clause "address_independent" is asked, to 16. A tensor of 0 elements may be passed.
 *  - Inputs are valid for the case; which inputs a case has is shown by `moecheck list operators` (optional ones are absent, not
 *    empty). Outputs hold a poison, but for those with in_place set, which start as a copy of the input of the same name.
 *  - Pointers passed to a call are valid until it returns. Strings are UTF-8 and end with a zero.
 *
 * What a plug-in promises
 *  - `run` writes every element of every output that the operator's contract names (README of harness/operators), nothing
 *    outside them and no input, keeps the floating-point environment, and has finished all its work when it returns; work put
 *    on call->stream counts as finished, because the harness waits for that stream.
 *  - The same inputs give the same bytes, for any call->threads and any address: the clauses "deterministic",
 *    "thread_independent", "address_independent", and the relations that `moecheck repro` lists. What cannot be kept is
 *    written into moecheck_operator::not_promised; it is then not asked, and reports show it as not promised.
 *  - Tables and their strings stay valid and unchanged while the library is loaded.
 *
 * Versions
 *  - abi_version is MOECHECK_PLUGIN_ABI. Another number is refused with a message. The name of the exported function carries it.
 *  - Every struct begins with struct_size, the sizeof of whoever made it. Later headers of the same ABI only add members at
 *    the end: the harness takes missing ones of yours as 0, and you test `call->struct_size` before you read a member that
 *    this header does not have. Structs of yours that are larger than the harness knows are fine.
 */
#ifndef MOECHECK_PLUGIN_H
#define MOECHECK_PLUGIN_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* DLPack's structs. The real header is used where it is found at <dlpack/dlpack.h> or was included before this one (as
 * ATen/dlpack.h does); else these declarations have the same layout (DLPack 0.6 and later). To include a dlpack.h from
 * elsewhere, include it before this file. */
#if !defined(DLPACK_DLPACK_H_) && defined(__has_include)
#if __has_include(<dlpack/dlpack.h>)
#include <dlpack/dlpack.h>
#endif
#endif
#ifndef DLPACK_DLPACK_H_
typedef int32_t DLDeviceType; /* an enum there; 4 bytes in both */
typedef struct {
  DLDeviceType device_type; /* MOECHECK_CPU, MOECHECK_CUDA, MOECHECK_ROCM */
  int32_t device_id;
} DLDevice;
typedef struct {
  uint8_t code; /* MOECHECK_DL_... */
  uint8_t bits;
  uint16_t lanes; /* 1 */
} DLDataType;
typedef struct {
  void* data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t* shape;   /* [ndim], in elements */
  int64_t* strides; /* NULL: row-major and dense */
  uint64_t byte_offset;
} DLTensor;
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define MOECHECK_PLUGIN_ABI 1u

/* Where the tensors of a call lie: DLPack's device types. */
enum {
  MOECHECK_CPU = 1, /* host memory; stream is NULL */
  MOECHECK_CUDA =
      2, /* device memory of device 0; stream is a cudaStream_t (CUstream) of the primary context, current here */
  MOECHECK_ROCM = 10 /* device memory of device 0; stream is a hipStream_t */
};

/* DLPack's type codes that moecheck's dtypes use. The fp8 ones are those of DLPack 1.1; older headers have no names for them. */
enum {
  MOECHECK_DL_INT = 0,   /* i32, i64 */
  MOECHECK_DL_UINT = 1,  /* u8 */
  MOECHECK_DL_FLOAT = 2, /* f64, f32, f16 */
  MOECHECK_DL_BFLOAT = 4,
  MOECHECK_DL_FLOAT8_E4M3FN = 10,
  MOECHECK_DL_FLOAT8_E4M3FNUZ = 11,
  MOECHECK_DL_FLOAT8_E5M2 = 12,
  MOECHECK_DL_FLOAT8_E8M0FNU = 14
};

/* A named tensor. */
typedef struct {
  uint32_t struct_size;
  uint32_t in_place; /* an output that starts as a copy of the input of its name */
  const char* name;  /* "router_logits": as `moecheck list operators` shows it */
  const char* dtype; /* moecheck's name: f64 f32 bf16 f16 e4m3fn e4m3fnuz e5m2 e8m0 i64 i32 u8 */
  DLTensor tensor;
} moecheck_tensor;

/* One field of a case as text: whole numbers in decimal, flags as 0 or 1, reals so that strtod gives the same double. */
typedef struct {
  const char* key;
  const char* value;
} moecheck_field;

/* A case. All fields of the operator are there, with defaults, model and policy resolved; so are "policy", "model" (may be
 * empty) and "seed". `moecheck list operators` explains each. */
typedef struct {
  uint32_t struct_size;
  uint32_t num_fields;
  const char* op;   /* "gating" */
  const char* line; /* the case line: what `moecheck repro` takes */
  const moecheck_field* fields;
} moecheck_case;

/* One run. */
typedef struct {
  uint32_t struct_size;
  uint32_t num_inputs, num_outputs;
  int32_t threads; /* how many threads a CPU version should use */
  const moecheck_case* c;
  const moecheck_tensor* const* inputs; /* not to be written */
  const moecheck_tensor* const* outputs;
  void* stream; /* see MOECHECK_CUDA; NULL on the CPU */
  char* error;  /* where a failing run puts its reason, zero-terminated */
  size_t error_size;
} moecheck_call;

/* A clause or relation of the contract that is not kept. */
typedef struct {
  const char* clause; /* "deterministic" */
  const char* reason; /* "atomics: the order of summation varies" */
} moecheck_exception;

typedef struct {
  uint32_t struct_size;
  int32_t device_type; /* MOECHECK_CPU, MOECHECK_CUDA or MOECHECK_ROCM: where its tensors shall lie */
  const char* name;    /* one that `moecheck list operators` lists; each at most once in a table */
  /* NULL when the case can be run; else why not (the case becomes SKIP with this reason). The text must stay valid until the
   * next call. A NULL function supports every case. No device memory exists yet. */
  const char* (*supports)(const moecheck_case* c);
  /* 0 when done. Anything else is a failure: FAIL with the text in call->error. A C++ exception that leaves it is one too. */
  int (*run)(const moecheck_call* call);
  const moecheck_exception* not_promised; /* ends with {NULL, NULL}; NULL: everything is promised */
} moecheck_operator;

typedef struct {
  uint32_t struct_size;
  uint32_t abi_version; /* MOECHECK_PLUGIN_ABI */
  const char* summary;  /* one line, may be NULL */
  uint32_t num_operators;
  uint32_t reserved; /* 0 */
  const moecheck_operator* const* operators;
} moecheck_plugin;

/* The one function a plug-in exports. It is called once per process, does no work and must not fail. */
#if defined(__GNUC__)
#define MOECHECK_EXPORT __attribute__((visibility("default")))
#else
#define MOECHECK_EXPORT
#endif
MOECHECK_EXPORT const moecheck_plugin* moecheck_plugin_v1(void);

/* ---- Helpers, compiled into the plug-in */

/* The text of a field; NULL when the operator has none of that name. */
static inline const char* moecheck_text(const moecheck_case* c, const char* key) {
  uint32_t i;
  for (i = 0; i < c->num_fields; ++i)
    if (strcmp(c->fields[i].key, key) == 0) return c->fields[i].value;
  return NULL;
}

/* A whole number or flag; 0 when there is no such field. */
static inline int64_t moecheck_int(const moecheck_case* c, const char* key) {
  const char* text = moecheck_text(c, key);
  return text == NULL ? 0 : (int64_t)strtoll(text, NULL, 10);
}

static inline double moecheck_real(const moecheck_case* c, const char* key) {
  const char* text = moecheck_text(c, key);
  return text == NULL ? 0 : strtod(text, NULL);
}

/* Whether a field has this text: moecheck_is(c, "policy", "vllm_cuda"). */
static inline int moecheck_is(const moecheck_case* c, const char* key, const char* value) {
  const char* text = moecheck_text(c, key);
  return text != NULL && strcmp(text, value) == 0;
}

static inline const DLTensor* moecheck_find(const moecheck_tensor* const* set, uint32_t n, const char* name) {
  uint32_t i;
  for (i = 0; i < n; ++i)
    if (strcmp(set[i]->name, name) == 0) return &set[i]->tensor;
  return NULL;
}

/* The tensor of that name; NULL when the case has none. */
static inline const DLTensor* moecheck_input(const moecheck_call* call, const char* name) {
  return moecheck_find(call->inputs, call->num_inputs, name);
}
static inline const DLTensor* moecheck_output(const moecheck_call* call, const char* name) {
  return moecheck_find(call->outputs, call->num_outputs, name);
}

/* Leaves `text` as the reason and gives what `run` returns then: return moecheck_fail(call, "no workspace"); */
static inline int moecheck_fail(const moecheck_call* call, const char* text) {
  if (call->error_size > 0) {
    size_t n = strlen(text);
    if (n >= call->error_size) n = call->error_size - 1;
    memcpy(call->error, text, n);
    call->error[n] = 0;
  }
  return 1;
}

#ifdef __cplusplus
}
#endif

#endif
