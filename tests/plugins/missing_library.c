/* A plug-in that needs a library which is not there. */
#include "harness/plugin/moecheck_plugin.h"

int gone(void);
const moecheck_plugin* moecheck_plugin_v1(void) { return gone() ? NULL : NULL; }
