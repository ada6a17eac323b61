#!/usr/bin/env bash
# The main job from nothing: installs what is missing, builds, checks every operator and implementation on real model
# configurations, writes reports/latest/index.html. Ten minutes on two cores; again, under two.
source "$(dirname "$0")/common.sh"
start=$SECONDS

install_missing "$PACKAGES"
say_accelerators
configure_and_build release -DMOECHECK_TESTS=OFF

say "check --suite models"
mkdir -p reports/latest
code=0
build/release/moecheck check --suite models --records reports/latest/records.jsonl --report reports/latest/index.html || code=$?
say "done in $((SECONDS - start)) s; open reports/latest/index.html"
exit $code
