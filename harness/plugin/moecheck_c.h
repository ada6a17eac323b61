/* The C API of libmoecheck.so: references, data, judging, and checking a function of yours, in your process. The Python package
 * (python/moecheck) is made of it. C99.
 *
 * Texts are UTF-8. A function that gives a char* gives JSON that the caller returns to moecheck_free; NULL, or a number other than
 * 0, is an error: moecheck_last_error says what was wrong and what to do. Calls from several threads are fine; the error is the
 * thread's own.
 *
 * Tensors are host memory, dense and row-major (strides NULL, or those of such a tensor). Of a moecheck_tensor the caller sets
 * struct_size, name and tensor; dtype may be NULL where the DLPack type says it, and is needed for fp8 in bytes (u8 with the
 * dtype's name beside). A set must be complete: the tensors that moecheck_describe lists for the case, in any order. */
#ifndef MOECHECK_C_H
#define MOECHECK_C_H

#include "moecheck_plugin.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Changes when a function below changes: compare it with MOECHECK_C_ABI. */
#define MOECHECK_C_ABI 1
MOECHECK_EXPORT int moecheck_c_abi(void);

MOECHECK_EXPORT const char* moecheck_library_version(void); /* "0.1.0 (commit)" */
MOECHECK_EXPORT const char* moecheck_last_error(void);
MOECHECK_EXPORT void moecheck_free(char* text);

/* The names of all operators: ["gating", ...]. */
MOECHECK_EXPORT char* moecheck_operators(void);

/* The case lines of a suite (quick, models, adversarial, full) that are not refused; of one policy, unless it is NULL. */
MOECHECK_EXPORT char* moecheck_cases(const char* op, const char* suite, const char* policy);

/* What a case line means: {"case": the shortest line, "operator", "fields": {name: text}, "refused": null or why,
 * "inputs": [{"name", "dtype", "shape", "doc", "in_place"}], "outputs": the same}. */
MOECHECK_EXPORT char* moecheck_describe(const char* case_line);

/* Fills the inputs of a case as `moecheck check` does. */
MOECHECK_EXPORT int moecheck_generate(const char* case_line, size_t n, const moecheck_tensor* const* inputs);

/* The reference's outputs for given inputs, rounded to the outputs' dtypes. */
MOECHECK_EXPORT int moecheck_reference(const char* case_line, size_t num_inputs, const moecheck_tensor* const* inputs,
                                       size_t num_outputs, const moecheck_tensor* const* outputs);

/* Judges outputs: {"verdict": "PASS", "failed": false, "text": what the command line would print, "cause", "reason",
 * "smallest", "record": the line of a records file}. `name` is what to call them. */
MOECHECK_EXPORT char* moecheck_judge(const char* case_line, size_t num_inputs, const moecheck_tensor* const* inputs,
                                     size_t num_outputs, const moecheck_tensor* const* outputs, const char* name);

/* Checks a function on a case as `moecheck check` checks an implementation: data, reference, run, judge and the clauses of the
 * contract. The result is moecheck_judge's. The function runs in this process: what crashes there ends it; a plug-in
 * (moecheck_plugin.h) is contained. */
enum {
  MOECHECK_CHECK_SHRINK = 1,    /* search the smallest case that fails in the same way */
  MOECHECK_CHECK_CLAUSES = 2,   /* run again: the same bytes twice and at other addresses, inputs unchanged */
  MOECHECK_CHECK_RELATIONS = 4  /* metamorphic relations, such as: permuted tokens give permuted rows, bit for bit */
};
/* As moecheck_operator::run, with the `user` pointer given beside it. */
typedef int (*moecheck_function)(void* user, const moecheck_call* call);
MOECHECK_EXPORT char* moecheck_check(const char* case_line, const char* name, moecheck_function run, void* user,
                                     uint32_t flags);

#ifdef __cplusplus
}
#endif

#endif
