/* A shared object, but no plug-in. C99: the header must be too. */
#include "harness/plugin/moecheck_plugin.h"

int something_else(const moecheck_call* call);
int something_else(const moecheck_call* call) { return moecheck_input(call, "router_logits") == NULL; }
