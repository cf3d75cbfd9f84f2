//! Pins, paths and mounts of the BPF file system.

#![forbid(unsafe_code)]
