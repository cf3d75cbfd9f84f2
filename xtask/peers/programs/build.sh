#!/usr/bin/env bash
# Compiles the programs: BPF objects and the native assembly are committed, so that nobody else needs clang.
set -euo pipefail
cd "$(dirname "$0")"
for name in pure maps helpers; do
    clang-19 -target bpf -mcpu=v3 -O2 -g -Wall -Werror -fno-ident -ffile-compilation-dir=. -c $name.c -o $name.o
    llvm-strip-19 --strip-debug $name.o
done
clang-19 -DNATIVE -O2 -fno-vectorize -fno-slp-vectorize -fPIC -fno-asynchronous-unwind-tables -fno-ident \
    -fno-addrsig -Wall -Werror -S pure.c -o pure.s
