#include "harness/cli/cli.h"

int main(int argc, char** argv) { return moecheck::harness::run_command_line(argc, argv); }
